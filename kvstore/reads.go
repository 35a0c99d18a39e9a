package kvstore

import (
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
)

const (
	// readAgain is the time after which a ReadIndex that got no answer is repeated.
	readAgain = 500 * time.Millisecond
	// maxReadRounds bounds the ReadIndex rounds of a region that are under way;
	// further reads wait and then share one.
	maxReadRounds = 4
	// maxReads bounds the reads that wait in one region.
	maxReads = 4096
)

// readRound is one ReadIndex and the reads that share it.
type readRound struct {
	number    uint64
	reads     []*request
	retryAt   time.Time
	confirmed bool
	index     uint64 // where to read, once confirmed
}

// readQueue are the reads of one region. A read is answered at an index that
// the leader confirmed after the read came, when this replica has applied it.
type readQueue struct {
	incarnation uint64
	last        uint64 // the number of the last round
	waiting     []*request
	rounds      []*readRound
	count       int
}

// context names a round: the incarnation, so that an answer to an earlier
// start's round fits nothing, and the number. Raft wants 8 bytes at least.
func (q *readQueue) context(number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, q.incarnation), number)
}

func (q *readQueue) add(r *request) bool {
	if q.count >= maxReads {
		return false
	}
	q.count++
	q.waiting = append(q.waiting, r)
	return true
}

// retryAll gives up all rounds that are not confirmed; their reads wait again.
// They keep no claim: a late answer to a round given up fits nothing.
func (q *readQueue) retryAll() { q.giveUp(func(*readRound) bool { return true }) }

func (q *readQueue) giveUp(which func(*readRound) bool) {
	kept := q.rounds[:0]
	for _, round := range q.rounds {
		if round.confirmed || !which(round) {
			kept = append(kept, round)
			continue
		}
		q.waiting = append(q.waiting, round.reads...)
	}
	clear(q.rounds[len(kept):])
	q.rounds = kept
}

// confirm notes Raft's answers.
func (q *readQueue) confirm(states []raft.ReadState) {
	for _, state := range states {
		if len(state.RequestCtx) != 16 || binary.BigEndian.Uint64(state.RequestCtx) != q.incarnation {
			continue
		}
		number := binary.BigEndian.Uint64(state.RequestCtx[8:])
		for _, round := range q.rounds {
			if round.number == number {
				round.confirmed, round.index = true, state.Index
			}
		}
	}
}

// canRead says whether reads wait and a round for them can start.
func (r *region) canRead() bool {
	return len(r.reads.waiting) > 0 && r.leader != raft.None && len(r.reads.rounds) < maxReadRounds
}

// pumpReads starts one round for all reads that wait.
func (r *region) pumpReads(now time.Time) {
	q := &r.reads
	if !r.canRead() {
		return
	}
	q.last++
	q.rounds = append(q.rounds, &readRound{number: q.last, reads: q.waiting, retryAt: now.Add(readAgain)})
	q.waiting = nil
	r.node.ReadIndex(q.context(q.last))
}

// expireReads answers the reads that are out of time, and repeats lost rounds.
func (r *region) expireReads(now time.Time) {
	q := &r.reads
	if q.count == 0 {
		return
	}
	q.giveUp(func(round *readRound) bool { return !round.retryAt.After(now) })
	q.waiting = q.expire(q.waiting, now)
	for _, round := range q.rounds {
		round.reads = q.expire(round.reads, now)
	}
}

func (q *readQueue) expire(reads []*request, now time.Time) []*request {
	kept := reads[:0]
	for _, read := range reads {
		if now.After(read.deadline) {
			read.finish(answer{err: read.expired()})
			q.count--
			continue
		}
		kept = append(kept, read)
	}
	clear(reads[len(kept):])
	return kept
}

// serveReads answers the reads whose index is applied. What is applied must be
// in the database by then.
func (r *region) serveReads(db *pebble.DB) error {
	q := &r.reads
	kept := q.rounds[:0]
	for _, round := range q.rounds {
		if !round.confirmed || round.index > r.applied {
			kept = append(kept, round)
			continue
		}
		for _, read := range round.reads {
			value, err := getCopy(db, dataKey(r.id, read.key))
			if err != nil {
				return err
			}
			read.finish(answer{value: value, existed: value != nil})
			q.count--
		}
	}
	clear(q.rounds[len(kept):])
	q.rounds = kept
	return nil
}
