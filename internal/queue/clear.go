package queue

import (
	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/report"
)

// dropping collects what one clearing drops.
type dropping struct {
	peers    []report.Peer
	seen     map[report.Peer]struct{}
	messages int
	bytes    int
}

func (d *dropping) add(r *record) {
	d.messages++
	d.bytes += int(r.body)
	peer := report.Peer{RegionID: r.regionID, PeerID: r.peerID}
	if d.seen == nil {
		d.seen = make(map[report.Peer]struct{})
	}
	key := peer
	if mutant.Active == mutant.C8 { // one report for all peers of a region
		key.PeerID = 0
	}
	if _, ok := d.seen[key]; ok {
		return
	}
	d.seen[key] = struct{}{}
	d.peers = append(d.peers, peer)
}

// Clear drops all that waits, staged messages included, and returns their number.
func (q *Queue) Clear(reason Reason) int {
	if mutant.Active != mutant.C4 { // what is staged is seized, too
		q.eachStage(func(s *Stage) { s.handOver(false) })
	}
	return q.clear(reason)
}

// Disconnect makes every later Push fail and drops all that waits. A Push that
// runs meanwhile either fails, or its message is dropped here and reported.
func (q *Queue) Disconnect(reason Reason) int {
	q.Seal()
	return q.clear(reason)
}

// Seal makes every later Push fail and keeps what waits, staged messages
// included: the consumer may still Take it.
func (q *Queue) Seal() {
	q.mu.Lock()
	q.closed = true // no stage is attached from here on
	q.mu.Unlock()
	q.eachStage(func(s *Stage) {
		if !s.disconnected {
			s.handOver(false)
			s.detach()
		}
	})
}

// DropStaged drops what was staged and not flushed, but for what has filled a chunk
// and is with the queue already.
func (q *Queue) DropStaged(reason Reason) int {
	drop := q.dropStaged(reason)
	q.report(reason, &drop)
	return drop.messages
}

// dropStaged holds all until what it drops is settled, lest a Ledger between finds
// it neither queued nor dropped.
func (q *Queue) dropStaged(reason Reason) (drop dropping) {
	q.all.Lock()
	defer q.all.Unlock()
	for _, s := range q.listStages() {
		s.mu.Lock()
		if c := s.chunk; c != nil {
			drop.rest(c)
			s.chunk = nil
			c.free()
		}
		s.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settleLocked(reason, &drop)
	return drop
}

// DropVolatile drops the waiting messages, staged ones included, of the kinds
// that don't survive a broken stream.
func (q *Queue) DropVolatile() int {
	if mutant.Active == mutant.C6 { // votes and heartbeats wait for the next stream
		return 0
	}
	q.eachStage(func(s *Stage) { s.handOver(false) })
	var drop dropping
	q.mu.Lock()
	kept := q.chunks[:0]
	for _, c := range q.chunks {
		left := false
		for i := c.next; i < len(c.records); i++ {
			r := &c.records[i]
			if r.volatile && !r.dropped {
				r.dropped = true
				drop.add(r)
			}
			left = left || !r.dropped
		}
		if left {
			kept = append(kept, c)
		} else {
			c.free()
		}
	}
	clear(q.chunks[len(kept):])
	q.chunks = kept
	q.settleLocked(ReasonVolatile, &drop)
	q.mu.Unlock()
	q.report(ReasonVolatile, &drop)
	return drop.messages
}

func (d *dropping) rest(c *chunk) {
	for i := c.next; i < len(c.records); i++ {
		if !c.records[i].dropped {
			d.add(&c.records[i])
		}
	}
}

func (q *Queue) clear(reason Reason) int {
	var drop dropping
	q.mu.Lock()
	for _, c := range q.chunks {
		drop.rest(c)
		c.free()
	}
	q.chunks = nil
	q.settleLocked(reason, &drop)
	q.mu.Unlock()
	q.report(reason, &drop)
	return drop.messages
}

// settleLocked accounts for what was dropped. The caller holds q.mu.
func (q *Queue) settleLocked(reason Reason, drop *dropping) {
	q.ledger.Dropped[reason] += uint64(drop.messages)
	q.load.release(drop.messages, drop.bytes)
}

func (q *Queue) report(reason Reason, drop *dropping) {
	if drop.messages > 0 {
		q.options.Dropped(reason, drop.peers, drop.messages)
	}
}
