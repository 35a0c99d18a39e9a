package raftmux_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/resolver/static"
)

// host is what a real host would be: it takes messages, and reports.
type host struct{ received chan string }

func (h host) Step(message *raft_serverpb.RaftMessage) error {
	h.received <- fmt.Sprint("region ", message.RegionId, ": ", message.Message.MsgType)
	return nil
}

func (h host) ReportUnreachable(regionID, peerID uint64) bool { return true }
func (h host) StoreUnreachable(storeID uint64) bool           { return true }
func (h host) StoreUp(storeID uint64) bool                    { return true }
func (h host) ReportSnapshotStatus(regionID, peerID uint64, status raftmux.SnapshotStatus) bool {
	return true
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	ctx, host := context.Background(), host{received: make(chan string, 1)}
	// Store 2 receives.
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 2, Handler: host, Logger: slog.Default()})
	must(err)
	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go grpcServer.Serve(listener)
	// Store 1 sends.
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: 1, Resolver: static.Stores{2: listener.Addr().String()}, Router: host, Logger: slog.Default(),
	})
	must(err)
	sender := client.NewSender() // one per Raft worker
	must(sender.Send(&raft_serverpb.RaftMessage{
		RegionId: 7, ToPeer: &metapb.Peer{Id: 72, StoreId: 2},
		Message: &eraftpb.Message{MsgType: eraftpb.MessageType_MsgHeartbeat, From: 71, To: 72},
	}))
	sender.Flush() // once per round of the worker
	fmt.Println(<-host.received)
	must(client.Close(ctx))
	must(server.Close(ctx))
	grpcServer.Stop()
	// Output: region 7: MsgHeartbeat
}
