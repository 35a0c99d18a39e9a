package raftmux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/deadlock"
	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// A grpc.Server that was built without GRPCServerOptions fails at the first
// batch, with an error that names the helper. If that batch is too large even for
// gRPC, which then answers by itself, the log names it. The log has one line, with
// the first peer that met it.
func TestServerWithoutItsOptions(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 10, "5 MiB": 5 << 20} {
		for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
			t.Run(fmt.Sprint(rpc, ", ", name), func(t *testing.T) {
				t.Parallel()
				var box inbox
				var log bytes.Buffer
				server, err := raftmux.NewServer(raftmux.ServerOptions{
					StoreID: there, Handler: &box, Logger: slog.New(slog.NewTextHandler(&log, nil)),
				})
				if err != nil {
					t.Fatal(err)
				}
				bare := grpc.NewServer()
				server.Register(bare)
				client := rig.NewRaftClient(t, serve(t, bare), rig.RaftClientOptions{StoreID: 7})
				for range 3 {
					stream := client.Open(t, rpc)
					_ = stream.Send(rig.Append(1, there, 2, 1, size))
					err := stream.Status(t)
					if size < 4<<20 && (err == nil || !strings.Contains(err.Error(), "GRPCServerOptions")) ||
						size > 4<<20 && status.Code(err) != codes.ResourceExhausted {
						t.Errorf("ended with %v", err)
					}
				}
				if err := server.Close(t.Context()); err != nil || len(box.all()) != 0 {
					t.Errorf("close: %v, %d messages", err, len(box.all()))
				}
				if n := strings.Count(log.String(), "msg=\"this grpc.Server was built without raftmux.GRPCServerOptions"); n != 1 ||
					strings.Count(log.String(), "\n") != 1 ||
					!strings.Contains(log.String(), "source_store_id=7 addr=127.0.0.1:") {
					t.Errorf("the log names the helper %d times:\n%s", n, log.String())
				}
			})
		}
	}
}

// entries is another kvproto service.
type entries struct {
	deadlock.UnimplementedDeadlockServer
}

func (*entries) GetWaitForEntries(context.Context, *deadlock.WaitForEntriesRequest) (*deadlock.WaitForEntriesResponse, error) {
	return &deadlock.WaitForEntriesResponse{Entries: []deadlock.WaitForEntry{{Txn: 7, Key: []byte("key")}}}, nil
}

// Health, which is google protobuf, and another kvproto service work on the same
// grpc.Server, beside running streams; what isn't ours answers UNIMPLEMENTED.
func TestServerBesideOthers(t *testing.T) {
	t.Parallel()
	var box inbox
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: there, Handler: &box})
	if err != nil {
		t.Fatal(err)
	}
	host := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(host)
	healthpb.RegisterHealthServer(host, health.NewServer())
	deadlock.RegisterDeadlockServer(host, new(entries))
	client := rig.NewRaftClient(t, serve(t, host), rig.RaftClientOptions{})
	t.Cleanup(func() { _ = server.Close(context.Background()) })
	stream := client.Open(t, rig.BatchRaft)
	ctx, cancel := context.WithTimeout(t.Context(), rig.WaitTimeout)
	defer cancel()
	for i := range 3 {
		if err := stream.Send(rig.Ack(1, there, 2)); err != nil {
			t.Fatal(err)
		}
		box.wait(t, i+1)
		answer, err := healthpb.NewHealthClient(client.Conn()).Check(ctx, new(healthpb.HealthCheckRequest))
		if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health answered %v, %v", answer, err)
		}
		waits, err := deadlock.NewDeadlockClient(client.Conn()).GetWaitForEntries(ctx, new(deadlock.WaitForEntriesRequest))
		if err != nil || len(waits.GetEntries()) != 1 || waits.Entries[0].GetTxn() != 7 || string(waits.Entries[0].GetKey()) != "key" {
			t.Errorf("the other kvproto service answered %v, %v", waits, err)
		}
	}
	snapshot, err := tikvpb.NewTikvClient(client.Conn()).Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = snapshot.Send(&raft_serverpb.SnapshotChunk{Message: rig.Snapshot(1, there, 2, 10)})
	if _, err := snapshot.CloseAndRecv(); status.Code(err) != codes.Unimplemented {
		t.Errorf("Snapshot answered %v", err)
	}
	if _, err := tikvpb.NewTikvClient(client.Conn()).KvGet(ctx, new(kvrpcpb.GetRequest)); status.Code(err) != codes.Unimplemented {
		t.Errorf("KvGet answered %v", err)
	}
}

// The headers come at once: by them a raftmux store knows that the peer is up,
// and which store and version it is (C10, C16, C23).
func TestServerSendsHeadersAtOnce(t *testing.T) {
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		header := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc).Header(t)
		if id, version := header.Get("raftmux-store-id"), header.Get("raftmux-version"); len(id) != 1 || id[0] != "2" ||
			len(version) != 1 || version[0] != "1" || len(header.Get("raftmux-capabilities")) != 1 {
			t.Errorf("%s: headers %v", rpc, header)
		}
	}
	h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Minute })
	h.resolver.Set(there, server.addr)
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 1 }, "up, before a backoff step")
}

// C24: Close ends all streams, may be called again, and lets GracefulStop return;
// nothing is handed over afterwards, and no stream taken.
func TestServerClose(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	client := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{})
	streams := []*rig.RaftStream{client.Open(t, rig.BatchRaft), client.Open(t, rig.Raft), client.Open(t, rig.BatchRaft)}
	for i, stream := range streams {
		if err := stream.Send(rig.Ack(1, there, 2)); err != nil {
			t.Fatal(err)
		}
		box.wait(t, i+1)
	}
	for range 2 {
		if err := server.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	late := client.Open(t, rig.BatchRaft)
	_ = late.Send(rig.Ack(1, there, 2))
	for i, stream := range append(streams, late) {
		_ = stream.Send(rig.Ack(1, there, 2))
		if err := stream.Status(t); status.Code(err) != codes.Unavailable {
			t.Errorf("stream %d ended with %v", i, err)
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		server.grpc.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-time.After(rig.WaitTimeout):
		t.Error("GracefulStop waits for streams after Close")
	}
	if stats := server.Stats(); len(box.all()) != 3 || stats.Streams != 0 {
		t.Errorf("%d messages at the host, stats %+v", len(box.all()), stats)
	}
}

// C24: Close is bounded by its context when a handler doesn't return, says so, and
// succeeds once it has.
func TestServerCloseIsBounded(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	server := newReceiving(t, raftmux.ServerOptions{CloseTimeout: 20 * time.Millisecond, Handler: handlerFunc(func(*raft_serverpb.RaftMessage) error {
		close(entered)
		<-gate
		return nil
	})})
	stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	if err := stream.Send(rig.Ack(1, there, 2)); err != nil {
		t.Fatal(err)
	}
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	// Without a deadline, the option bounds it.
	for _, ctx := range []context.Context{ctx, context.Background()} {
		err := server.Close(ctx)
		if !errors.Is(err, raftmux.ErrServerClosed) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not returned (of store 1): ") {
			t.Errorf("answered %q", err)
		}
	}
	close(gate)
	ctx, cancel = context.WithTimeout(t.Context(), rig.WaitTimeout) // longer than the option
	defer cancel()
	if err := server.Close(ctx); err != nil {
		t.Errorf("answered %v after the handler has returned", err)
	}
}

// C24: where nothing is running there is nothing to run out of time for: a ctx that has
// ended, because the Client needed all of it, is no failure.
func TestServerCloseNeedsNoTime(t *testing.T) {
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := server.Close(ctx); err != nil {
			t.Errorf("answered %v", err)
		}
	}
}

// C24: a deadline of Close's context is kept, and the option doesn't shorten it.
func TestServerCloseKeepsTheDeadline(t *testing.T) {
	t.Parallel()
	entered, gate := make(chan struct{}), make(chan struct{})
	server := newReceiving(t, raftmux.ServerOptions{CloseTimeout: time.Millisecond, Handler: handlerFunc(func(*raft_serverpb.RaftMessage) error {
		close(entered)
		<-gate
		return nil
	})})
	client := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{})
	idle, stream := client.Open(t, rig.BatchRaft), client.Open(t, rig.BatchRaft)
	idle.Header(t)
	if err := stream.Send(rig.Ack(1, there, 2)); err != nil {
		t.Fatal(err)
	}
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), rig.WaitTimeout)
	defer cancel()
	answer := make(chan error)
	go func() { answer <- server.Close(ctx) }()
	_ = idle.Status(t) // Close has begun, with the handler still there
	close(gate)
	if err := <-answer; err != nil {
		t.Errorf("answered %v", err)
	}
}
