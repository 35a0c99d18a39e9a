package loop

import (
	"sync/atomic"
	"testing"
)

// maxViolations bounds how many violations are printed; one is enough to fail.
const maxViolations = 20

// history is what all stores know of each other, and only the test may: what was
// acknowledged, who may serve reads, what arrived. Workers check against it.
type history struct {
	t          *testing.T
	violations atomic.Int64
	regions    []regionHistory // by region id
	counts     counts
}

// regionHistory is one group, as a register whose value is the index of the last
// entry that someone outside was told of.
type regionHistory struct {
	// floor is the greatest index that an acknowledged write or a read that was
	// answered has shown to a client. What begins later must see it.
	floor atomic.Uint64
	// fresh means that a write was committed that was proposed after healing.
	fresh atomic.Bool
	// lease is the tick at which a store's lease ends, 0 if it has none.
	lease [stores + 1]atomic.Int64
	// applied is how far each store's replica has applied.
	applied [stores + 1]atomic.Uint64
	// arrived is the number of the last message by sender, receiver and lane.
	// Only the stream that delivers them writes it, one at a time.
	arrived [stores + 1][stores + 1][2]atomic.Uint64
}

type counts struct {
	writes     atomic.Int64 // acknowledged
	leaseReads atomic.Int64 // answered under a lease of the host's
	noLease    atomic.Int64 // a leader had no lease and answered nothing
	staleBare  atomic.Int64 // what these would have answered, and stale at that
	accepted   [stores + 1][stores + 1]atomic.Uint64
	delivered  [stores + 1][stores + 1]atomic.Uint64
	overflow   atomic.Uint64 // messages refused by a full mailbox
	refused    atomic.Int64  // messages that Send did not accept
	reports    atomic.Int64  // ReportUnreachable taken
}

func newHistory(t *testing.T, groups int) *history {
	return &history{t: t, regions: make([]regionHistory, groups+1)}
}

func (h *history) violation(format string, args ...any) {
	if h.violations.Add(1) <= maxViolations {
		h.t.Errorf(format, args...)
	}
}

// show notes that a client was told of the index.
func (r *regionHistory) show(index uint64) {
	for {
		floor := r.floor.Load()
		if index <= floor || r.floor.CompareAndSwap(floor, index) {
			return
		}
	}
}

// soleHolder checks that no other store holds a lease of the region, at a tick
// at which this one does.
func (h *history) soleHolder(region, store uint64, now int64) {
	for other := uint64(1); other <= stores; other++ {
		if other == store {
			continue
		}
		if until := h.regions[region].lease[other].Load(); until > now {
			h.violation("region %d: stores %d and %d hold a lease at tick %d, the latter until %d",
				region, store, other, now, until)
		}
	}
}

// arrive checks that a message is newer than all that came in its lane (C5),
// which also says that it didn't come twice (C6).
func (h *history) arrive(region, from, to uint64, lane int, number uint64) {
	h.counts.delivered[from][to].Add(1)
	last := h.regions[region].arrived[from][to][lane].Swap(number)
	if number <= last {
		h.violation("region %d, store %d to %d, lane %d: message %d came after %d", region, from, to, lane, number, last)
	}
}
