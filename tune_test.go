package raftmux_test

import (
	"errors"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// Tune takes effect with the next batch, on the stream that is open.
func TestTune(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	sender := h.sender(t)
	sendAll(t, sender, numbered(1, 1, 100, 10)...)
	peer.WaitMessages(t, 100)
	if err := h.Tune(raftmux.Tuning{MaxBatchMessages: 5}); err != nil {
		t.Fatal(err)
	}
	before := len(peer.Batches())
	sendAll(t, sender, numbered(1, 101, 200, 10)...)
	peer.WaitMessages(t, 200)
	batches := peer.Batches()[before:]
	if len(batches) < 20 {
		t.Errorf("100 messages came in %d batches, want at least 20", len(batches))
	}
	for _, batch := range batches {
		if batch.Messages > 5 {
			t.Errorf("a batch of %d messages, want at most 5", batch.Messages)
		}
	}
	if opened := peer.Opened(rig.BatchRaft); opened != 1 {
		t.Errorf("%d streams, want 1", opened)
	}
	for _, bad := range []struct {
		tuning raftmux.Tuning
		field  string
	}{
		{raftmux.Tuning{MaxBatchMessages: -1}, "MaxBatchMessages"},
		{raftmux.Tuning{MaxBatchBytes: -1}, "MaxBatchBytes"},
		{raftmux.Tuning{MaxBatchMessages: 7, MaxMessageAge: -time.Second}, "MaxMessageAge"},
	} {
		problem := new(raftmux.OptionError)
		if err := h.Tune(bad.tuning); !errors.As(err, &problem) || problem.Field != bad.field {
			t.Errorf("%+v: got %v, want an error about %s", bad.tuning, err, bad.field)
		}
	}
	// What was refused has changed nothing, and what was tuned before stays.
	if err := h.Tune(raftmux.Tuning{MaxMessageAge: time.Minute}); err != nil {
		t.Fatal(err)
	}
	before = len(peer.Batches())
	sendAll(t, sender, numbered(1, 201, 300, 10)...)
	peer.WaitMessages(t, 300)
	if got := len(peer.Batches()) - before; got < 20 {
		t.Errorf("100 messages came in %d batches, want at least 20", got)
	}
}
