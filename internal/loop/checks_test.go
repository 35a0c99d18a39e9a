package loop

import (
	"time"

	"github.com/raftmux/raftmux"
)

// pairs calls f for each store and each other one, which is nil for a store that
// the first never sent to.
func (c *cluster) pairs(f func(s *store, to uint64, status raftmux.StoreStatus)) {
	for _, s := range c.stores[1:] {
		for to := uint64(1); to <= stores; to++ {
			if to == s.id {
				continue
			}
			status, ok := s.client.Store(to)
			if !ok {
				c.t.Errorf("store %d knows nothing of store %d", s.id, to)
			}
			f(s, to, status)
		}
	}
}

// checkBounds checks C17's, at any time.
func (c *cluster) checkBounds() {
	c.pairs(func(s *store, to uint64, status raftmux.StoreStatus) {
		for _, conn := range status.Connections {
			messages, bytes := uint64(queueMessages/connections), uint64(queueBytes/connections)
			if conn.Lane == "control" { // which has as many, and memory of its own besides
				messages, bytes = queueMessages, bytes+4<<20
			}
			if conn.Ledger.Queued > messages || conn.Ledger.QueuedBytes > bytes {
				c.history.violation("store %d to %d, %s %d: %d messages and %d bytes wait",
					s.id, to, conn.Lane, conn.Index, conn.Ledger.Queued, conn.Ledger.QueuedBytes)
			}
		}
	})
}

// allUp says whether every host was told last that each store is up (C10).
func (c *cluster) allUp() bool {
	all := true
	c.pairs(func(s *store, to uint64, status raftmux.StoreStatus) {
		_, up := s.edges(to)
		all = all && up && status.State == raftmux.StoreUp
	})
	return all
}

// checkDowns checks that hosts were told of the streams that ended, by no more
// than one report per step, give or take its jitter (C10).
func (c *cluster) checkDowns(d time.Duration) {
	c.pairs(func(s *store, to uint64, status raftmux.StoreStatus) {
		downs, _ := s.edges(to)
		most := int(d/(backoffStep*8/10)) + 2
		if downs > most {
			c.t.Errorf("store %d was told %d times within %v that store %d went down", s.id, downs, d, to)
		}
		for _, conn := range status.Connections {
			// The last generation lives, and one before it carried something.
			if conn.Generation > 2 && conn.Ledger.Sent > 0 && downs == 0 {
				c.t.Errorf("store %d was never told that store %d went down, in %d generations", s.id, to, conn.Generation)
			}
		}
	})
}

// balanced says whether nothing waits and every ledger balances (C7).
func (c *cluster) balanced() bool {
	all := true
	c.pairs(func(_ *store, _ uint64, status raftmux.StoreStatus) {
		for _, conn := range status.Connections {
			l := conn.Ledger
			all = all && l.Queued == 0 && l.QueuedBytes == 0 && l.Accepted == l.Sent+l.DroppedTotal()
		}
	})
	return all
}

// checkLedgers compares the ledgers with what hosts counted: all that was
// accepted is in there, and no more was delivered than was sent (C6, C7). What was
// dropped was reported (C8).
func (c *cluster) checkLedgers() {
	dropped := uint64(0)
	c.pairs(func(s *store, to uint64, status raftmux.StoreStatus) {
		var accepted, sent uint64
		for _, conn := range status.Connections {
			accepted += conn.Ledger.Accepted
			sent += conn.Ledger.Sent
			dropped += conn.Ledger.DroppedTotal()
		}
		counts := &c.history.counts
		if want := counts.accepted[s.id][to].Load(); accepted != want {
			c.t.Errorf("store %d to %d: the ledger has %d accepted, the host %d", s.id, to, accepted, want)
		}
		if delivered := counts.delivered[s.id][to].Load(); delivered > sent {
			c.t.Errorf("store %d to %d: %d were sent and %d delivered", s.id, to, sent, delivered)
		}
	})
	if dropped > 0 && c.history.counts.reports.Load() == 0 {
		c.t.Errorf("%d messages were dropped and none was reported", dropped)
	}
}

// checkLogs compares what the replicas applied.
func (c *cluster) checkLogs() {
	for region := uint64(1); region <= uint64(c.groups); region++ {
		first := c.replica(1, region).applied
		for store := uint64(2); store <= stores; store++ {
			other := c.replica(store, region).applied
			for i := range min(len(first), len(other)) {
				if first[i] != other[i] {
					c.history.violation("region %d: entry %d is %v on store 1 and %v on store %d",
						region, i, first[i], other[i], store)
					break
				}
			}
			if len(first) != len(other) {
				c.history.violation("region %d: %d entries on store 1 and %d on store %d", region, len(first), len(other), store)
			}
		}
		for i, e := range first {
			if e.index != uint64(i+1) {
				c.history.violation("region %d: entry %d is the %dth that is applied", region, e.index, i+1)
				break
			}
		}
	}
}

func (c *cluster) replica(store, region uint64) *replica {
	return c.stores[store].workerOf(region).replicas[region]
}

// report prints what happened, and fails the test when it was too little to tell.
func (c *cluster) report() {
	counts := &c.history.counts
	c.t.Logf("%d writes, %d lease reads; %d reads found no lease, of which Raft's own would have answered %d stale",
		counts.writes.Load(), counts.leaseReads.Load(), counts.noLease.Load(), counts.staleBare.Load())
	c.t.Logf("%d ticks, %d messages refused, %d unreachable reports, %d messages met a full mailbox",
		c.now(), counts.refused.Load(), counts.reports.Load(), counts.overflow.Load())
	c.pairs(func(s *store, to uint64, status raftmux.StoreStatus) {
		downs, _ := s.edges(to)
		for _, conn := range status.Connections {
			c.t.Logf("store %d to %d, %s %d: %d generations, %d times down, sent %d, dropped %v, delivered %d in all",
				s.id, to, conn.Lane, conn.Index, conn.Generation, downs, conn.Ledger.Sent, conn.Ledger.Dropped,
				counts.delivered[s.id][to].Load())
		}
	})
	if counts.writes.Load() < int64(c.groups) || counts.leaseReads.Load() < int64(c.groups) {
		c.t.Errorf("too little happened: %d writes and %d lease reads of %d groups",
			counts.writes.Load(), counts.leaseReads.Load(), c.groups)
	}
}
