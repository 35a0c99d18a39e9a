package etcdraft_test

import (
	"context"
	"fmt"
	"net"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/resolver/static"
	"github.com/raftmux/raftmux/snapshot"
)

// printing is a host that only prints what it is told.
type printing struct{ ended chan raftmux.SnapshotStatus }

// Step implements etcdraft.Handler. A host would give the message to its worker.
func (printing) Step(header etcdraft.Header, message *raftpb.Message) error {
	fmt.Printf("region %d: %v up to %d: %s\n", header.RegionID, message.GetType(),
		message.GetSnapshot().GetMetadata().GetIndex(), message.GetSnapshot().GetData())
	return nil
}

func (printing) ReportUnreachable(uint64, uint64) bool { return true }
func (printing) StoreUnreachable(uint64) bool          { return true }
func (printing) StoreUp(uint64) bool                   { return true }

func (p printing) ReportSnapshotStatus(_, _ uint64, status raftmux.SnapshotStatus) bool {
	p.ended <- status
	return true
}

// Snapshots whose data is in their messages, as MemoryStorage has them.
func ExampleDeliver() {
	ctx, host := context.Background(), printing{make(chan raftmux.SnapshotStatus, 1)}
	inline := snapshot.Inline{Deliver: func(_ context.Context, m *raft_serverpb.RaftMessage) error {
		return etcdraft.Deliver(host, m)
	}}
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 2, Sink: inline})
	must(err)
	server, err := raftmux.NewServer(raftmux.ServerOptions{
		StoreID: 2, NewReceiver: etcdraft.NewReceiver(host), SnapshotReceiver: receiver,
	})
	must(err)
	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go func() { _ = grpcServer.Serve(listener) }()

	snapshots, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: inline})
	must(err)
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: 1, Resolver: static.Stores{2: listener.Addr().String()}, Router: host, SnapshotSender: snapshots,
	})
	must(err)
	sender := etcdraft.NewSender(client.NewSender())
	must(sender.Send(
		etcdraft.Header{RegionID: 7, From: etcdraft.Peer{ID: 71, StoreID: 1}, To: etcdraft.Peer{ID: 72, StoreID: 2}},
		&raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(71), To: proto.Uint64(72), Term: proto.Uint64(3),
			Snapshot: &raftpb.Snapshot{
				Data: []byte("all keys"),
				Metadata: &raftpb.SnapshotMetadata{
					Index: proto.Uint64(100), Term: proto.Uint64(3), ConfState: &raftpb.ConfState{Voters: []uint64{71, 72}},
				},
			},
		}))
	fmt.Println("finished:", <-host.ended == raftmux.SnapshotFinish)

	must(client.Close(ctx))
	snapshots.Close()
	must(server.Close(ctx))
	receiver.Close()
	grpcServer.Stop()
	// Output:
	// region 7: MsgSnap up to 100: all keys
	// finished: true
}
