package raftmux_test

import (
	"slices"
	"testing"

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
