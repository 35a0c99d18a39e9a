package peer

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// Store is one remote store. It is safe for concurrent use.
type Store struct {
	id      uint64
	set     *Set
	options *Options
	ctx     context.Context // ends when the store does
	cancel  context.CancelFunc
	share   *queue.Share // of all connections

	tombstone atomic.Bool
	forgotten atomic.Bool // by the Set: a later message meets another Store
	paused    atomic.Bool

	mu          sync.Mutex
	connections []*Connection // the data lane's by index, then the control lane's; nil until first used
	users       int           // connections and snapshots that live
	ended       bool
	endReason   queue.Reason
	lookups     lookups
	reach       reachability
	snapshots   queue.Ledger
	quiet       quiet
}

func newStore(set *Set, id uint64) *Store {
	o := set.options
	ctx, cancel := context.WithCancel(set.ctx)
	return &Store{
		id:          id,
		set:         set,
		options:     o,
		ctx:         ctx,
		cancel:      cancel,
		share:       o.Budget.NewShare(o.StoreBytes, o.Connections, o.QueueMinimum, o.LargestMessage),
		connections: make([]*Connection, Slots(o.Connections)),
	}
}

// ID returns the store's id.
func (s *Store) ID() uint64 { return s.id }

// Tombstone says whether the store is gone for ever.
func (s *Store) Tombstone() bool { return s.tombstone.Load() }

// Forgotten says whether the store was removed or revived, so that another Store
// stands for its id from the next message on.
func (s *Store) Forgotten() bool { return s.forgotten.Load() }

// Paused says whether the allowlist leaves the store out.
func (s *Store) Paused() bool { return s.paused.Load() }

// Slots returns how many connections a store has if that many are of the data lane.
func Slots(connections int) int { return connections + 1 }

// Route returns the slot of the connection that carries a region in a lane:
// always the same one, and about as many regions on each of the data lane. The
// hash mixes all bits, so ids with a common divisor don't crowd on one
// connection.
func (s *Store) Route(lane Lane, regionID uint64) (slot int) {
	data := s.options.Connections
	switch {
	case lane == Control:
		return data
	case data == 1:
		return 0
	}
	index, _ := bits.Mul64(mix(regionID), uint64(data))
	return int(index)
}

// mix is the finalizer of splitmix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Connection returns the connection in a slot and starts its life if this is its
// first use. It fails with ErrDisconnected once the store has ended.
func (s *Store) Connection(slot int) (*Connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, ErrDisconnected
	}
	if c := s.connections[slot]; c != nil {
		return c, nil
	}
	lane, index := Data, slot
	if slot == s.options.Connections {
		lane, index = Control, 0
	}
	c := newConnection(s, lane, index)
	if !s.set.start(c.run) {
		return nil, ErrDisconnected
	}
	s.users++
	s.connections[slot] = c
	return c, nil
}

// leave notes the end of a connection or a snapshot. The last one to leave a
// store that has ended takes with it a look-up for which nobody waits any more.
func (s *Store) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.ended && s.users == 0 {
		s.cancel()
	}
}

// bury makes the store a tombstone: its connections go away, and what they held
// is reported.
func (s *Store) bury() {
	s.tombstone.Store(true)
	s.end(queue.ReasonTombstone)
}

// end disconnects the store for a reason. Only the first call counts.
func (s *Store) end(reason queue.Reason) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	s.endReason = reason
	connections := s.used()
	s.mu.Unlock()
	for _, c := range connections {
		c.queue.Disconnect(reason)
	}
	s.cancel()
	s.flushEdge()
}

// seal refuses new messages, drops what was not flushed, and ends connections
// that have nothing left to do.
func (s *Store) seal() {
	s.mu.Lock()
	if !s.ended {
		s.ended = true
		s.endReason = queue.ReasonClosing
	}
	connections := s.used()
	s.mu.Unlock()
	for _, c := range connections {
		c.queue.DropStaged(queue.ReasonClosing)
		if mutant.Active == mutant.C24 { // what was flushed goes the same way
			c.queue.Clear(queue.ReasonClosing)
		}
		c.queue.Seal()
		// The queue is looked at first: if it was emptied into a stream, the connection
		// is open until that has ended.
		if ledger := c.queue.Ledger(); ledger.Queued == 0 && !c.open.Load() {
			c.cancel()
		}
	}
}

// finish lets the connections see that the Client is closing.
func (s *Store) finish() {
	s.mu.Lock()
	connections := s.used()
	s.mu.Unlock()
	for _, c := range connections {
		c.woken()
	}
}

func (s *Store) used() []*Connection {
	var used []*Connection
	for _, c := range s.connections {
		if c != nil {
			used = append(used, c)
		}
	}
	return used
}

// reason returns why the store ended, for what is dropped from then on.
func (s *Store) reason() queue.Reason {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return s.endReason
	}
	return queue.ReasonClosing
}

// dropped is told of each clearing of a queue.
func (s *Store) dropped(reason queue.Reason, peers []report.Peer, messages int) {
	s.options.Metrics.Failed(reason.String(), s.id, messages)
	s.options.Reporter.Unreachable(peers)
}
