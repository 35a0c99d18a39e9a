package raftmux_test

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// S22, C4: nothing leaves before Flush, which wakes each connection touched
// since the last one exactly once.
func TestS22FlushWakesOnce(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 4 })
	s := h.sender(t)
	if s.NeedFlush() {
		t.Error("a fresh Sender needs a flush")
	}
	const regions = 64
	for region := range uint64(regions) {
		sendAll(t, s, rig.Ack(region, there, 2))
	}
	peer.WaitMessages(t, regions) // all four are connected
	_, _, before := h.ledger(there)
	for range 10 {
		for region := range uint64(regions) {
			mustSend(t, s, rig.Ack(region, there, 2))
		}
	}
	if !s.NeedFlush() {
		t.Error("needs no flush after sends")
	}
	rig.Never(t, 50*time.Millisecond, func() bool { return peer.Count() > regions }, "something left before Flush")
	if l, _, wakes := h.ledger(there); wakes != before || l.Queued != 10*regions {
		t.Errorf("%d wake-ups before Flush, and %d queued", wakes-before, l.Queued)
	}
	s.Flush()
	if s.NeedFlush() {
		t.Error("needs a flush after one")
	}
	peer.WaitMessages(t, 11*regions)
	s.Flush()
	if _, _, wakes := h.ledger(there); wakes != before+4 {
		t.Errorf("%d wake-ups by one flush of 4 connections", wakes-before)
	}
}

// S23, S1, C4: a full connection is woken by Send at once, and counted once per
// flush and connection, however many messages it refused.
func TestS23FullCountsOnce(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.QueueMessages = 10
		o.Registerer = registry
	})
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	full := func() float64 {
		return gathered(t, registry, "raftmux_server_report_failure_msg_total", "type=full", "store_id=2")
	}
	for range 10 {
		mustSend(t, s, rig.Ack(1, there, 2))
	}
	for range 5 {
		if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrFull) {
			t.Fatalf("answered %v", err)
		}
	}
	if _, _, wakes := h.ledger(there); wakes == 0 {
		t.Error("a full connection was not woken before Flush")
	}
	if !s.NeedFlush() {
		t.Error("needs no flush, though it found a connection full")
	}
	for round := 1.0; round <= 3; round++ {
		s.Flush()
		if full() != round {
			t.Errorf("counted %v times after %v flushes", full(), round)
		}
		s.Flush() // nothing since the last one
		for range 3 {
			_ = s.Send(rig.Ack(1, there, 2))
		}
	}
	release() // what was staged when it was full leaves, though nobody flushes
	peer.WaitMessages(t, 10)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return s.Send(rig.Ack(1, there, 2)) == nil }, "room again")
}

// C17: the queue's capacity is given per store, and divided among connections;
// so are its bytes.
func TestC17CapacityPerStore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*raftmux.ClientOptions)
		size   int
		want   int
	}{
		"messages": {func(o *raftmux.ClientOptions) { o.QueueMessages = 80 }, 10, 20},
		"bytes": {func(o *raftmux.ClientOptions) {
			o.QueueBytes, o.MaxMessageSize = 80*len(encoded(t, 1000)), 2000
		}, 1000, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newSending(t, test.change, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 4 })
			t.Cleanup(h.resolver.Block(there))
			s := h.sender(t)
			accepted := 0
			for s.Send(rig.Append(1, there, 2, 1, test.size)) == nil {
				accepted++
			}
			if accepted != test.want {
				t.Errorf("one of 4 connections took %d messages, not %d", accepted, test.want)
			}
			if l, _, _ := h.ledger(there); l.Queued != uint64(test.want) {
				t.Errorf("queued %d", l.Queued)
			}
		})
	}
}

// C17: connections that may each hold one of the largest messages don't hold more
// than their store may.
func TestC17BytesPerStore(t *testing.T) {
	t.Parallel()
	const size, most = 64 << 10, 4 << 20
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectionsPerStore, o.QueueBytes, o.MaxMessageSize = 4, most, 2<<20
	})
	t.Cleanup(h.resolver.Block(there))
	s := h.sender(t)
	for range 2 * most / size {
		for region := range uint64(20) { // on whichever connection each is
			_ = s.Send(rig.Append(region+1, there, 2, 1, size))
		}
	}
	status, _ := h.Store(there)
	var queued uint64
	for _, c := range status.Connections {
		if c.Lane == "data" && c.Ledger.QueuedBytes < 256<<10-size-100 {
			t.Errorf("connection %d has only %d bytes", c.Index, c.Ledger.QueuedBytes)
		}
		queued += c.Ledger.QueuedBytes
	}
	if queued > most || queued < most-5*size {
		t.Errorf("%d bytes wait for the store, want at most %d and nearly that", queued, most)
	}
}

// encoded returns an append with one entry of that size as it is on the wire.
func encoded(t *testing.T, size int) []byte {
	t.Helper()
	b, err := rig.Append(1, there, 2, 1, size).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// C4, S7: what was staged and never flushed is seized when the store fails, and
// by Close: reported, and in the ledger.
func TestC4StagedIsSeized(t *testing.T) {
	t.Parallel()
	h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Minute })
	release := h.resolver.Block(there)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	mustSend(t, s, rig.Ack(3, there, 4), rig.Ack(3, there, 4))
	h.resolver.SetError(there, errors.New("no answer"))
	release()
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool {
		return e.Unreachable(1, 2) == 1 && e.Unreachable(3, 4) == 1
	}, "both peers reported")
	if l, _, _ := h.ledger(there); l.Queued != 0 || l.Dropped["resolve"] != 3 {
		t.Errorf("ledger %+v", l)
	}
	mustSend(t, s, rig.Ack(5, there, 6))
	h.close(t)
	if e := h.router.Events(); e.Unreachable(5, 6) != 1 {
		t.Errorf("%d reports of what Close seized", e.Unreachable(5, 6))
	}
	if l, _, _ := h.ledger(there); l.Dropped["closing"] != 1 {
		t.Errorf("ledger %+v", l)
	}
}

// S1, C7: a message that is accepted while the Client closes is in the accounts;
// whatever isn't is refused.
func TestS1AcceptedWhileClosing(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	var accepted atomic.Uint64
	var workers sync.WaitGroup
	for region := uint64(1); region <= 4; region++ {
		workers.Go(func() {
			s := h.NewSender()
			defer s.Close()
			for i := 1; ; i++ {
				switch err := s.Send(rig.Ack(region, there, 2)); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, raftmux.ErrDisconnected):
					return
				case !errors.Is(err, raftmux.ErrFull):
					t.Error(err)
					return
				}
				if i%10 == 0 {
					s.Flush()
				}
			}
		})
	}
	peer.WaitMessages(t, 1000)
	h.close(t) // which checks that the ledger balances
	workers.Wait()
	if l, _, _ := h.ledger(there); l.Accepted != accepted.Load() {
		t.Errorf("Send accepted %d messages, the ledger %d", accepted.Load(), l.Accepted)
	}
}

// S2: a flush that meets a connection which has just found its queue empty wakes
// it all the same: the last message arrives without another behind it.
func TestS2NoLostWakeUp(t *testing.T) {
	t.Parallel()
	came := make(chan uint64, 2)
	server := newReceiving(t, raftmux.ServerOptions{Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
		came <- m.Message.Index
		return nil
	})})
	h := newSending(t)
	h.resolver.Set(there, server.addr)
	s := h.sender(t)
	deadline := time.After(rig.WaitTimeout)
	for i := uint64(0); i < 6000; i += 2 {
		sendAll(t, s, rig.Index(rig.Ack(1, there, 2), i))
		for range i % 1000 * 100 { // the second flush meets the connection at ever another point
			runtime.KeepAlive(s)
		}
		sendAll(t, s, rig.Index(rig.Ack(1, there, 2), i+1))
		for want := i; want <= i+1; want++ {
			select {
			case got := <-came:
				if got != want {
					t.Fatalf("message %d came in place of %d", got, want)
				}
			case <-deadline:
				t.Fatalf("message %d doesn't come", want)
			}
		}
	}
}
