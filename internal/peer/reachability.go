package peer

import (
	"sync/atomic"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/queue"
)

// reachability is whether a store can be reached, and what the host was told of
// it. Guarded by Store.mu.
type reachability struct {
	up       int // generations that are up
	told     told
	lastDown time.Time     // when StoreUnreachable was told last
	downs    atomic.Uint64 // how often it was told; read by the pumps without the lock
	deferred *time.Timer   // a down edge that waits for the end of the backoff step
}

type told uint8

const (
	toldNothing told = iota
	toldUp
	toldDown
)

// cameUp notes that a generation is up, once. What was removed is about to end: the
// host is told of the Store that stands for the id from then on, which may be down.
func (s *Store) cameUp(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.up || g.over || s.Forgotten() {
		return
	}
	g.up = true
	s.reach.up++
	if s.lookups.stale != g.address { // an idle stream to the wrong store may count as up
		s.lookups.stale = ""
	}
	if g.whenUp != nil {
		g.whenUp()
	}
	if s.reach.told != toldUp {
		s.reach.told = toldUp
		s.options.Reporter.StoreUp(s.id)
	}
	s.sayUp(g.address)
}

// generationEnded notes the end of a generation. If it carried messages an
// unknown part of them is lost, which is a down edge: unless the host was told
// of one since it was handed the last of them, for that says the same of all
// that was sent before.
func (s *Store) generationEnded(g *generation, lost bool) {
	s.mu.Lock()
	g.over = true
	if g.up {
		s.reach.up--
	}
	told := lost && g.downs == s.reach.downs.Load() && s.downEdge()
	s.mu.Unlock()
	if told {
		s.reaffirm()
	}
}

// reaffirm tells the host again that a store is up that was removed and has come
// back, if the host was just told of the end of what was there before: the last that
// it hears is of the Store that lives. Whoever tells a down edge calls it next,
// without s.mu. Should the store come back only after this, it comes up after it, too.
func (s *Store) reaffirm() {
	if !s.Forgotten() {
		return
	}
	living := s.set.Lookup(s.id)
	if living == nil {
		return
	}
	living.mu.Lock()
	defer living.mu.Unlock()
	if living.reach.told == toldUp {
		s.options.Reporter.StoreUp(living.id)
	}
}

// unreached notes a failure to reach the store. It is a down edge if the host
// knows nothing else: the store was never up, or it was and nothing is now.
func (s *Store) unreached() {
	s.mu.Lock()
	told := s.reach.up == 0 && (s.reach.told != toldDown || mutant.Active == mutant.C10) && s.downEdge()
	s.mu.Unlock()
	if told {
		s.reaffirm()
	}
}

// downEdge tells the host, at most once per backoff step. A further edge within
// the step is covered by what the host was told, unless the store came back in
// between: then the host believes that it is up, and hears of this edge when
// the step is over, or when Close is. It returns whether the host was told now. The caller holds
// s.mu.
func (s *Store) downEdge() (told bool) {
	wait := s.options.BackoffStep - time.Since(s.reach.lastDown)
	switch {
	case s.reach.lastDown.IsZero() || wait <= 0:
		s.tellDown()
		return true
	case s.reach.told == toldDown || s.reach.deferred != nil:
	case s.ended && s.endReason != queue.ReasonClosing: // nobody is there any more to wait for the end of the step
		s.tellDown()
		return true
	default:
		s.reach.deferred = time.AfterFunc(wait, s.flushEdge)
	}
	return false
}

// flushEdge tells a deferred edge now.
func (s *Store) flushEdge() {
	if s.tellDeferred() {
		s.reaffirm()
	}
}

// tellDeferred tells a deferred edge, and that the store is up if it is by now. It
// returns whether there was an edge.
func (s *Store) tellDeferred() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reach.deferred == nil {
		return false
	}
	s.tellDown()
	if s.reach.up > 0 && !s.ended {
		s.reach.told = toldUp
		s.options.Reporter.StoreUp(s.id)
	}
	return true
}

// tellDown tells the host that the store is unreachable. The caller holds s.mu.
func (s *Store) tellDown() {
	if s.reach.deferred != nil {
		s.reach.deferred.Stop()
		s.reach.deferred = nil
	}
	s.reach.told = toldDown
	s.reach.lastDown = time.Now()
	s.reach.downs.Add(1)
	s.options.Reporter.StoreUnreachable(s.id)
}
