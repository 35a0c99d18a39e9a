package netns

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
)

// Faults at a switch break what they say, leave the rest alone, and end.
func TestSwitch(t *testing.T) {
	Needs(t, "ip")
	s := NewSwitch(t, 3)
	var listeners []net.Listener
	for i, end := range s.Ends {
		listener := end.Listen(t, s.IP(i)+":0")
		defer listener.Close()
		listeners = append(listeners, listener)
	}
	type way struct{ from, to int }
	connects := func(w way) bool {
		// The kernel repeats a lost first packet after a second.
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		conn, err := s.Ends[w.from].Dial(ctx, listeners[w.to].Addr().String())
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}
	all := []way{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1}}
	heals := func() bool { return !slices.ContainsFunc(all, func(w way) bool { return !connects(w) }) }
	rig.Eventually(t, rig.WaitTimeout, heals, "all reach each other")

	for _, fault := range []struct {
		name   string
		breaks func() (heal func())
		broken []way
	}{
		{"pulled", func() func() { return s.Pull(t, 0) }, all[:4]},
		{"down", func() func() { return s.Ends[0].Down(t) }, all[:4]},
		// Neither can connect when the packets of one are lost.
		{"black hole", func() func() { return s.Ends[0].Blackhole(t, s.IP(1)) }, all[:2]},
		{"separated", func() func() { return s.Separate(t, 0, 1) }, all[:2]},
	} {
		heal := fault.breaks()
		for _, w := range all {
			if got, want := connects(w), !slices.Contains(fault.broken, w); got != want {
				t.Errorf("%s: %d connects to %d: %v, want %v", fault.name, w.from, w.to, got, want)
			}
		}
		heal()
		rig.Eventually(t, rig.WaitTimeout, heals, "all reach each other again: %s", fault.name)
	}
}
