package peer

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/raftmux/raftmux/internal/queue"
)

// Set holds the stores of a Client. It is safe for concurrent use; its lock is
// taken when a Sender meets a store for the first time, and for snapshot messages,
// but for no other message.
type Set struct {
	options *Options
	ctx     context.Context // ends everything at once
	cancel  context.CancelFunc
	closing chan struct{} // asks connections to finish
	running sync.WaitGroup
	slots   chan struct{} // one per snapshot under way
	sealing sync.Once
	// streams numbers the streams to all stores, so that a store that was removed
	// and came back has newer ones than before.
	streams atomic.Uint64
	limits  atomic.Pointer[queue.Limits] // for the next batch

	mu        sync.Mutex
	stores    map[uint64]*Store
	allowlist map[uint64]struct{} // nil allows every store
	closed    bool
}

// NewSet returns an empty set. The options must not change afterwards.
func NewSet(options *Options) *Set {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Set{
		options: options,
		ctx:     ctx,
		cancel:  cancel,
		closing: make(chan struct{}),
		slots:   make(chan struct{}, options.MaxSnapshots),
		stores:  make(map[uint64]*Store),
	}
	s.SetLimits(options.Limits)
	return s
}

// SetLimits changes the limits of batches, from the next one on.
func (s *Set) SetLimits(limits queue.Limits) { s.limits.Store(&limits) }

// Store returns the store with this id, and makes it if there is none. It fails
// with ErrDisconnected after Close. A tombstone is returned like any other.
func (s *Set) Store(id uint64) (*Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrDisconnected
	}
	store, ok := s.stores[id]
	if !ok {
		store = newStore(s, id)
		store.paused.Store(!s.allows(id))
		s.stores[id] = store
	}
	return store, nil
}

// Stores returns all stores in no order.
func (s *Set) Stores() []*Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	stores := make([]*Store, 0, len(s.stores))
	for _, store := range s.stores {
		stores = append(stores, store)
	}
	return stores
}

// Lookup returns the store with this id, or nil.
func (s *Set) Lookup(id uint64) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stores[id]
}

// Remove forgets a store, a tombstone too. What it held is reported. A later
// message begins anew. After Close it does nothing.
func (s *Set) Remove(id uint64) {
	if !s.enter() {
		return
	}
	defer s.running.Done()
	s.mu.Lock()
	store := s.stores[id]
	delete(s.stores, id)
	if store != nil {
		store.forgotten.Store(true)
		store.paused.Store(false) // or a Sender that knows it would never find that it has ended
	}
	s.mu.Unlock()
	if store != nil {
		store.end(queue.ReasonRemoved)
	}
}

// Revive forgets a store if it is a tombstone.
func (s *Set) Revive(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if store := s.stores[id]; store != nil && store.Tombstone() {
		store.forgotten.Store(true)
		delete(s.stores, id)
	}
}

// SetAllowlist pauses every store that is not listed; nil pauses none.
func (s *Set) SetAllowlist(ids []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowlist = nil
	if ids != nil {
		s.allowlist = make(map[uint64]struct{}, len(ids))
		for _, id := range ids {
			s.allowlist[id] = struct{}{}
		}
	}
	for id, store := range s.stores {
		store.paused.Store(!s.allows(id))
	}
}

// allows says whether the allowlist has a store. The caller holds s.mu.
func (s *Set) allows(id uint64) bool {
	if s.allowlist == nil {
		return true
	}
	_, ok := s.allowlist[id]
	return ok
}

// enter makes Close wait for the caller, who may have something to report, until
// running.Done. It returns false after Close.
func (s *Set) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.running.Add(1)
	return true
}

// start runs f on a goroutine that Close waits for. It returns false after Close.
func (s *Set) start(f func()) bool {
	if !s.enter() {
		return false
	}
	defer s.running.Done()
	s.running.Go(f)
	return true
}

// Close refuses new messages, drops what was staged and not flushed, sends what
// was flushed until ctx ends, drops the rest, and waits for every goroutine.
// Snapshots under way may finish until ctx ends too. Every call waits.
func (s *Set) Close(ctx context.Context) {
	s.sealing.Do(s.seal)
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	s.running.Wait()
	s.cancel()
	for _, store := range s.Stores() {
		store.flushEdge()
	}
}

// seal begins the end. No connection finishes before all stores are sealed.
func (s *Set) seal() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	stores := s.Stores()
	for _, store := range stores {
		store.seal()
	}
	close(s.closing)
	for _, store := range stores {
		store.finish()
	}
}

func (s *Set) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}
