package raftmux_test

import (
	"slices"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C16: at a store's address another one answers, and later the store itself: the address
// is a name, and the name's own directory is slow. From then on the resolver isn't told
// any more that the address is wrong.
func TestC16TheStoreItselfAnswers(t *testing.T) {
	t.Parallel()
	other := newReceiving(t, raftmux.ServerOptions{StoreID: there + 1, Handler: new(inbox)})
	itself := newReceiving(t, raftmux.ServerOptions{StoreID: there, Handler: new(inbox)})
	proxy := rig.NewProxy(t, other.addr)
	h := newSending(t)
	h.resolver.Set(there, proxy.Addr())
	hinted := func() bool {
		hints := h.resolver.Hints(there)
		return len(hints) > 0 && hints[len(hints)-1] == proxy.Addr()
	}
	mustSend(t, h.sender(t), rig.Ack(1, there, 2)) // not flushed: headers tell the store
	rig.Eventually(t, rig.WaitTimeout, hinted, "the resolver hears that the address is wrong")
	proxy.SetTarget(itself.addr)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 1 }, "up")
	before := h.resolver.Lookups(there)
	proxy.Cut()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) > before }, "another look-up")
	if hints := h.resolver.Hints(there); slices.Contains(hints[before:], proxy.Addr()) {
		t.Errorf("the resolver was told that the address is wrong, of which the store answers: %q", hints)
	}
}

// C16: a look-up that began before a connection met the wrong store doesn't know of
// that, and the connection doesn't make do with it.
func TestC16LookUpWithoutTheHint(t *testing.T) {
	t.Parallel()
	const step = time.Second
	wrong := rig.NewPeer(t, rig.PeerOptions{StoreID: 3})
	right := rig.NewPeer(t, rig.PeerOptions{StoreID: 2, HeadersNow: true})
	c := newPropClient(t, "", propStep(step))
	c.resolver.SetMoved(2, wrong.Addr(), right.Addr())
	c.mustSend(t, rig.Append(1, 2, 3, 1, 10)) // not flushed yet
	wrong.WaitOpened(t, rig.BatchRaft, 1)
	time.Sleep(step + 50*time.Millisecond) // or the other connection has no look-up of its own
	release := c.resolver.Block(2)
	t.Cleanup(release)
	c.mustSend(t, rig.Heartbeat(1, 2, 3))
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := c.resolver.InFlight(2); return now == 1 }, "a look-up without the hint")
	c.sender.Flush() // the data connection meets the wrong store
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.connected() == 0 }, "the stream has ended")
	time.Sleep(step / 4) // it waits for a fifth at most
	release()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return right.Opened(rig.BatchRaft) > 0 }, "a stream to the right store")
	if n := wrong.Opened(rig.BatchRaft); n > 2 {
		t.Errorf("%d streams to the wrong store: %q", n, c.resolver.Hints(2))
	}
}
