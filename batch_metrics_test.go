package raftmux_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// Each batch is observed once: its size, the wait, and why it left.
func TestBatchMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.Registerer, o.MaxBatchMessages = registry, 4 })
	sender := h.sender(t)
	for range 10 {
		sendAll(t, sender, numbered(1, 1, 10, 10)...)
	}
	peer.WaitMessages(t, 100)
	_, batches, _ := h.ledger(there)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sizes, waits uint64
	var messages float64
	for _, family := range families {
		histogram := family.GetMetric()[0].GetHistogram()
		switch family.GetName() {
		case "raftmux_batch_messages":
			sizes, messages = histogram.GetSampleCount(), histogram.GetSampleSum()
		case "raftmux_queue_wait_seconds":
			waits = histogram.GetSampleCount()
		}
	}
	if sizes != batches || waits != batches || messages != 100 {
		t.Errorf("%d sizes of %g messages and %d waits of %d batches", sizes, messages, waits, batches)
	}
	drained := gathered(t, registry, "raftmux_batch_cuts_total", "reason=drained")
	if full := gathered(t, registry, "raftmux_batch_cuts_total", "reason=messages"); full+drained != float64(batches) || full == 0 || drained == 0 {
		t.Errorf("%g batches were full and %g drained the queue, of %d", full, drained, batches)
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		return gathered(t, registry, "raftmux_queue_oldest_seconds") == 0 && gathered(t, registry, "raftmux_stream_held_bytes") == 0
	}, "nothing waits and nothing is held")
}
