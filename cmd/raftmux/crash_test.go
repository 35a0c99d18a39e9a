package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
)

// crashes is how often TestCrashesAmidSnapshots kills, unless the environment
// says RAFTMUX_CRASHES=100, as it does once for a release.
const crashes = 6

// crashTest keeps a cluster short of log, so that a store that was away for a
// moment needs snapshots, and slow at sending them, so that kills hit them.
type crashTest struct {
	*testing.T
	cluster *cluster
	load    *workload
	stop    func() // ends the load
	random  *rand.Rand
	kills   struct{ sender, receiver, amid int }
}

// A hundred times, at random points, SIGKILL of a store that sends snapshots or
// of one that receives them, under load: no acknowledged write is lost, and the
// replicas are equal in the end.
func TestCrashesAmidSnapshots(t *testing.T) {
	limit := crashes
	if text := os.Getenv("RAFTMUX_CRASHES"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	c := &crashTest{T: t, random: rand.New(rand.NewPCG(seed, 0))}
	c.start()
	begin := time.Now()
	for c.kills.sender+c.kills.receiver < limit {
		c.round(limit)
	}
	c.stop()
	if err := c.cluster.waitConverged(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	restored := uint64(0)
	for _, s := range c.cluster.children {
		if i, err := s.info(t.Context()); err == nil {
			restored += i.number("snapshots_restored")
		}
	}
	if err := c.cluster.stopAll(); err != nil {
		t.Fatal(err)
	}
	verdict, err := check(c.load, c.cluster.children)
	if err != nil {
		t.Fatal(err)
	}
	if err := verdict.err(); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	t.Logf("seed %d: %d kills of senders and %d of receivers in %v, %d of them with a snapshot under way; %d acknowledged writes, %d lost; %d regions compared, %d differ; %d snapshots restored since the last kills",
		seed, c.kills.sender, c.kills.receiver, time.Since(begin).Round(time.Second), c.kills.amid, verdict.acked, len(verdict.lost), verdict.compared, verdict.unequal, restored)
}

func (c *crashTest) start() {
	logging.Disable() // go-redis's, about stores that are dead on purpose
	var err error
	if c.cluster, err = newCluster(3, 12, filepath.Join(c.TempDir(), "data")); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(c.cluster.release)
	c.cluster.extra = []string{"--max-log-entries", "20", "--snapshot-rate", strconv.Itoa(256 << 10)}
	if err := c.cluster.startAll(); err != nil {
		c.Fatal(err)
	}
	if err := c.cluster.waitReady(c.Context(), time.Minute); err != nil {
		c.Fatal(err)
	}
	c.load = newWorkload("crash", 12, 1024, c.cluster.children)
	writing, stop := context.WithCancel(context.Background())
	c.load.start(writing)
	c.stop = sync.OnceFunc(func() {
		stop()
		c.load.wait()
	})
	c.Cleanup(c.stop)
}

// round takes a store away for longer than the log reaches, brings it back, and
// kills it, or those that send to it, some times while it catches up.
func (c *crashTest) round(limit int) {
	behind := c.cluster.children[c.random.IntN(3)]
	behind.kill()
	others := []*child{}
	for _, s := range c.cluster.children {
		if s != behind {
			others = append(others, s)
		}
	}
	before := c.sum(others, "log_compactions")
	c.eventually("the others go on without it", func() bool {
		return c.sum(others, "log_compactions") >= before+uint64(2*c.cluster.regions)
	})
	c.restart(behind)
	for range 4 {
		if c.kills.sender+c.kills.receiver == limit {
			return
		}
		if !c.snapshotsComeIn(behind) {
			return // it has caught up
		}
		pause(c.Context(), time.Duration(c.random.IntN(40))*time.Millisecond)
		if i, err := behind.info(c.Context()); err == nil && i.number("snapshots_under_way_in") > 0 {
			c.kills.amid++
		}
		victim := behind
		if c.random.IntN(2) == 0 {
			victim = others[c.random.IntN(2)]
			c.kills.sender++
		} else {
			c.kills.receiver++
		}
		victim.kill()
		c.restart(victim)
	}
}

// snapshotsComeIn waits for a snapshot to be under way to a store, for a while:
// it may have all of them by now. If it has not, that shows at the end.
func (c *crashTest) snapshotsComeIn(s *child) bool {
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if i, err := s.info(c.Context()); err == nil && i.number("snapshots_under_way_in") > 0 {
			return true
		}
	}
	return false
}

func (c *crashTest) restart(s *child) {
	if err := c.cluster.start(s); err != nil {
		c.Fatal(err)
	}
}

func (c *crashTest) sum(children []*child, key string) (sum uint64) {
	for _, s := range children {
		if i, err := s.info(c.Context()); err == nil {
			sum += i.number(key)
		}
	}
	return sum
}

func (c *crashTest) eventually(what string, condition func() bool) {
	c.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		for _, s := range c.cluster.children {
			if !s.running() && !s.killed {
				c.Fatal(s.crashed())
			}
		}
		if time.Now().After(deadline) {
			c.Fatal(fmt.Errorf("not in time: %s", what))
		}
	}
}
