package rig

import (
	"sync"
	"testing"
	"time"
)

// Kind tells the host's callbacks apart.
type Kind int

// The callbacks of a host.
const (
	Unreachable      Kind = iota // ReportUnreachable
	SnapshotStatus               // ReportSnapshotStatus
	StoreUnreachable             // StoreUnreachable
	StoreUp                      // StoreUp
	kinds
)

func (k Kind) String() string {
	return [...]string{"Unreachable", "SnapshotStatus", "StoreUnreachable", "StoreUp"}[k]
}

// Event is one call of a callback.
type Event[S comparable] struct {
	Kind    Kind
	Region  uint64 // of Unreachable and SnapshotStatus
	Peer    uint64 // likewise
	Store   uint64 // of StoreUnreachable and StoreUp
	Status  S      // of SnapshotStatus
	Refused bool   // it was answered "not now"
	Late    bool   // it came after Closed
	At      time.Time
}

// Router is the host's callbacks, recorded. S is the type of a snapshot's status.
type Router[S comparable] struct {
	mu      sync.Mutex
	log     []Event[S] // only ever appended to, so that views can share it
	refuse  [kinds]int
	closed  bool
	changed chan struct{} // closed and replaced at every event
}

// NewRouter returns a router that takes everything. The test fails at its end
// when a callback came after Closed.
func NewRouter[S comparable](t testing.TB) *Router[S] {
	r := &Router[S]{changed: make(chan struct{})}
	t.Cleanup(func() {
		if late := r.Events().Late(); len(late) > 0 {
			t.Errorf("%d callbacks after Close, the first: %+v", len(late), late[0])
		}
	})
	return r
}

// ReportUnreachable records that a peer of a region couldn't be reached.
func (r *Router[S]) ReportUnreachable(regionID, peerID uint64) bool {
	return r.record(Event[S]{Kind: Unreachable, Region: regionID, Peer: peerID})
}

// ReportSnapshotStatus records how a snapshot to a peer ended.
func (r *Router[S]) ReportSnapshotStatus(regionID, peerID uint64, status S) bool {
	return r.record(Event[S]{Kind: SnapshotStatus, Region: regionID, Peer: peerID, Status: status})
}

// StoreUnreachable records that a store went down.
func (r *Router[S]) StoreUnreachable(storeID uint64) bool {
	return r.record(Event[S]{Kind: StoreUnreachable, Store: storeID})
}

// StoreUp records that a store came up.
func (r *Router[S]) StoreUp(storeID uint64) bool {
	return r.record(Event[S]{Kind: StoreUp, Store: storeID})
}

// Refuse answers "not now" to the next n calls of a kind.
func (r *Router[S]) Refuse(kind Kind, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse[kind] = n
}

// Closed tells that Close has returned: every callback from now on is late.
func (r *Router[S]) Closed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// Events returns what was recorded so far.
func (r *Router[S]) Events() Events[S] {
	events, _ := r.view()
	return events
}

// WaitFor waits until cond holds of the events, and ends the test with msg and
// the last events when it doesn't within timeout.
func (r *Router[S]) WaitFor(t testing.TB, timeout time.Duration, cond func(Events[S]) bool, msg string) {
	t.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	for {
		events, changed := r.view()
		if cond(events) {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			if events = r.Events(); cond(events) {
				return
			}
			last := events[max(0, len(events)-10):]
			t.Fatalf("not within %v: %s; %d events, the last %d: %+v", timeout, msg, len(events), len(last), last)
		}
	}
}

func (r *Router[S]) record(e Event[S]) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse[e.Kind] > 0 {
		r.refuse[e.Kind]--
		e.Refused = true
	}
	e.Late, e.At = r.closed, time.Now()
	r.log = append(r.log, e)
	close(r.changed)
	r.changed = make(chan struct{})
	return !e.Refused
}

func (r *Router[S]) view() (Events[S], <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Events[S](r.log[:len(r.log):len(r.log)]), r.changed
}

// Events is a view of a router's log, in the order of the calls. It doesn't
// change, and is read only. Its counts leave refused calls out, but for Refused.
type Events[S comparable] []Event[S]

// Unreachable counts the reports that the region's peer couldn't be reached.
func (e Events[S]) Unreachable(region, peer uint64) int {
	return e.Count(func(ev Event[S]) bool {
		return ev.Kind == Unreachable && ev.Region == region && ev.Peer == peer
	})
}

// Snapshots returns the statuses reported of snapshots to the region's peer, in order.
func (e Events[S]) Snapshots(region, peer uint64) (statuses []S) {
	for _, ev := range e {
		if !ev.Refused && ev.Kind == SnapshotStatus && ev.Region == region && ev.Peer == peer {
			statuses = append(statuses, ev.Status)
		}
	}
	return statuses
}

// StoreUnreachable counts the times that the store went down.
func (e Events[S]) StoreUnreachable(store uint64) int {
	return e.Count(func(ev Event[S]) bool { return ev.Kind == StoreUnreachable && ev.Store == store })
}

// StoreUp counts the times that the store came up.
func (e Events[S]) StoreUp(store uint64) int {
	return e.Count(func(ev Event[S]) bool { return ev.Kind == StoreUp && ev.Store == store })
}

// Total counts the calls of a kind.
func (e Events[S]) Total(kind Kind) int {
	return e.Count(func(ev Event[S]) bool { return ev.Kind == kind })
}

// Count counts the calls that f picks.
func (e Events[S]) Count(f func(Event[S]) bool) (n int) {
	for _, ev := range e {
		if !ev.Refused && f(ev) {
			n++
		}
	}
	return n
}

// Refused counts the calls of a kind that were answered "not now".
func (e Events[S]) Refused(kind Kind) (n int) {
	for _, ev := range e {
		if ev.Refused && ev.Kind == kind {
			n++
		}
	}
	return n
}

// Late returns the calls that came after Closed.
func (e Events[S]) Late() (late []Event[S]) {
	for _, ev := range e {
		if ev.Late {
			late = append(late, ev)
		}
	}
	return late
}
