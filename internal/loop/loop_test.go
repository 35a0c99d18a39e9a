package loop

import (
	"errors"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/race"
	"github.com/raftmux/raftmux/internal/rig"
)

var errFull = errors.New("loop: the mailbox is full")

var seedFlag = flag.Uint64("loop.seed", 0, "seed of the faults; 0 takes the time")

// healTime is how long the groups may take to commit again once all faults are
// over. It is an election or two and some attempts to connect, on a busy machine.
const healTime = 45 * time.Second

// size returns how many groups there are, and for how long things break.
func size() (groups int, breaking time.Duration) {
	switch {
	case testing.Short():
		return 100, 5 * time.Second
	case race.Enabled:
		return 300, 20 * time.Second
	default:
		return 1000, 15 * time.Second
	}
}

// TestRaftInTheLoop runs three stores with a replica of each of a thousand groups
// (300 under the race detector, 100 with -short) over raftmux and over a network
// that breaks at random, with quorum checks, pre-votes, and reads under leases.
//
// C5, C6, C7, C8, C10, C17, C19: messages arrive in order in their lanes and at
// most once; every group commits again soon after the faults, which it can't do
// unless Raft was told of what was lost; stores go down and come up again, by one
// report per step; queues stay within their bounds, and goroutines few; the
// ledgers balance. And what Raft promises holds: replicas apply the same entries,
// no lease read misses what a client had seen, no two stores hold a lease at once.
func TestRaftInTheLoop(t *testing.T) { raftInTheLoop(t, newProxies(t)) }

// raftInTheLoop runs the cluster over a network, breaks that, and checks.
func raftInTheLoop(t *testing.T, n network) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	groups, breaking := size()
	t.Logf("-loop.seed=%d: %d groups, %v of faults", seed, groups, breaking)
	began := time.Now()
	c := newCluster(t, n, groups, seed)
	c.eventually("every group commits", func(r *regionHistory) bool { return r.floor.Load() > 0 })
	t.Logf("every group has a leader after %v", time.Since(began).Round(time.Millisecond))

	goroutines := 0
	broke := time.Now()
	made := c.breakThings(breaking, seed, func() {
		goroutines = max(goroutines, runtime.NumGoroutine())
		c.checkBounds()
	})
	healed := time.Now()
	t.Logf("faults: %v; at most %d goroutines", made, goroutines)
	if limit := 500; goroutines > limit {
		t.Errorf("%d goroutines, more than %d", goroutines, limit)
	}

	c.setPhase(phaseHealed)
	c.eventually("every group commits a write proposed after healing",
		func(r *regionHistory) bool { return r.fresh.Load() })
	t.Logf("every group has committed a new write %v after healing", time.Since(healed).Round(time.Millisecond))

	c.setPhase(phaseQuiet)
	c.eventually("every replica applies what the others do", func(r *regionHistory) bool {
		applied := r.applied[1].Load()
		return applied == r.applied[2].Load() && applied == r.applied[3].Load() && applied >= r.floor.Load()
	})
	rig.Eventually(t, rig.WaitTimeout, c.allUp, "every store is up for every other")
	c.checkDowns(time.Since(broke))
	c.stopTick()
	rig.Eventually(t, rig.WaitTimeout, c.balanced, "the ledgers balance and nothing waits")
	c.stop()
	c.checkLedgers()
	c.checkLogs()
	c.report()
}

// eventually waits until cond holds of every group.
func (c *cluster) eventually(what string, cond func(*regionHistory) bool) {
	c.t.Helper()
	missing := 0
	defer func() {
		if c.t.Failed() {
			c.t.Logf("%d groups were missing when last asked", missing)
		}
	}()
	rig.Eventually(c.t, healTime, func() bool {
		missing = 0
		for region := range c.history.regions[1:] {
			if !cond(&c.history.regions[region+1]) {
				missing++
			}
		}
		return missing == 0
	}, what)
}
