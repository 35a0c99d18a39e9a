package snapshot_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/resolver/static"
	"github.com/raftmux/raftmux/snapshot"
)

// Store 1 sends a snapshot of region 7, which is a file, to store 2.
func Example() {
	dir, err := os.MkdirTemp("", "snapshot")
	must(err)
	defer os.RemoveAll(dir)
	ctx := context.Background()

	// Store 2 keeps what it receives in a folder, and is told of each snapshot.
	store, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{
		Dir: filepath.Join(dir, "received"),
		Deliver: func(_ context.Context, m *raft_serverpb.RaftMessage, path string) error {
			data, err := os.ReadFile(path)
			fmt.Printf("region %d: %s\n", m.GetRegionId(), data) // apply it, and step m into Raft
			return err
		},
	})
	must(err)
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 2, Sink: store})
	must(err)
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 2, Handler: nobody{}, SnapshotReceiver: receiver})
	must(err)
	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go func() { _ = grpcServer.Serve(listener) }()

	// Store 1 has a file for each snapshot.
	file, err := snapshot.CreateFile(filepath.Join(dir, "7"))
	must(err)
	_, err = file.Write([]byte("all keys of the region"))
	must(err)
	must(file.Commit())
	sender, err := snapshot.NewSender(snapshot.SenderOptions{
		StoreID: 1,
		Source: snapshot.FileSource(func(_ context.Context, m *raft_serverpb.RaftMessage) (string, error) {
			return filepath.Join(dir, fmt.Sprint(m.GetRegionId())), nil
		}),
	})
	must(err)
	ended := make(chan raftmux.SnapshotStatus, 1)
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: 1, Resolver: static.Stores{2: listener.Addr().String()}, Router: reports{ended}, SnapshotSender: sender,
	})
	must(err)
	worker := client.NewSender()
	must(worker.Send(&raft_serverpb.RaftMessage{
		RegionId: 7, FromPeer: &metapb.Peer{Id: 71, StoreId: 1}, ToPeer: &metapb.Peer{Id: 72, StoreId: 2},
		Message: &eraftpb.Message{
			MsgType: eraftpb.MessageType_MsgSnapshot, From: 71, To: 72, Term: 3,
			Snapshot: &eraftpb.Snapshot{Metadata: &eraftpb.SnapshotMetadata{Index: 100, Term: 3}},
		},
	}))
	fmt.Println("finished:", <-ended == raftmux.SnapshotFinish)

	must(client.Close(ctx))
	sender.Close()
	must(server.Close(ctx))
	receiver.Close()
	grpcServer.Stop()
	// Output:
	// region 7: all keys of the region
	// finished: true
}

// reports is a host that waits for the end of a snapshot.
type reports struct{ ended chan raftmux.SnapshotStatus }

func (reports) ReportUnreachable(uint64, uint64) bool { return true }
func (reports) StoreUnreachable(uint64) bool          { return true }
func (reports) StoreUp(uint64) bool                   { return true }
func (r reports) ReportSnapshotStatus(_, _ uint64, status raftmux.SnapshotStatus) bool {
	r.ended <- status
	return true
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
