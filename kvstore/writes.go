package kvstore

import (
	"sort"
	"time"
)

// maxPending bounds the writes of one store to one region that are not settled.
// The dedup window of the region's state machine is bounded by it.
const maxPending = 1024

// A write that nobody answered is proposed again after this time, then after
// twice as much, and so on.
const proposeAgain = time.Second

// writeQueue are the writes that this store took for one region and that are
// not settled, in the order of their sequences.
type writeQueue struct {
	incarnation uint64
	last        uint64 // the sequence given last
	pending     []*request
}

// add gives a write its sequence. It returns false if too many are waiting.
func (q *writeQueue) add(r *request) bool {
	if uint64(len(q.pending)) >= maxPending {
		return false
	}
	// Settled ones in the middle still count: low can't pass the oldest.
	if len(q.pending) > 0 && q.last-q.pending[0].sequence+1 >= maxPending {
		return false
	}
	q.last++
	r.sequence = q.last
	r.backoff = proposeAgain
	q.pending = append(q.pending, r)
	return true
}

// find returns the write with a sequence, nil if it is settled.
func (q *writeQueue) find(sequence uint64) *request {
	at := sort.Search(len(q.pending), func(i int) bool { return q.pending[i].sequence >= sequence })
	if at == len(q.pending) || q.pending[at].sequence != sequence {
		return nil
	}
	return q.pending[at]
}

// settle forgets the oldest writes that are finished.
func (q *writeQueue) settle() {
	done := 0
	for done < len(q.pending) && q.pending[done].finished {
		q.pending[done] = nil
		done++
	}
	if q.pending = q.pending[done:]; len(q.pending) == 0 {
		q.pending = nil
	}
}

// low is the lowest sequence that may still be proposed.
func (q *writeQueue) low() uint64 {
	if len(q.pending) == 0 {
		return q.last + 1
	}
	return q.pending[0].sequence
}

// retryAll makes every write due.
func (q *writeQueue) retryAll() {
	for _, r := range q.pending {
		r.retryAt = time.Time{}
	}
}

// propose hands a write to Raft, which keeps it here or forwards it to the leader.
func (r *region) propose(write *request, now time.Time) {
	c := command{
		id:    requestID{store: r.store, incarnation: r.writes.incarnation, sequence: write.sequence},
		low:   r.writes.low(),
		op:    write.op,
		key:   write.key,
		value: write.value,
	}
	if r.node.Propose(c.encode()) != nil {
		// No leader, or it has too much on its hands: try at the next tick.
		write.retryAt = now
		return
	}
	write.proposed = true
	write.retryAt = now.Add(write.backoff)
	write.backoff *= 2
}

// pumpWrites proposes again what is due and answers what is out of time. The
// caller calls it at ticks and when the leader has changed.
func (r *region) pumpWrites(now time.Time) {
	for _, write := range r.writes.pending {
		switch {
		case write.finished:
		case now.After(write.deadline):
			write.finish(answer{err: write.expired()})
		}
	}
	r.writes.settle()
	for _, write := range r.writes.pending {
		if !write.finished && !write.retryAt.After(now) {
			r.propose(write, now)
		}
	}
}
