package raftmux_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// lookupClock notes when look-ups began.
type lookupClock struct {
	mu    sync.Mutex
	times []time.Time
}

func newLookupClock() *lookupClock { return new(lookupClock) }

func (c *lookupClock) tick(uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.times = append(c.times, time.Now())
	return nil
}

func (c *lookupClock) all() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.times[:len(c.times):len(c.times)]
}

func (c *lookupClock) wait(t testing.TB, n int) []time.Time {
	t.Helper()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return len(c.all()) >= n }, "%d look-ups", n)
	return c.all()
}

// wantBackoff fails unless the gap after failure n is step x min(n, 5) at
// least, less the jitter of a fifth. A gap longer than that may as well be an
// attempt that lived so long, on a slow machine; then the count begins anew.
func wantBackoff(t testing.TB, times []time.Time, step time.Duration) {
	t.Helper()
	var gaps []time.Duration
	possible := map[int]bool{0: true} // failures in a row
	for n := 1; n < len(times); n++ {
		gap := times[n].Sub(times[n-1])
		gaps = append(gaps, gap.Round(time.Millisecond))
		next := make(map[int]bool)
		for failures := range possible {
			wait := step * time.Duration(min(failures+1, 5))
			if gap >= wait*4/5 {
				next[failures+1] = true
			}
			if gap > wait {
				next[0] = true
			}
		}
		possible = next
	}
	if len(possible) == 0 {
		t.Errorf("gaps between attempts: %v, with a step of %v", gaps, step)
	}
}

// S14, C14, C1: Send doesn't wait for a look-up, of which there is one per store
// however many connections it has.
func TestS14OneLookupPerStore(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 4 })
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	const n = 64
	for region := range uint64(n) {
		sendAll(t, s, rig.Ack(region, there, 2)) // a Send that waited would wait for ever
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) > 0 }, "a look-up")
	if status, _ := h.Store(there); len(status.Connections) != 4 || status.State != raftmux.StoreConnecting {
		t.Errorf("status %+v", status)
	}
	release()
	peer.WaitMessages(t, n)
	if lookups := h.resolver.Lookups(there); lookups != 1 || peer.Conns() != 4 {
		t.Errorf("%d look-ups for %d connections", lookups, peer.Conns())
	}
}

// S14: a store whose look-up hangs doesn't hold up another.
func TestS14BlockedStoreAlone(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	t.Cleanup(h.resolver.Block(3))
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, 3, 2), rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
}

// S16, C12: every failure retries, after step x min(failures, 5).
func TestS16Backoff(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T, *sending){
		"resolve": func(_ *testing.T, h *sending) { h.resolver.SetError(there, errors.New("no answer")) },
		"connect": func(t *testing.T, h *sending) { h.resolver.Set(there, rig.DeadAddress(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const step = 40 * time.Millisecond
			clock := newLookupClock()
			h := newSending(t, func(o *raftmux.ClientOptions) {
				o.BackoffStep = step
				o.Hooks.BeforeResolve = clock.tick
			})
			prepare(t, h)
			sendAll(t, h.sender(t), rig.Ack(1, there, 2))
			wantBackoff(t, clock.wait(t, 8), step)
		})
	}
}

// S16, C12: an attempt that lived longer than the wait that it would cost is
// forgiven: the next one begins at once.
func TestS16LongLivedIsForgiven(t *testing.T) {
	t.Parallel()
	const step = 2 * time.Second
	peer := rig.NewPeer(t, rig.PeerOptions{})
	clock := newLookupClock()
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.BackoffStep = step
		o.Hooks.BeforeResolve = clock.tick
	})
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	// Without headers a store counts as up when its stream has lived for a step.
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 1 }, "up")
	broken := time.Now()
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	if waited := clock.wait(t, 2)[1].Sub(broken); waited > step/2 {
		t.Errorf("the next attempt came after %v, though the last one had lived for longer than %v", waited, step)
	}
}

// S15, S18, C12, C8, C10: a failed look-up clears and reports at once, and says
// nothing of the store.
func TestS15S18FailedResolve(t *testing.T) {
	t.Parallel()
	h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Minute })
	release := h.resolver.Block(there)
	s := h.sender(t)
	for range 3 {
		sendAll(t, s, rig.Ack(1, there, 2), rig.Append(3, there, 4, 1, 10))
	}
	release() // nobody has set the store
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Total(rig.Unreachable) == 2 }, "reports")
	if e := h.router.Events(); e.Unreachable(1, 2) != 1 || e.Unreachable(3, 4) != 1 || len(e) != 2 {
		t.Errorf("events %+v", e)
	}
	if l, _, _ := h.ledger(there); l.Queued != 0 || l.Dropped["resolve"] != 6 || l.DroppedTotal() != 6 {
		t.Errorf("ledger %+v", l)
	}
}

// S15, S18, C12, C10: a refused connection clears and reports at once. The first
// such failure tells that the store is down; those that follow do not.
func TestS15S18RefusedConnect(t *testing.T) {
	t.Parallel()
	clock := newLookupClock()
	h := newSending(t, func(o *raftmux.ClientOptions) { o.Hooks.BeforeResolve = clock.tick })
	h.resolver.Set(there, rig.DeadAddress(t))
	release := h.resolver.Block(there)
	s := h.sender(t)
	for range 3 {
		sendAll(t, s, rig.Ack(1, there, 2), rig.Append(3, there, 4, 1, 10))
	}
	release()
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Total(rig.Unreachable) == 2 }, "reports")
	if l, _, _ := h.ledger(there); l.Queued != 0 || l.Dropped["connect"] != 6 || l.DroppedTotal() != 6 {
		t.Errorf("ledger %+v", l)
	}
	clock.wait(t, 5)
	if e := h.router.Events(); e.Unreachable(1, 2) != 1 || e.Unreachable(3, 4) != 1 || e.StoreUnreachable(there) != 1 || len(e) != 3 {
		t.Errorf("events %+v", e)
	}
	if status, _ := h.Store(there); status.State != raftmux.StoreDown {
		t.Errorf("state %v", status.State)
	}
}

// S15, S18: "at once" is before the next attempt, which is a minute away.
func TestS15S18ConnectReportsBeforeTheBackoff(t *testing.T) {
	t.Parallel()
	h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Minute })
	h.resolver.Set(there, rig.DeadAddress(t))
	release := h.resolver.Block(there) // the first attempt finds the message
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	release()
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool {
		return e.Unreachable(1, 2) == 1 && e.StoreUnreachable(there) == 1
	}, "reports")
	if n := h.resolver.Lookups(there); n != 1 {
		t.Errorf("%d look-ups", n)
	}
}

// C12: an attempt is one dial: gRPC doesn't reconnect by itself in between.
func TestC12OneDialPerAttempt(t *testing.T) {
	t.Parallel()
	var dials atomic.Int64
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.BackoffStep = 50 * time.Millisecond
		o.Dialer = func(context.Context, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("refused")
		}
	})
	h.resolver.Set(there, "nowhere:1")
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) >= 7 }, "look-ups")
	h.close(t)
	if lookups := int64(h.resolver.Lookups(there)); dials.Load() > lookups || dials.Load() < lookups-1 {
		t.Errorf("%d dials in %d attempts", dials.Load(), lookups)
	}
}

// S17, C13: a tombstone is terminal: its connections go away, what they held is
// reported, later sends are refused without a look-up, until the id is revived.
func TestS17Tombstone(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.ConnectionsPerStore = 3
		o.Registerer = registry
	})
	s := h.sender(t)
	const regions = 30
	for region := range uint64(regions) {
		sendAll(t, s, rig.Ack(region, there, 2))
	}
	peer.WaitMessages(t, regions)
	h.resolver.SetError(there, fmt.Errorf("asked PD: %w", raftmux.ErrTombstone))
	mustSend(t, s, rig.Append(1, there, 2, 1, 10), rig.Append(1, there, 2, 1, 10)) // staged when the store ends
	peer.EndStreams(status.Error(codes.Unavailable, "gone"))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(1, 2) == 1 }, "what was queued is reported")
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		status, _ := h.Store(there)
		open := 0
		for _, c := range status.Connections {
			if c.Connected {
				open++
			}
		}
		return status.State == raftmux.StoreTombstone && open == 0
	}, "a tombstone without connections")
	if l, _, _ := h.ledger(there); l.Dropped["tombstone"] != 2 || l.Queued != 0 {
		t.Errorf("ledger %+v", l)
	}
	lookups := h.resolver.Lookups(there)
	for _, s := range []*raftmux.Sender{s, h.sender(t)} { // one that knows the store, one that doesn't
		for region := range uint64(regions) {
			for _, m := range []error{s.Send(rig.Ack(region, there, 2)), s.Send(rig.Snapshot(region, there, 2, 10))} {
				if !errors.Is(m, raftmux.ErrDisconnected) {
					t.Fatalf("answered %v", m)
				}
			}
		}
		s.Flush()
	}
	if n := h.resolver.Lookups(there); n != lookups {
		t.Errorf("%d look-ups of a tombstone", n-lookups)
	}
	if n := gathered(t, registry, "raftmux_server_resolve_store_total", "type=tombstone"); n == 0 {
		t.Error("the look-up is not counted")
	}

	h.resolver.Set(there, peer.Addr())
	h.ReviveStore(3) // some other id
	if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrDisconnected) {
		t.Errorf("answered %v", err)
	}
	h.ReviveStore(there)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, regions+1)
	if n := h.resolver.Lookups(there); n != lookups+1 {
		t.Errorf("%d look-ups after the revival", n-lookups)
	}
}

// C13: reviving a store that is no tombstone changes nothing.
func TestC13ReviveLeavesOthers(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	h.ReviveStore(there)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 2)
	if peer.Conns() != 1 || h.resolver.Lookups(there) != 1 {
		t.Errorf("%d connections, %d look-ups", peer.Conns(), h.resolver.Lookups(there))
	}
}

// C13: not found is no tombstone: it is asked again, and logged once a minute.
func TestC13NotFoundIsRetried(t *testing.T) {
	t.Parallel()
	registry, log := prometheus.NewRegistry(), newLogCounter()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.BackoffStep = 5 * time.Millisecond
		o.Registerer, o.Logger = registry, slog.New(log)
	})
	h.resolver.SetError(there, fmt.Errorf("asked PD: %w", raftmux.ErrStoreNotFound))
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(1, 2) == 1 }, "reported")
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) >= 10 }, "look-ups")
	if n := log.count("store is not found"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if n := gathered(t, registry, "raftmux_server_resolve_store_total", "type=not_found"); n < 9 {
		t.Errorf("counted %v times", n)
	}
	if e := h.router.Events(); e.Total(rig.StoreUnreachable) != 0 {
		t.Errorf("events %+v", e)
	}
	h.resolver.Set(there, peer.Addr())
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Ack(1, there, 2))
		return peer.Count() > 0
	}, "a store that was found")
}

// A look-up that ends because its store was removed has not failed.
func TestRemovedStoresLookUpIsQuiet(t *testing.T) {
	t.Parallel()
	log := newLogCounter()
	h := newSending(t, func(o *raftmux.ClientOptions) { o.Logger = slog.New(log) })
	t.Cleanup(h.resolver.Block(there))
	mustSend(t, h.sender(t), rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := h.resolver.InFlight(there); return now == 1 }, "the look-up")
	h.RemoveStore(there)
	rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := h.resolver.InFlight(there); return now == 0 }, "its end")
	h.close(t)
	if n := log.count("resolve store address failed"); n != 0 {
		t.Errorf("logged %d times", n)
	}
}
