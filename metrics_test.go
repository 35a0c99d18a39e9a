package raftmux_test

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// S24: failures are counted by reason and store, look-ups by outcome.
func TestS24Failures(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.Registerer = registry
		o.BackoffStep = time.Minute
		o.MaxMessageSize = 10_000
		o.Filter = filterFunc(func(e raftmux.Envelope) bool { return e.RegionID != 66 })
	})
	h.resolver.Set(3, rig.DeadAddress(t))
	h.resolver.SetError(4, errors.New("no answer"))
	h.resolver.SetError(5, raftmux.ErrTombstone)
	h.resolver.SetError(6, raftmux.ErrStoreNotFound)
	h.SetAllowlist([]uint64{2, 3, 4, 5, 6})
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	for store := uint64(3); store <= 6; store++ {
		release := h.resolver.Block(store)
		defer release()
		for range store {
			mustSend(t, s, rig.Ack(store, store, 2))
		}
		release()
	}
	mustSend(t, s, rig.Snapshot(1, there, 2, 10), rig.Snapshot(1, there, 2, 10)) // nobody sends them
	for range 2 {
		_ = s.Send(rig.Ack(66, there, 2))
		_ = s.Send(rig.Append(1, there, 2, 1, 10_000))
		_ = s.Send(rig.Ack(1, 7, 2))
		_ = s.Send(rig.Ack(1, there, 0))
		s.CountRefused(8, fmt.Errorf("not sent: %w", raftmux.ErrInvalid))
	}
	s.Flush()
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	for _, want := range []struct {
		reason string
		store  uint64
		count  float64
	}{
		{"connect", 3, 3},
		{"resolve", 4, 4},
		{"tombstone", 5, 5},
		{"resolve", 6, 6},
		{"snapshot", 2, 2},
		{"filtered", 2, 2},
		{"too_large", 2, 2},
		{"paused", 7, 2},
		{"invalid", 2, 2},
		{"invalid", 8, 2},
		{"broken_stream", 2, 1},
	} {
		labels := []string{"type=" + want.reason, "store_id=" + strconv.FormatUint(want.store, 10)}
		get := func() float64 { return gathered(t, registry, "raftmux_server_report_failure_msg_total", labels...) }
		rig.Eventually(t, rig.WaitTimeout, func() bool { return get() >= want.count }, "%v counted %v times", labels, want.count)
		if got := get(); got != want.count {
			t.Errorf("%v counted %v times, not %v", labels, got, want.count)
		}
	}
	for outcome, want := range map[string]float64{"success": 2, "failed": 1, "tombstone": 1, "not_found": 1} {
		if got := gathered(t, registry, "raftmux_server_resolve_store_total", "type="+outcome); got != want {
			t.Errorf("look-ups that ended as %s: %v, not %v", outcome, got, want)
		}
	}
}

// S24, C7: the ledgers are exported as they stand in Stores, and add up.
func TestS24LedgerMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	h := toPeer(t, peer, withSnapshots(new(snapshots)), func(o *raftmux.ClientOptions) {
		o.Registerer = registry
		o.ConnectionsPerStore = 2
		o.BackoffStep = time.Minute
	})
	h.resolver.Set(3, rig.DeadAddress(t))
	s := h.sender(t)
	release := h.resolver.Block(3) // until all is sent, lest some waits for the next attempt
	t.Cleanup(release)
	for region := range uint64(50) {
		sendAll(t, s, rig.Append(region, there, 2, 1, 100), rig.Append(region, 3, 2, 1, 100))
	}
	release()
	mustSend(t, s, rig.Snapshot(1, there, 2, 10))
	h.waitStatus(t, 1, raftmux.SnapshotFinish)
	peer.WaitMessages(t, 50)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUnreachable(3) == 1 && e.StoreUp(there) == 1 }, "down and up")
	rig.Eventually(t, rig.WaitTimeout, func() bool { l, _, _ := h.ledger(3); return l.Accepted == 50 && l.Queued == 0 }, "cleared")
	mustSend(t, s, rig.Append(1, there, 2, 1, 100)) // staged
	stores := h.Stores()
	if len(stores) != 2 || len(stores[0].Connections) != 2 || stores[0].State != raftmux.StoreUp || stores[1].State != raftmux.StoreDown {
		t.Fatalf("stores %+v", stores)
	}
	for _, store := range stores {
		id := "store_id=" + strconv.FormatUint(store.StoreID, 10)
		if gathered(t, registry, "raftmux_store_state", id, "state="+store.State.String()) != 1 ||
			gathered(t, registry, "raftmux_store_state", id) != 1 {
			t.Errorf("store %d is not in state %v", store.StoreID, store.State)
		}
		for _, c := range store.Connections {
			labels := []string{id, "lane=" + c.Lane, "conn=" + strconv.Itoa(c.Index)}
			wantLedger(t, registry, c.Ledger, labels)
			if got := gathered(t, registry, "raftmux_batches_total", labels...); got != float64(c.Batches) {
				t.Errorf("%v: %v batches, not %d", labels, got, c.Batches)
			}
		}
		if store.StoreID == there {
			wantLedger(t, registry, store.Snapshots, []string{id, "lane=snapshot"})
		}
	}
	h.close(t)
	if families, _ := registry.Gather(); len(families) != 0 {
		t.Errorf("%d metrics are registered after Close", len(families))
	}
}

// C24, S24: Close unregisters what the Client has registered, and called once more
// it leaves alone what another Client has put in the same place since.
func TestC24CloseUnregistersItsOwn(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registered := func() int {
		families, err := registry.Gather()
		if err != nil {
			t.Error(err)
		}
		return len(families)
	}
	here := func(o *raftmux.ClientOptions) { o.Registerer = registry }
	first := newSending(t, here)
	want := registered()
	first.close(t)
	if n := registered(); want == 0 || n != 0 {
		t.Fatalf("%d metrics before Close, %d after it", want, n)
	}
	newSending(t, here)
	first.close(t)
	if n := registered(); n != want {
		t.Errorf("the other Client has %d metrics, not %d", n, want)
	}
}

func wantLedger(t *testing.T, registry *prometheus.Registry, l raftmux.Ledger, labels []string) {
	t.Helper()
	if l.Accepted == 0 || l.Accepted != l.Sent+l.DroppedTotal()+l.Queued {
		t.Errorf("%v: ledger %+v", labels, l)
	}
	check := func(name string, want uint64, more ...string) {
		t.Helper()
		if got := gathered(t, registry, name, append(more, labels...)...); got != float64(want) {
			t.Errorf("%s %v %v: %v, not %d", name, more, labels, got, want)
		}
	}
	check("raftmux_messages_total", l.Accepted, "outcome=accepted")
	check("raftmux_messages_total", l.Sent, "outcome=sent")
	check("raftmux_messages_total", l.DroppedTotal(), "outcome=dropped")
	for reason, n := range l.Dropped {
		check("raftmux_messages_total", n, "outcome=dropped", "reason="+reason)
	}
	check("raftmux_message_bytes_total", l.AcceptedBytes, "outcome=accepted")
	check("raftmux_message_bytes_total", l.SentBytes, "outcome=sent")
	check("raftmux_queue_messages", l.Queued)
	check("raftmux_queue_bytes", l.QueuedBytes)
}

// S24: a Server's counters are its Stats.
func TestS24ServerMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box, Registerer: registry})
	stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	for range 3 {
		if err := stream.Send(rig.Ack(1, there, 2), rig.Ack(1, there, 0)); err != nil {
			t.Fatal(err)
		}
	}
	stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Messages == 3 })
	if stats.Batches != 3 || stats.Malformed != 3 || stats.Bytes == 0 || stats.Streams != 1 || stats.Refused != 0 {
		t.Errorf("stats %+v", stats)
	}
	for name, want := range map[string]uint64{
		"batches": stats.Batches, "bytes": stats.Bytes, "messages": stats.Messages,
		"refused": stats.Refused, "malformed": stats.Malformed, "wrong_store": stats.WrongStore,
	} {
		if got := gathered(t, registry, "raftmux_received_"+name+"_total"); got != float64(want) {
			t.Errorf("%s: %v, not %d", name, got, want)
		}
	}
}
