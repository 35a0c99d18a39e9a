package raftmux

import (
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

// C19: one batch of very many messages doesn't leave a list of as many behind, for as
// long as its stream lives.
func TestReceiverKeepsNoLongList(t *testing.T) {
	body, err := rig.Heartbeat(1, 2, 3).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, lend := range []bool{false, true} {
		receiver := newKVReceiver(deaf{}, lend)
		for range 4 * maxHeld {
			if _, err := receiver.Decode(body); err != nil {
				t.Fatal(err)
			}
		}
		receiver.Deliver()
		r, lent := receiver.(*kvReceiver)
		if !lent {
			r = receiver.(kvKeeper).kvReceiver
		}
		if n := cap(r.held); n > maxHeld {
			t.Errorf("lent: %v: a list of %d messages is kept", lend, n)
		}
	}
}
