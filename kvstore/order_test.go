package kvstore

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/raftmux/raftmux"
)

// ordered waits until a store takes an order to replace another, with FORCE.
func (c *cluster) ordered(at, oldStore, newStore uint64) {
	c.t.Helper()
	var err error
	eventually(c.t, 30*time.Second, "the order is given", func() bool {
		_, err = c.stores[at].ForceReplaceStore(oldStore, newStore, c.peers[newStore])
		return !errors.Is(err, ErrTryAgain)
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// A store that lives and is to go may be needed to take itself out: of two it is half of
// each majority.
func TestOrderAboutOneOfTwo(t *testing.T) {
	c := newCluster(t, 2, Options{Regions: 4})
	mustSet(t, c.stores[1], "key", "value")
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	waitReady(t, c.join(3))
	c.ordered(1, 2, 3)
	for region := uint64(1); region <= 4; region++ {
		c.waitRole(3, region, roleVoter)
	}
	eventually(t, 20*time.Second, "it is forgotten", func() bool {
		status, known := c.stores[1].client.Store(2)
		return !known || status.State == raftmux.StoreTombstone
	})
	c.lose(2)
	mustSet(t, c.stores[1], "key", "after")
	c.checkEqual()
}

// An order at a store is about the regions that it has. Of others, which nobody has
// told, the old store still is a part.
func TestOrderAboutSomeRegions(t *testing.T) {
	c := newCluster(t, 4, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.takeOut(2, 1)
	c.takeOut(2, 2) // so stores 3 and 4 are its majority
	waitReady(t, c.join(5))
	c.ordered(1, 4, 5)
	c.waitRole(5, 1, roleVoter)
	c.ordered(3, 4, 5)
	c.waitRole(5, 2, roleVoter)
	c.lose(4)
	for _, key := range []string{"a", "b", "c", "d"} {
		mustSet(t, c.stores[3], key, "after")
	}
}

// Nobody may take a region's majority away, by FORCE neither.
func TestOrderThatLeavesNoMajority(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged()
	c.lose(3)
	c.join(4)
	eventually(t, 20*time.Second, "store 3 is missed", func() bool { return c.stores[1].host.directory.upFor(3) == 0 })
	_, err := c.stores[1].ForceReplaceStore(2, 4, c.peers[4])
	if !errors.Is(err, ErrChange) || !strings.Contains(err.Error(), "without store 2 there are 2 voters, of which 1 can be reached") {
		t.Errorf("the other one is to go: %v", err)
	}
	c.ordered(1, 3, 4)
	c.waitRole(4, 1, roleVoter)
	c.waitRole(4, 2, roleVoter)
	c.checkEqual()
}

func TestOrderAboutTheOnlyVoter(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	waitReady(t, c.join(2))
	c.mustChange(1, "add", func(l *Store) error { _, err := l.AddLearner(1, 2, c.peers[2]); return err })
	c.waitRole(2, 1, roleLearner)
	waitReady(t, c.join(3))
	_, err := c.stores[2].ForceReplaceStore(1, 3, c.peers[3])
	if !errors.Is(err, ErrChange) || !strings.Contains(err.Error(), "region 1: store 1 has the only voter") {
		t.Errorf("it is to go: %v", err)
	}
	mustSet(t, c.stores[2], "key", "after")
}

// An address that was mistyped is mended by the order with the right one.
func TestOrderWithACorrectedAddress(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged()
	c.lose(3)
	c.join(4)
	for _, address := range []string{"127.0.0.1:1", c.peers[4]} {
		eventually(t, 30*time.Second, "the order is given", func() bool {
			_, err := c.stores[1].ReplaceStore(3, 4, address)
			return err == nil
		})
		eventually(t, 30*time.Second, "its learners are there", func() bool {
			for region := uint64(1); region <= 2; region++ {
				d, err := c.stores[1].Peers(region)
				if err != nil || d.on(4) == nil || d.on(4).Address != address {
					return false
				}
			}
			return true
		})
	}
	c.waitRole(4, 1, roleVoter)
	c.waitRole(4, 2, roleVoter)
	c.checkEqual()
}

// A learner that only a lost store had heard of, and that lost its own folder, is known
// by what was written by it: its numbers begin anew, and would be taken for the old ones.
func TestLostDiskOfALearnerThatWrote(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	waitReady(t, c.join(4))
	c.mustChange(1, "add", func(l *Store) error {
		if d, err := l.Peers(1); err != nil || d.on(4) != nil {
			return err
		}
		_, err := l.AddLearner(1, 4, c.peers[4])
		return err
	})
	c.waitRole(4, 1, roleLearner)
	mustSet(t, c.stores[4], "a", "by 4")
	c.waitConverged()
	leader := c.leaderOf(1).options.StoreID
	c.lose(4)
	c.lose(leader)
	other := leader%3 + 1
	c.fs[4] = vfs.NewCrashableMem()
	c.given[4] = map[uint64]string{other: c.peers[other], 4: c.peers[4]}
	c.start(4)
	wantFailure(t, c.stores[4], ErrKnown, "store 4")
	c.stop(4)
	delete(c.fs, 4)
}

// moveFounder has store 3 at another address from now on.
func (c *cluster) moveFounder() {
	raft, clients := listenLocal(c.t, "127.0.0.1:0"), listenLocal(c.t, "127.0.0.1:0")
	c.peers[3], c.clients[3] = raft.Addr().String(), clients.Addr().String()
	c.given[3] = map[uint64]string{1: c.peers[1], 2: c.peers[2], 3: c.peers[3]}
	c.open(3, raft, clients)
}

// A store that joins finds a founder where it answers, not where it was when regions
// were told of it.
func TestJoinerFindsAFounderThatMoved(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 3})
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged()
	for id := uint64(1); id <= 3; id++ {
		c.stop(id)
	}
	c.moveFounder()
	for id := uint64(1); id <= 2; id++ {
		c.given[id] = maps.Clone(c.given[3])
		c.start(id)
	}
	eventually(t, 40*time.Second, "leaders", c.leadersHome)
	raft, clients := listenLocal(t, "127.0.0.1:0"), listenLocal(t, "127.0.0.1:0")
	c.peers[4], c.clients[4] = raft.Addr().String(), clients.Addr().String()
	c.fs[4], c.joined[4] = vfs.NewCrashableMem(), true
	c.given[4] = map[uint64]string{1: c.peers[1], 2: c.peers[2], 4: c.peers[4]} // as the help has it
	c.open(4, raft, clients)
	waitReady(t, c.stores[4])
	for region := uint64(1); region <= 3; region++ {
		c.putIn(region, 4)
	}
	if at := c.stores[4].host.directory.addressOf(3); at != c.peers[3] {
		t.Errorf("store 3 is at %s, not at %s", at, c.peers[3])
	}
	c.checkEqual()
}

// An address that a founder's own options contradict would never be used.
func TestLearnerAtAnAddressThatOptionsContradict(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	c.takeOut(1, 3)
	c.stop(3)
	c.moveFounder()
	var err error
	eventually(t, 30*time.Second, "it is refused", func() bool {
		_, err = c.leaderOf(1).AddLearner(1, 3, c.peers[3])
		return errors.Is(err, ErrChange)
	})
	if !strings.Contains(err.Error(), "which wins over "+c.peers[3]) {
		t.Errorf("refused with %v", err)
	}
}
