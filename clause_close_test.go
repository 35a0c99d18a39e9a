package raftmux_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C19: goroutines grow with connections, and not with regions or messages.
func TestC19Goroutines(t *testing.T) {
	const connections = 4
	peer := rig.NewPeer(t, rig.PeerOptions{})
	before := runtime.NumGoroutine()
	c := newPropClient(t, peer.Addr(), propConnections(connections), func(o *raftmux.ClientOptions) { o.QueueMessages = 1 << 20 })
	c.connectAll(t, connections)
	peer.WaitMessages(t, 64)
	few := runtime.NumGoroutine()
	// Both ends are in this process.
	if perConnection := (few - before) / connections; perConnection > 20 {
		t.Errorf("%d goroutines per connection", perConnection)
	}
	most := few
	for region := range uint64(10_000) {
		c.mustSend(t, rig.Ack(region+1, 2, region+1), rig.Append(region+1, 2, region+1, 1, 10))
		if region%100 == 0 {
			c.sender.Flush()
			most = max(most, runtime.NumGoroutine())
		}
	}
	c.sender.Flush()
	peer.WaitMessages(t, 64+20_000)
	if most > few+2*connections {
		t.Errorf("%d goroutines with 10,000 regions, %d with few", most, few)
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return runtime.NumGoroutine() <= few }, "as few goroutines as with few regions")
}

// C24: Close is bounded in every state, ten calls at a time return the same, and
// no goroutine is left.
func TestC24CloseInEveryState(t *testing.T) {
	states := propStuck()
	states["idle"] = func(t *testing.T, changes ...func(*raftmux.ClientOptions)) *propClient {
		return newPropClient(t, "", changes...)
	}
	states["up and idle"] = func(t *testing.T, changes ...func(*raftmux.ClientOptions)) *propClient {
		peer := rig.NewPeer(t, rig.PeerOptions{})
		c := newPropClient(t, peer.Addr(), changes...)
		c.sendFlush(t, rig.Ack(1, 2, 3))
		peer.WaitMessages(t, 1)
		return c
	}
	states["with a snapshot"] = func(t *testing.T, changes ...func(*raftmux.ClientOptions)) *propClient {
		called := make(chan struct{})
		c := newPropClient(t, rig.DeadAddress(t), append(changes, func(o *raftmux.ClientOptions) {
			o.SnapshotSender = propSnapshotSender(func(ctx context.Context) error {
				close(called)
				<-ctx.Done()
				return ctx.Err()
			})
		})...)
		c.mustSend(t, rig.Snapshot(1, 2, 3, 10))
		<-called
		return c
	}
	for name, reach := range states {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			c := reach(t)
			others := runtime.NumGoroutine()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			begun := time.Now()
			var results [10]error
			var calls sync.WaitGroup
			for i := range results {
				calls.Go(func() { results[i] = c.Close(ctx) })
			}
			calls.Wait()
			c.router.Closed()
			if took := time.Since(begun); took > propSlack {
				t.Errorf("Close took %v", took)
			}
			for i, err := range append(results[:], c.Close(ctx), c.close(0)) {
				if err != nil {
					t.Errorf("call %d: %v", i, err)
				}
			}
			for _, status := range c.Stores() {
				for _, connection := range status.Connections {
					l := connection.Ledger
					if l.Queued != 0 || l.Accepted != l.Sent+l.DroppedTotal() {
						t.Errorf("%+v", l)
					}
				}
			}
			if name != "idle" { // the Client's own have gone, with those at the other end
				rig.Eventually(t, rig.WaitTimeout, func() bool { return runtime.NumGoroutine() < others }, "fewer than %d goroutines, %d before", others, before)
			}
		})
	}
}

// C24: Close without a deadline is bounded, too.
func TestC24CloseWithoutDeadline(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
	c := newPropClient(t, peer.Addr())
	c.stall(t)
	begun := time.Now()
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}
	c.router.Closed()
	if took := time.Since(begun); took > raftmux.DefaultCloseTimeout+propSlack {
		t.Errorf("it took %v", took)
	}
}

// C24: what was flushed before Close arrives, even if nothing is connected yet.
func TestC24FlushedMessagesArrive(t *testing.T) {
	const messages = 2000
	peer := rig.NewPeer(t, rig.PeerOptions{})
	server := newPropServer(t)
	for name, to := range map[string]struct {
		address  string
		received func() int
	}{
		"kvproto": {peer.Addr(), peer.Count},
		"raftmux": {server.address, func() int { return len(server.received()) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPropClient(t, to.address, propConnections(4))
			for i := range uint64(messages) {
				c.mustSend(t, rig.Append(i%64+1, 2, 3, 1, 1000))
			}
			c.sender.Flush()
			if err := c.close(rig.WaitTimeout); err != nil {
				t.Error(err)
			}
			if l := c.ledger(); l.Sent != messages || to.received() != messages {
				t.Errorf("%+v, %d received", l, to.received())
			}
			if e := c.router.Events(); e.Total(rig.Unreachable)+e.StoreUnreachable(2) != 0 {
				t.Errorf("%+v", e)
			}
		})
	}
}

// C24: Close doesn't wait for the end of a pause: what waits for the next stream
// is sent on it.
func TestC24CloseSendsWhatWaits(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Hour))
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	peer.WaitMessages(t, 1)
	peer.EndStreams(errPropBroken)
	c.waitEdges(t, 1, 1)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 }, "the stream ended")
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	if l := c.ledger(); l.Sent != 2 || peer.Count() != 2 {
		t.Errorf("%+v, %d received", l, peer.Count())
	}
}

// C24: Close ends when there is nothing left to send, whatever time it has.
func TestC24CloseEndsWithTheQueue(t *testing.T) {
	proxy := rig.NewProxy(t, rig.DeadAddress(t))
	proxy.SetMode(rig.BlackHole)
	c := newPropClient(t, proxy.Addr(), propStep(time.Millisecond),
		func(o *raftmux.ClientOptions) { o.ConnectTimeout = 50 * time.Millisecond })
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	propWithin(t, "Close", func() { _ = c.Close(ctx) })
}

// C24: nor does it wait for the answer to a look-up that nobody needs any more.
func TestC24CloseLeavesTheLookUp(t *testing.T) {
	c := newPropClient(t, "", func(o *raftmux.ClientOptions) { o.ConnectTimeout = time.Hour }) // of the look-up, too
	t.Cleanup(c.resolver.Block(2))
	c.mustSend(t, rig.Append(1, 2, 3, 1, 10)) // never flushed
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := c.resolver.InFlight(2); return now == 1 }, "the look-up")
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	propWithin(t, "Close", func() { _ = c.Close(ctx) })
}

// C24: gRPC waits for seconds to say good-bye to a peer that reads nothing. Close doesn't.
func TestC24CloseSaysNoGoodBye(t *testing.T) {
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)}) // its window is larger than what sockets take
	proxy := rig.NewProxy(t, server.addr)
	c := newPropClient(t, proxy.Addr())
	c.sendFlush(t, rig.Ack(1, 2, 3))
	c.waitEdges(t, 0, 1)
	proxy.SetMode(rig.Stall)
	for range 100 {
		c.sendFlush(t, rig.Append(1, 2, 3, 1, 64<<10))
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return held(c) > 0 && c.ledger().Queued > 0 }, "gRPC has what it can't write")
	time.Sleep(200 * time.Millisecond) // until the sockets have taken what they do
	begun := time.Now()
	_ = c.close(0)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}
