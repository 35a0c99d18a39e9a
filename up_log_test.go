package raftmux_test

import (
	"log/slog"
	"testing"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C10: who reads in the log of a store that fails is to read that it is back, and a
// store that is up says so once, whatever its other connections do.
func TestC10LogSaysThatAStoreIsUp(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	log := newLogCounter()
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.Logger = slog.New(log) })
	s := h.sender(t)
	up := func(times int) {
		t.Helper()
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			sendAll(t, s, rig.Ack(1, there, 2))
			return log.count("INFO store is up") == times && h.router.Events().StoreUp(there) >= times
		}, "the log and the host are told")
	}
	up(1)
	peer.Stop()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Ack(1, there, 2), rig.Heartbeat(1, there, 2))
		return log.count("connect failed") > 0
	}, "the failure")
	peer.Restart(t)
	up(2)
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Heartbeat(1, there, 2))
		status, _ := h.Store(there)
		return status.Connections[1].Ledger.Sent > 0
	}, "the other connection")
	h.close(t)
	if n := log.count("store is up"); n != 2 {
		t.Errorf("logged %d times", n)
	}
}
