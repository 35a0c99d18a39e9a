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
	kills   struct{ sender, receiver int }
}

// A hundred times, at random points, SIGKILL of a store that sends snapshots or
// of one that receives them, under load: no acknowledged write is lost, and the
// replicas are equal in the end. Each of the killed had said, just before, that it
// had a snapshot under way.
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
	for c.killed() < limit {
		if time.Since(begin) > patience(limit) {
			t.Fatalf("seed %d: %d kills in %v; snapshots don't come, or end too soon", seed, c.killed(), patience(limit))
		}
		c.round(limit)
	}
	restored := c.restoreUndisturbed()
	c.stop()
	if err := c.cluster.waitConverged(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
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
	t.Logf("seed %d: %d kills of senders and %d of receivers amid a snapshot in %v; %d acknowledged writes, %d lost; %d regions compared, %d differ; %d snapshots restored by a store that was let be",
		seed, c.kills.sender, c.kills.receiver, time.Since(begin).Round(time.Second), verdict.acked, len(verdict.lost), verdict.compared, verdict.unequal, restored)
}

// patience bounds the time that so many kills take, of which each takes a few seconds.
func patience(kills int) time.Duration { return 2*time.Minute + time.Duration(kills)*10*time.Second }

func (c *crashTest) killed() int { return c.kills.sender + c.kills.receiver }

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
	behind := c.leaveBehind()
	for range 4 {
		if c.killed() == limit {
			return
		}
		victim, count := c.amidSnapshot(behind)
		if victim == nil {
			return // it has caught up
		}
		victim.kill()
		*count++
		c.restart(victim)
	}
}

// leaveBehind takes a store away for longer than the log reaches, brings it back,
// and returns it.
func (c *crashTest) leaveBehind() *child {
	behind := c.cluster.children[c.random.IntN(3)]
	behind.kill()
	others := c.others(behind)
	before := c.sum(others, "log_compactions")
	c.eventually("the others go on without it", func() bool {
		return c.sum(others, "log_compactions") >= before+uint64(2*c.cluster.regions)
	})
	c.restart(behind)
	return behind
}

func (c *crashTest) others(than *child) (others []*child) {
	for _, s := range c.cluster.children {
		if s != than {
			others = append(others, s)
		}
	}
	return others
}

// amidSnapshot waits until the store that is behind has a snapshot coming in, and a
// while longer, so that any point of one may be hit. It returns that store or one
// that sends, as chance has it, which says that it has one under way now; and where
// to count it. It returns nil if there is none for long: the store may have all of
// them by now. If it has not, that shows at the end.
func (c *crashTest) amidSnapshot(behind *child) (victim *child, count *int) {
	candidates, key, count := []*child{behind}, "snapshots_under_way_in", &c.kills.receiver
	if c.random.IntN(2) == 0 {
		candidates, key, count = c.others(behind), "snapshots_under_way_out", &c.kills.sender
	}
	deadline := time.Now().Add(4 * time.Second)
	if c.underWay(candidates, key, deadline) == nil {
		return nil, nil
	}
	pause(c.Context(), time.Duration(c.random.IntN(40))*time.Millisecond)
	return c.underWay(candidates, key, deadline), count
}

// underWay waits until one of the stores has a snapshot under way, and returns it.
func (c *crashTest) underWay(stores []*child, key string, deadline time.Time) *child {
	for ; time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, s := range stores {
			if i, err := s.info(c.Context()); err == nil && i.number(key) > 0 {
				return s
			}
		}
	}
	return nil
}

// restoreUndisturbed leaves a store behind and lets it be, and returns how many
// snapshots it was restored by. What it missed may be in the log by chance, that of
// a leader that was away itself: then it is left behind again.
func (c *crashTest) restoreUndisturbed() (restored uint64) {
	for range 5 {
		behind := []*child{c.leaveBehind()}
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if restored = c.sum(behind, "snapshots_restored"); restored > 0 {
				return restored
			}
		}
	}
	c.Fatal("no store is restored by a snapshot")
	return 0
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
