package raftmux_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// propClient is store 1's Client, and the host around it.
type propClient struct {
	*raftmux.Client
	router   *propRouter
	resolver *rig.Resolver
	sender   *raftmux.Sender
}

// newPropClient returns a Client that finds store 2 at an address, unless that
// is "". It closes with the test, without patience.
func newPropClient(t testing.TB, address string, changes ...func(*raftmux.ClientOptions)) *propClient {
	t.Helper()
	c := &propClient{router: rig.NewRouter[raftmux.SnapshotStatus](t), resolver: rig.NewResolver()}
	if address != "" {
		c.resolver.Set(2, address)
	}
	options := raftmux.ClientOptions{
		StoreID:        1,
		Resolver:       c.resolver,
		Router:         c.router,
		BackoffStep:    5 * time.Millisecond,
		ConnectTimeout: rig.WaitTimeout,
		MaxMessageAge:  time.Hour,
	}
	for _, change := range changes {
		change(&options)
	}
	client, err := raftmux.NewClient(options)
	if err != nil {
		t.Fatal(err)
	}
	c.Client = client
	c.sender = client.NewSender()
	t.Cleanup(func() { _ = c.close(0) })
	return c
}

// close closes the Client, and says so to the router.
func (c *propClient) close(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	defer c.router.Closed()
	return c.Close(ctx)
}

func (c *propClient) mustSend(t testing.TB, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	for _, message := range messages {
		if err := c.sender.Send(message); err != nil {
			t.Fatal(err)
		}
	}
}

// sendFlush sends messages and flushes.
func (c *propClient) sendFlush(t testing.TB, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	c.mustSend(t, messages...)
	c.sender.Flush()
}

// fill sends until the queue to store 2 is full, and returns how many it took.
func (c *propClient) fill(t testing.TB, message *raft_serverpb.RaftMessage) (accepted int) {
	t.Helper()
	for {
		err := c.sender.Send(message)
		switch {
		case err == nil:
			accepted++
			c.sender.Flush()
		case errors.Is(err, raftmux.ErrFull):
			return accepted
		default:
			t.Errorf("send: %v", err)
			return accepted
		}
	}
}

// ledger sums the ledgers of all connections to store 2.
func (c *propClient) ledger() (sum raftmux.Ledger) {
	status, _ := c.Store(2)
	sum.Dropped = make(map[string]uint64)
	for _, connection := range status.Connections {
		sum.Accepted += connection.Ledger.Accepted
		sum.Sent += connection.Ledger.Sent
		sum.Queued += connection.Ledger.Queued
		sum.QueuedBytes += connection.Ledger.QueuedBytes
		for reason, n := range connection.Ledger.Dropped {
			sum.Dropped[reason] += n
		}
	}
	return sum
}

// connected counts the open streams to store 2.
func (c *propClient) connected() (n int) {
	status, _ := c.Store(2)
	for _, connection := range status.Connections {
		if connection.Connected {
			n++
		}
	}
	return n
}

// wakes sums the wake-ups of the connections to a store.
func (c *propClient) wakes(store uint64) (n uint64) {
	status, _ := c.Store(store)
	for _, connection := range status.Connections {
		n += connection.Wakes
	}
	return n
}

// waitEdges waits for so many edges of store 2.
func (c *propClient) waitEdges(t testing.TB, downs, ups int) {
	t.Helper()
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool {
		return e.StoreUnreachable(2) >= downs && e.StoreUp(2) >= ups
	}, fmt.Sprintf("store 2 is down %d times and up %d times", downs, ups))
	c.wantEdges(t, downs, ups)
}

func (c *propClient) wantEdges(t testing.TB, downs, ups int) {
	t.Helper()
	e := c.router.Events()
	if e.StoreUnreachable(2) != downs || e.StoreUp(2) != ups {
		t.Fatalf("down %d times and up %d times, want %d and %d", e.StoreUnreachable(2), e.StoreUp(2), downs, ups)
	}
}

// propWithin fails the test when f doesn't return in time, generously taken.
func propWithin(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(rig.WaitTimeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		t.Fatalf("%s: not within %v", what, rig.WaitTimeout)
	}
}

// propStep sets the backoff step.
func propStep(step time.Duration) func(*raftmux.ClientOptions) {
	return func(o *raftmux.ClientOptions) { o.BackoffStep = step }
}

// propConnections sets the connections per store.
func propConnections(n int) func(*raftmux.ClientOptions) {
	return func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = n }
}

// hangingDialer is a dialer that takes until its context ends, and how often it
// was called.
func hangingDialer(called chan<- struct{}) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		select {
		case called <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
}

// propServer is store 2 with raftmux's own Server.
type propServer struct {
	address string

	mu       sync.Mutex
	messages []*raft_serverpb.RaftMessage
}

func newPropServer(t testing.TB) *propServer {
	t.Helper()
	p := new(propServer)
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 2, Handler: p})
	if err != nil {
		t.Fatal(err)
	}
	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = grpcServer.Serve(listener) })
	t.Cleanup(func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		grpcServer.Stop()
		serving.Wait()
	})
	return p
}

// Step implements raftmux.Handler.
func (p *propServer) Step(message *raft_serverpb.RaftMessage) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.messages = append(p.messages, message)
	return nil
}

func (p *propServer) received() []*raft_serverpb.RaftMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.messages[:len(p.messages):len(p.messages)]
}

func (p *propServer) wait(t testing.TB, n int) {
	t.Helper()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return len(p.received()) >= n }, "%d messages", n)
}
