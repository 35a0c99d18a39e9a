package rig

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Resolver is a scripted resolver: it answers what the test told it to, as
// slowly as the test wants, and remembers what it was asked.
type Resolver struct {
	mu     sync.Mutex
	stores map[uint64]*scripted
}

// scripted is what the resolver knows of one store.
type scripted struct {
	address string
	err     error
	once    []error       // answers before address and err do
	moved   string        // takes address's place when address is called stale
	gate    chan struct{} // closed on release; nil when look-ups aren't held

	hints       []string // the stale address of every look-up
	inFlight    int
	maxInFlight int
}

// NewResolver returns a resolver that knows no store.
func NewResolver() *Resolver {
	return &Resolver{stores: make(map[uint64]*scripted)}
}

// Set makes address the answer for the store, from now on.
func (r *Resolver) Set(store uint64, address string) {
	r.with(store, func(s *scripted) { s.address, s.err, s.moved = address, nil, "" })
}

// SetError makes err the answer for the store, until Set is called.
func (r *Resolver) SetError(store uint64, err error) {
	r.with(store, func(s *scripted) { s.err = err })
}

// FailOnce lets the next look-ups of the store fail, each with one of errs.
func (r *Resolver) FailOnce(store uint64, errs ...error) {
	r.with(store, func(s *scripted) { s.once = append(s.once, errs...) })
}

// SetMoved plays a cache that is behind: the answer is cached until a look-up
// says that cached is stale, and current from then on.
func (r *Resolver) SetMoved(store uint64, cached, current string) {
	r.with(store, func(s *scripted) { s.address, s.err, s.moved = cached, nil, current })
}

// Block holds the store's look-ups, those that come from now on, until release
// is called or their context ends. What they answer is decided after that.
func (r *Resolver) Block(store uint64) (release func()) {
	gate := make(chan struct{})
	r.with(store, func(s *scripted) { s.gate = gate })
	return sync.OnceFunc(func() {
		r.with(store, func(s *scripted) {
			if s.gate == gate {
				s.gate = nil
			}
		})
		close(gate)
	})
}

// Lookups returns how often the store was looked up.
func (r *Resolver) Lookups(store uint64) int {
	return len(r.Hints(store))
}

// Hints returns the stale addresses of the store's look-ups, in order, with ""
// for each look-up that named none.
func (r *Resolver) Hints(store uint64) (hints []string) {
	r.with(store, func(s *scripted) { hints = slices.Clone(s.hints) })
	return hints
}

// InFlight returns how many look-ups of the store are under way, and the most
// there ever were at one time.
func (r *Resolver) InFlight(store uint64) (now, most int) {
	r.with(store, func(s *scripted) { now, most = s.inFlight, s.maxInFlight })
	return now, most
}

// Resolve is the look-up. stale is the address at which a wrong store answered, or "".
func (r *Resolver) Resolve(ctx context.Context, storeID uint64, stale string) (address string, err error) {
	var gate chan struct{}
	r.with(storeID, func(s *scripted) {
		s.hints = append(s.hints, stale)
		s.inFlight++
		s.maxInFlight = max(s.maxInFlight, s.inFlight)
		gate = s.gate
	})
	defer r.with(storeID, func(s *scripted) { s.inFlight-- })

	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	r.with(storeID, func(s *scripted) { address, err = s.answer(storeID, stale) })
	return address, err
}

func (s *scripted) answer(storeID uint64, stale string) (string, error) {
	if len(s.once) > 0 {
		err := s.once[0]
		s.once = s.once[1:]
		return "", err
	}
	if s.err != nil {
		return "", s.err
	}
	if s.moved != "" && stale == s.address {
		s.address, s.moved = s.moved, ""
	}
	if s.address == "" {
		return "", fmt.Errorf("rig: store %d was never set", storeID)
	}
	return s.address, nil
}

// with runs f on the store's record, under the lock.
func (r *Resolver) with(store uint64, f func(*scripted)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stores[store]
	if s == nil {
		s = new(scripted)
		r.stores[store] = s
	}
	f(s)
}
