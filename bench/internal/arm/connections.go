package arm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
)

// blockedArm is raftmux with a receiver that never reads.
func blockedArm() Arm {
	return Arm{
		Name: "blocked",
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveUsual(o, func(*host) tikvpb.TikvServer { return blockedServer{} })
		},
		Dial: func(o DialOptions) (Sender, error) { return dialRaftmux(o, nil) },
	}
}

type blockedServer struct{ tikvpb.TikvServer }

// BatchRaft implements tikvpb.TikvServer.
func (blockedServer) BatchRaft(stream tikvpb.Tikv_BatchRaftServer) error {
	<-stream.Context().Done()
	return nil
}

// connectionsArm is for the memory of a sender that has a connection for
// heartbeats and one for appends to each store, and sends one of each: a
// raftmux.Client, or bare ClientConns if there are options for them. Each has
// a stream and a goroutine that waits for its end.
func connectionsArm(name string, options []grpc.DialOption) Arm {
	return Arm{
		Name: name,
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveUsual(o, func(h *host) tikvpb.TikvServer { return &usualServer{host: h} })
		},
		Dial: func(o DialOptions) (Sender, error) {
			if options == nil {
				sender, err := dialRaftmux(o, nil)
				if err != nil {
					return nil, err
				}
				return &muxOfEach{Flooder: sender.(*raftmuxSender), stores: len(o.Endpoint.Addresses)}, nil
			}
			return dialBare(o, options)
		},
	}
}

// lanes is the number of connections that raftmux has to a store.
const lanes = 2

// pair returns a store's heartbeat and its append.
func pair(store int) [lanes]*raft_serverpb.RaftMessage {
	m := load.Message{Region: uint64(store + 1), Store: uint64(load.FirstStore + store), Index: load.Commit + 1}
	appended := m
	appended.Kind, appended.Data = load.Append, make([]byte, 128)
	return [lanes]*raft_serverpb.RaftMessage{m.KV(), appended.KV()}
}

// muxOfEach sends the pairs by a Client.
type muxOfEach struct {
	Flooder
	stores int
}

// Ping implements Pinger. It doesn't wait for an answer.
func (m *muxOfEach) Ping() error {
	sender := m.Flooder.(*raftmuxSender).client.NewSender()
	defer sender.Close()
	for i := range m.stores {
		for _, message := range pair(i) {
			if err := sender.Send(message); err != nil {
				return err
			}
		}
	}
	return nil
}

// bareOptions are what gRPC does by itself.
func bareOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}
}

// alikeOptions are a Client's windows and keepalive.
func alikeOptions() []grpc.DialOption {
	return append(bareOptions(),
		grpc.WithInitialWindowSize(raftmux.DefaultWindowSize),
		grpc.WithInitialConnWindowSize(raftmux.DefaultWindowSize),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: raftmux.DefaultKeepaliveTime, Timeout: raftmux.DefaultKeepaliveTimeout,
		}),
	)
}

type bareConnections struct {
	closers
	cancel  context.CancelFunc
	waiting sync.WaitGroup
	streams []tikvpb.Tikv_BatchRaftClient
}

// dialBare makes all connections at the same time, as a Client does: goroutines that
// begin amid dialling have larger stacks from Go's runtime, and keep them.
func dialBare(o DialOptions, options []grpc.DialOption) (Sender, error) {
	if err := closeUnused(o.Back); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &bareConnections{cancel: cancel, streams: make([]tikvpb.Tikv_BatchRaftClient, lanes*len(o.Endpoint.Addresses))}
	opened := make(chan error, len(b.streams))
	for i := range b.streams {
		conn, err := grpc.NewClient("passthrough:///"+o.Endpoint.Addresses[i/lanes], options...)
		if err != nil {
			opened <- err
			continue
		}
		b.add(conn.Close)
		go func() {
			var err error
			b.streams[i], err = tikvpb.NewTikvClient(conn).BatchRaft(ctx)
			opened <- err
		}()
	}
	var failed error
	for range b.streams {
		failed = errors.Join(failed, <-opened)
	}
	if failed != nil {
		return nil, errors.Join(fmt.Errorf("connections: %w", failed), b.Close())
	}
	for _, stream := range b.streams {
		b.waiting.Go(func() { _ = stream.RecvMsg(new(raft_serverpb.Done)) }) // its end is all that comes
	}
	return b, nil
}

// Ping implements Pinger. It doesn't wait for an answer.
func (b *bareConnections) Ping() error {
	for i, stream := range b.streams {
		message := pair(i / lanes)[i%lanes]
		if err := stream.Send(&tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{message}}); err != nil {
			return fmt.Errorf("connections: %w", err)
		}
	}
	return nil
}

// Close implements Sender.
func (b *bareConnections) Close() error {
	b.cancel()
	err := b.closers.Close()
	b.waiting.Wait()
	return err
}
