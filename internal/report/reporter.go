// Package report carries what the host must hear from whoever noticed it to the
// host's callbacks, without losing any and without blocking anyone.
package report

import (
	"fmt"
	"sync"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
)

// retryInterval is when a host that answered "not now" is asked again.
const retryInterval = 20 * time.Millisecond

// Host is who is told. Each call returns false for "not now".
type Host interface {
	ReportUnreachable(regionID, peerID uint64) bool
	ReportSnapshotStatus(regionID, peerID uint64, status SnapshotStatus) bool
	StoreUnreachable(storeID uint64) bool
	StoreUp(storeID uint64) bool
}

// Peer is a peer of a region.
type Peer struct {
	RegionID, PeerID uint64
}

// Outcome is how a snapshot message to a peer ended.
type Outcome struct {
	Peer
	Status SnapshotStatus
}

// UntakenError is what Close returns when the host did not take everything.
type UntakenError struct {
	// Snapshots are the statuses that nobody took, in the order in which they came.
	Snapshots []Outcome
	// Unreachable are the peers whose report nobody took.
	Unreachable []Peer
}

// Error implements error.
func (e *UntakenError) Error() string {
	return fmt.Sprintf("raftmux: the host did not take %d snapshot statuses and %d unreachable reports before close",
		len(e.Snapshots), len(e.Unreachable))
}

// Reporter owns the one goroutine on which all callbacks run. Its memory grows
// with the number of distinct peers and with the snapshots that the host did
// not take yet, never with messages.
type Reporter struct {
	host calling
	wake chan struct{} // capacity 1
	stop chan struct{}
	done chan struct{}

	stopOnce sync.Once
	untaken  error // written before done is closed

	refused pending // what the host was asked already; belongs to the goroutine

	mu      sync.Mutex
	pending pending // what it was not asked yet
}

// pending is what waits for the host.
type pending struct {
	unreachable []Peer
	listed      map[Peer]struct{} // what unreachable holds
	snapshots   []Outcome
	ended       map[Peer]struct{} // of whom snapshots holds an outcome
	stores      []uint64          // with edges, in the order in which they got one
	edges       map[uint64][]edge
}

type edge bool

const (
	down edge = false
	up   edge = true
)

// New starts a reporter. Close ends it.
func New(host Host) *Reporter {
	r := &Reporter{
		host: calling{host: host},
		wake: make(chan struct{}, 1),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	go r.run()
	return r
}

// Unreachable reports peers whose messages were dropped. A peer whose last
// report the host did not take yet is reported once.
func (r *Reporter) Unreachable(peers []Peer) {
	r.mu.Lock()
	for _, peer := range peers {
		r.pending.addUnreachable(peer)
	}
	r.mu.Unlock()
	r.notify()
}

// Snapshot reports how a snapshot message ended. A status waits for an earlier
// one of the same peer, and for no other.
func (r *Reporter) Snapshot(outcome Outcome) {
	r.mu.Lock()
	r.pending.addSnapshot(outcome)
	r.mu.Unlock()
	r.notify()
}

// StoreUnreachable reports a store's down edge.
func (r *Reporter) StoreUnreachable(storeID uint64) { r.addEdge(storeID, down) }

// StoreUp reports that a store can be reached.
func (r *Reporter) StoreUp(storeID uint64) { r.addEdge(storeID, up) }

func (r *Reporter) addEdge(storeID uint64, e edge) {
	r.mu.Lock()
	r.pending.addEdge(storeID, e)
	r.mu.Unlock()
	r.notify()
}

// Close asks the host once more for whatever it did not take, ends the
// goroutine, and returns an *UntakenError if something was not taken even then.
// No callback runs after it has returned. Further calls return the same.
func (r *Reporter) Close() error {
	r.stopOnce.Do(func() { close(r.stop) })
	if mutant.Active == mutant.C11 { // nobody waits for the goroutine
		return nil
	}
	<-r.done
	return r.untaken
}

// Calling returns the callback that is under way, as in StoreUp(2), or "".
func (r *Reporter) Calling() string { return r.host.String() }

func (r *Reporter) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Reporter) run() {
	defer close(r.done)
	retry := time.NewTimer(retryInterval)
	retry.Stop()
	defer retry.Stop()
	armed := false
	for {
		again := false
		select {
		case <-r.stop:
			r.deliver(true)
			r.untaken = r.leftOver()
			return
		case <-r.wake:
		case <-retry.C:
			armed, again = false, true
		}
		if !r.deliver(again) && !armed {
			retry.Reset(retryInterval)
			armed = true
		}
	}
}

// deliver asks the host once for everything that is new and, if again is set,
// for what it refused before. It returns false if something refused is left. A
// host that is busy is not asked more often because more comes in.
func (r *Reporter) deliver(again bool) bool {
	r.mu.Lock()
	todo := r.pending
	r.pending = pending{}
	r.mu.Unlock()

	refused := &r.refused
	if again {
		refused.append(todo)
		todo = *refused
		*refused = pending{}
	}
	for _, storeID := range todo.stores {
		for _, e := range todo.edges[storeID] {
			// After a refused edge the later ones of the same store wait too.
			if len(refused.edges[storeID]) > 0 || !r.tellEdge(storeID, e) {
				refused.addEdge(storeID, e)
			}
		}
	}
	for _, outcome := range todo.snapshots {
		// Likewise for the statuses of one peer.
		_, held := refused.ended[outcome.Peer]
		if held || !r.host.ReportSnapshotStatus(outcome.RegionID, outcome.PeerID, outcome.Status) && mutant.Active != mutant.C9 {
			refused.addSnapshot(outcome)
		}
	}
	for _, peer := range todo.unreachable {
		_, held := refused.listed[peer]
		if !held && !r.host.ReportUnreachable(peer.RegionID, peer.PeerID) {
			refused.addUnreachable(peer)
		}
	}
	return refused.empty()
}

func (r *Reporter) tellEdge(storeID uint64, e edge) bool {
	if e == up {
		return r.host.StoreUp(storeID)
	}
	return r.host.StoreUnreachable(storeID)
}

func (r *Reporter) leftOver() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := &r.refused
	left.append(r.pending) // what came while the host was asked for the last time
	if len(left.snapshots) == 0 && len(left.unreachable) == 0 {
		return nil
	}
	return &UntakenError{Snapshots: left.snapshots, Unreachable: left.unreachable}
}

func (p *pending) empty() bool {
	return len(p.unreachable) == 0 && len(p.snapshots) == 0 && len(p.stores) == 0
}

func (p *pending) addUnreachable(peer Peer) {
	if _, ok := p.listed[peer]; ok {
		return
	}
	if p.listed == nil {
		p.listed = make(map[Peer]struct{})
	}
	p.listed[peer] = struct{}{}
	p.unreachable = append(p.unreachable, peer)
}

func (p *pending) addSnapshot(outcome Outcome) {
	if p.ended == nil {
		p.ended = make(map[Peer]struct{})
	}
	p.ended[outcome.Peer] = struct{}{}
	p.snapshots = append(p.snapshots, outcome)
}

// addEdge keeps at most two edges of a store, the last of which is the newest. A
// third equals the first. What must not be lost is that there was a down edge,
// for it says that messages were.
func (p *pending) addEdge(storeID uint64, e edge) {
	edges := p.edges[storeID]
	switch n := len(edges); {
	case n == 0:
		if p.edges == nil {
			p.edges = make(map[uint64][]edge)
		}
		p.stores = append(p.stores, storeID)
		p.edges[storeID] = []edge{e}
	case edges[n-1] == e:
	case n == 2 && e == down: // down, up, down
		p.edges[storeID] = edges[:1]
	case n == 2: // up, down, up
		p.edges[storeID] = []edge{down, up}
	default:
		p.edges[storeID] = append(edges, e)
	}
}

// append adds what came later.
func (p *pending) append(later pending) {
	for _, storeID := range later.stores {
		for _, e := range later.edges[storeID] {
			p.addEdge(storeID, e)
		}
	}
	for _, outcome := range later.snapshots {
		p.addSnapshot(outcome)
	}
	for _, peer := range later.unreachable {
		p.addUnreachable(peer)
	}
}
