package raftmux_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// connectAll sends to so many regions that every connection has a stream.
func (c *propClient) connectAll(t *testing.T, n int) {
	t.Helper()
	for region := range uint64(64) {
		c.mustSend(t, rig.Ack(region+1, 2, 3))
	}
	c.sender.Flush()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == n && c.ledger().Queued == 0 }, "%d streams", n)
}

// C10: the ends of four connections are one broadcast, and so is what follows
// within a backoff step.
func TestC10OneBroadcastForAllConnections(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Hour), propConnections(4))
	c.connectAll(t, 4)
	c.waitEdges(t, 0, 1)
	peer.WaitMessages(t, 64)
	peer.EndStreams(errPropBroken)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 }, "all streams ended")
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.StoreUnreachable(2) > 0 }, "the broadcast")
	if status, _ := c.Store(2); status.State != raftmux.StoreDown {
		t.Errorf("the store is %v", status.State)
	}
	// A connection whose headers were read only after another's end was told has
	// brought the store up once more: of its own end the host may hear at Close.
	ups := c.router.Events().StoreUp(2)
	c.wantEdges(t, 1, ups)
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	if downs := c.router.Events().StoreUnreachable(2); downs > min(ups, 2) {
		t.Errorf("down %d times, up %d times", downs, ups)
	}
}

// C10: a store that comes back within the step, and goes again, went down: the
// host believes that it is up. It hears of it at Close at the latest.
func TestC10DeferredEdgeIsTold(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Hour), propConnections(8))
	c.sendFlush(t, rig.Ack(1, 2, 3))
	peer.WaitMessages(t, 1)
	c.waitEdges(t, 0, 1)
	peer.EndStreams(errPropBroken)
	c.waitEdges(t, 1, 1)
	// Regions that use another connection bring the store up again.
	for region := uint64(2); c.router.Events().StoreUp(2) < 2; region++ {
		c.sendFlush(t, rig.Ack(region, 2, 3))
		if c.connectionsUsed() > 1 {
			c.waitEdges(t, 1, 2)
		}
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return peer.Count() > 1 }, "a message on the other connection")
	peer.EndStreams(errPropBroken)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 }, "all streams ended")
	c.wantEdges(t, 1, 2)
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	if c.router.Events().StoreUnreachable(2) != 2 {
		t.Errorf("%+v", c.router.Events())
	}
}

// C10: a down edge is told late, when the store is up again by another connection. The
// host hears that, too, though no connection comes up after the edge was told.
func TestC10DeferredEdgeThenUp(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Second), propConnections(2))
	c.sendFlush(t, rig.Ack(1, 2, 3))
	peer.WaitMessages(t, 1)
	c.waitEdges(t, 0, 1)
	peer.EndStreams(errPropBroken)
	c.waitEdges(t, 1, 1)
	c.sendFlush(t, rig.Heartbeat(1, 2, 3)) // by the control connection
	peer.WaitMessages(t, 2)
	c.waitEdges(t, 1, 2)
	peer.EndStreams(errPropBroken) // within the step: it is to be told of later
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 }, "all streams ended")
	for region := uint64(2); c.connectionsUsed() < 3; region++ {
		c.mustSend(t, rig.Ack(region, 2, 3))
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() > 0 }, "the other data connection")
	t.Cleanup(c.resolver.Block(2)) // the others stay away
	c.waitEdges(t, 2, 3)
}

func (c *propClient) connectionsUsed() int {
	status, _ := c.Store(2)
	return len(status.Connections)
}

// C10: a store that is never reached is down once, however often it is tried.
func TestC10NeverReachedIsToldOnce(t *testing.T) {
	for name, address := range map[string]func(t *testing.T) string{
		"nobody listens": func(t *testing.T) string { return rig.DeadAddress(t) },
		"it refuses": func(t *testing.T) string {
			proxy := rig.NewProxy(t, rig.DeadAddress(t))
			proxy.SetMode(rig.Refuse)
			return proxy.Addr()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPropClient(t, address(t), propStep(time.Millisecond), propConnections(4))
			for region := range uint64(64) {
				c.mustSend(t, rig.Ack(region+1, 2, 3)) // never flushed: nothing is carried
			}
			rig.Eventually(t, rig.WaitTimeout, func() bool { return c.resolver.Lookups(2) > 8 }, "it is tried again and again")
			c.waitEdges(t, 1, 0)
			_ = c.close(0)
			c.wantEdges(t, 1, 0)
		})
	}
}

// C10: a peer that knows neither RPC is down once, for all connections.
func TestC10NeitherRPCIsToldOnce(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, NoRaft: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Hour), propConnections(4))
	release := c.resolver.Block(2)
	for region := range uint64(64) {
		c.mustSend(t, rig.Ack(region+1, 2, 3)) // never flushed: nothing is carried
	}
	release()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.ledger().Dropped["unimplemented"] == 64 }, "all is dropped")
	_ = c.close(0)
	c.wantEdges(t, 1, 0)
}

// C10: a failed resolve broadcasts nothing.
func TestC10FailedResolveIsSilent(t *testing.T) {
	for name, err := range map[string]error{
		"failed": errPropBroken, "not found": raftmux.ErrStoreNotFound, "tombstone": raftmux.ErrTombstone,
	} {
		t.Run(name, func(t *testing.T) {
			c := newPropClient(t, "", propStep(time.Millisecond))
			c.resolver.SetError(2, err)
			c.sendFlush(t, rig.Ack(1, 2, 3))
			c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Unreachable(1, 3) == 1 }, "the report")
			if name != "tombstone" {
				rig.Eventually(t, rig.WaitTimeout, func() bool { return c.resolver.Lookups(2) > 5 }, "it is asked again")
			}
			if err := c.close(rig.WaitTimeout); err != nil {
				t.Error(err)
			}
			c.wantEdges(t, 0, 0)
		})
	}
}

// C10: a store that flaps more slowly than a step is down once each time.
func TestC10EveryFlapIsTold(t *testing.T) {
	const step = 10 * time.Millisecond
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(step))
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	for flap := range 5 {
		c.waitEdges(t, flap, flap+1)
		rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 1 && c.ledger().Queued == 0 }, "it is sent")
		peer.WaitMessages(t, flap+1)
		events := c.router.Events()
		rig.Eventually(t, rig.WaitTimeout, func() bool { return time.Since(events[len(events)-1].At) > step }, "a step")
		peer.EndStreams(errPropBroken)
		c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.StoreUnreachable(2) == flap+1 }, "it is told")
		c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	}
}

// C10: one outage is one broadcast, though an idle connection is found dead long
// after a busy one: the host was told since that what it carried is lost. What it
// carries after that is told of again.
func TestC10IdleConnectionFoundDeadLater(t *testing.T) {
	const step = 10 * time.Millisecond
	for _, late := range []bool{false, true} {
		t.Run(map[bool]string{false: "it stayed idle", true: "it carried more"}[late], func(t *testing.T) {
			peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
			network := &outage{}
			c := newPropClient(t, peer.Addr(), propStep(step), func(o *raftmux.ClientOptions) { o.Dialer = network.dial })
			c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
			peer.WaitMessages(t, 1)
			c.waitEdges(t, 0, 1) // by the data connection, which stays up longer
			c.sendFlush(t, rig.Heartbeat(1, 2, 3))
			peer.WaitMessages(t, 2)
			network.begin(1) // the control connection breaks
			c.waitEdges(t, 1, 1)
			if late {
				c.sendFlush(t, rig.Append(1, 2, 3, 2, 10))
				peer.WaitMessages(t, 3)
			}
			down := time.Now()
			rig.Eventually(t, rig.WaitTimeout, func() bool { return time.Since(down) > step }, "a step")
			network.begin(0) // the data connection is found dead
			rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 && network.refused() > 3 }, "nothing is left")
			want := 1
			if late {
				want = 2
			}
			c.waitEdges(t, want, 1)
			if err := c.close(rig.WaitTimeout); err != nil {
				t.Error(err)
			}
			c.wantEdges(t, want, 1)
		})
	}
}

// outage is a network whose connections break when told to, and with the first
// of them the way to make new ones.
type outage struct {
	mu    sync.Mutex
	conns []net.Conn
	over  bool
	tries int
}

func (o *outage) dial(ctx context.Context, address string) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		o.tries++
		return nil, errPropBroken
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	o.conns = append(o.conns, conn)
	return conn, err
}

// begin breaks the connection that was dialled i-th.
func (o *outage) begin(i int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	_ = o.conns[i].Close()
}

func (o *outage) refused() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tries
}

// C10: the end of a generation that carried nothing is no edge by itself.
func TestC10IdleEndIsSilent(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Millisecond))
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	peer.WaitMessages(t, 1)
	peer.EndStreams(errPropBroken)
	c.waitEdges(t, 1, 2)
	for i := range 5 {
		peer.WaitOpened(t, rig.BatchRaft, i+2)
		peer.WaitOpen(t, rig.BatchRaft, 1)
		// Nothing is known to be silent but what comes after it.
		rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 1 }, "it is connected")
		peer.EndStreams(errPropBroken)
	}
	peer.WaitOpened(t, rig.BatchRaft, 7)
	_ = c.close(rig.WaitTimeout)
	c.wantEdges(t, 1, 2)
}

// C10: a store is up when its headers come, which ours sends at once; others
// when the stream has stayed open for a step.
func TestC10Up(t *testing.T) {
	t.Run("our headers", func(t *testing.T) {
		c := newPropClient(t, newPropServer(t).address, propStep(time.Hour))
		c.sendFlush(t, rig.Ack(1, 2, 3))
		c.waitEdges(t, 0, 1)
	})
	t.Run("no headers, after a step", func(t *testing.T) {
		c := newPropClient(t, rig.NewPeer(t, rig.PeerOptions{}).Addr(), propStep(time.Millisecond))
		c.sendFlush(t, rig.Ack(1, 2, 3))
		c.waitEdges(t, 0, 1)
		if status, _ := c.Store(2); status.State != raftmux.StoreUp {
			t.Errorf("the store is %v", status.State)
		}
	})
	t.Run("no headers, not before", func(t *testing.T) {
		peer := rig.NewPeer(t, rig.PeerOptions{})
		c := newPropClient(t, peer.Addr(), propStep(time.Hour))
		c.sendFlush(t, rig.Ack(1, 2, 3))
		peer.WaitMessages(t, 1)
		if status, _ := c.Store(2); status.State != raftmux.StoreConnecting {
			t.Errorf("the store is %v", status.State)
		}
		if err := c.close(rig.WaitTimeout); err != nil {
			t.Error(err)
		}
		c.wantEdges(t, 0, 1) // the answer to the end of the stream brings headers
	})
}

// C10: the end of what a removed store had doesn't leave the host in the belief
// that the store is down, if it has come back.
func TestC10RemovedStoreComesBackUp(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	c := newPropClient(t, peer.Addr(), propStep(time.Hour))
	for round := range 50 {
		c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
		peer.WaitMessages(t, round+1)
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			status, _ := c.Store(2)
			e := c.router.Events()
			return status.State == raftmux.StoreUp && len(e) > 0 && e.StoreUnreachable(2) == round && e[len(e)-1].Kind == rig.StoreUp
		}, "round %d: it is up, and was told so last", round)
		c.RemoveStore(2)
	}
}
