package raftmux_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// The status says the last address that was found, while a look-up is under way and
// after it has failed, too.
func TestStatusKeepsTheAddress(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	want := func(address, when string) {
		t.Helper()
		if status, _ := h.Store(there); status.Address != address {
			t.Errorf("%s: the address is %q, not %q", when, status.Address, address)
		}
	}
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := h.resolver.InFlight(there); return now == 1 }, "the first look-up")
	want("", "while the first look-up is under way")
	release()
	peer.WaitMessages(t, 1)
	want(peer.Addr(), "connected")

	release = h.resolver.Block(there)
	t.Cleanup(release)
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := h.resolver.InFlight(there); return now == 1 }, "the next look-up")
	want(peer.Addr(), "while the next look-up is under way")
	h.resolver.SetError(there, errors.New("no answer"))
	release()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) > 3 }, "failed look-ups")
	release = h.resolver.Block(there)
	t.Cleanup(release)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) > 4 }, "another one")
	want(peer.Addr(), "after failed look-ups")

	moved := rig.NewPeer(t, rig.PeerOptions{})
	h.resolver.Set(there, moved.Addr())
	release()
	moved.WaitOpened(t, rig.BatchRaft, 1)
	want(moved.Addr(), "when it has moved")
	h.RemoveStore(there)
	want("", "removed")
}

// A store is known once a message was accepted, or refused because of the store.
func TestStatusKnownStores(t *testing.T) {
	t.Parallel()
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.Filter = filterFunc(func(e raftmux.Envelope) bool { return e.RegionID != 66 })
	})
	s := h.sender(t)
	if err := s.Send(rig.Ack(66, there, 2)); !errors.Is(err, raftmux.ErrFiltered) {
		t.Fatal(err)
	}
	if status, ok := h.Store(there); ok {
		t.Errorf("known by a message that was filtered: %+v", status)
	}
	h.SetAllowlist([]uint64{})
	if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrPaused) {
		t.Fatal(err)
	}
	status, ok := h.Store(there)
	if !ok || !status.Paused || status.State != raftmux.StoreConnecting || len(status.Connections) != 0 || len(h.Stores()) != 1 {
		t.Errorf("status %v, %+v", ok, status)
	}
}
