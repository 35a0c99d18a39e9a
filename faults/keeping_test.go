package faults

import (
	"slices"
	"testing"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// choosy says how it was given messages.
type choosy struct {
	raftmux.Receiver
	calls []string
}

func (c *choosy) Decode(message []byte) (raftmux.Envelope, error) {
	c.calls = append(c.calls, "lent")
	return c.Receiver.Decode(message)
}

func (c *choosy) DecodeGiven(message []byte) (raftmux.Envelope, error) {
	c.calls = append(c.calls, "given")
	return c.Receiver.Decode(message)
}

// What wraps a Keeper is one: a message is given on, unless it comes twice, for then
// its memory is nobody's.
func TestReceiverKeeps(t *testing.T) {
	t.Parallel()
	rules := setRules(t, Options{})
	lends := raftmux.HandlerReceiver(new(arrivals), true)
	if _, ok := rules.Receiver(lends)().(raftmux.Keeper); ok {
		t.Error("a Keeper, around none")
	}
	inner := &choosy{Receiver: lends()}
	keeper := rules.Receiver(func() raftmux.Receiver { return inner })().(raftmux.Keeper)
	body, err := rig.Append(7, 2, 72, 1, 10).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"drop to=9", "duplicate", "delay 1h"} {
		if err := rules.Set(text); err != nil {
			t.Fatal(err)
		}
		if _, err := keeper.DecodeGiven(body); err != nil {
			t.Error(err)
		}
	}
	rules.Clear()
	for _, decode := range []func([]byte) (raftmux.Envelope, error){keeper.DecodeGiven, keeper.Decode} {
		if _, err := decode(body); err != nil {
			t.Error(err)
		}
	}
	keeper.Discard()
	if want := []string{"given", "lent", "lent", "given", "lent"}; !slices.Equal(inner.calls, want) {
		t.Errorf("decoded as %q, not %q", inner.calls, want)
	}
}
