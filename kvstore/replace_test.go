package kvstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// An order to replace a store can't be taken back, so one that can only be a mistake
// is refused, and says why.
func TestMistakenOrdersToReplaceAreRefused(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	for name, test := range map[string]struct {
		store, old, substitute uint64
		want                   string
	}{
		"the store that is asked":   {3, 3, 4, "store 3 is to be replaced by 4 and is the one that was asked"},
		"by one that is in already": {1, 3, 2, fmt.Sprintf("region 1: store 2, which is to replace 3, has voter %d already; name a store that has none, or take peer %d out by RAFT.REMOVE", PeerID(1, 2), PeerID(1, 3))},
		"by itself":                 {1, 3, 3, "store 3 can't replace itself"},
		"by no store":               {1, 3, 0, "store id 0 is not from 1 to 999"},
		"one that lives":            {1, 3, 4, "store 3, which is to be replaced, is not gone, it answers at " + c.peers[3] + "; stop it for good, or see which store is lost, or, if it has to go all the same, add FORCE"},
		"one that never was":        {1, 33, 4, "store 33, which is to be replaced, is one that store 1 has never heard of"},
		"no store at all":           {1, 1000, 4, "store id 1000 is not from 1 to 999"},
	} {
		var err error
		eventually(t, 30*time.Second, name+" is answered", func() bool {
			_, err = c.stores[test.store].ReplaceStore(test.old, test.substitute, "127.0.0.1:1")
			return !errors.Is(err, ErrTryAgain)
		})
		if !errors.Is(err, ErrChange) || !strings.Contains(fmt.Sprint(err), test.want) || strings.Contains(fmt.Sprint(err), "give it again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for id, store := range c.stores {
		for region := uint64(1); region <= 2; region++ {
			if d, err := store.Peers(region); err != nil || d.Replacement != nil || len(d.Retired) > 0 {
				t.Errorf("region %d on store %d has an order: %+v, %v", region, id, d, err)
			}
		}
	}
	c.checkEqual()
}

// Who has no majority for now is told to give the order again.
func TestOrderToReplaceWithoutALeader(t *testing.T) {
	m := &meddler{}
	c := newCluster(t, 3, Options{Regions: 1, RequestTimeout: time.Second, wrapTransport: m.wrap})
	mustSet(t, c.stores[1], "key", "value")
	c.kill(3)
	m.mu.Lock()
	m.take = func(*raftpb.Message) bool { return true } // store 2 answers, but nothing is committed
	m.mu.Unlock()
	_, err := c.stores[1].ReplaceStore(3, 4, "127.0.0.1:1")
	if !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), "1 of 1 regions have not taken the order; give it again") {
		t.Error(err)
	}
}

// What is not an operator's mistake, though it looks like one, takes a word more.
func TestOrderToReplaceByForce(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	// A store that runs has to go.
	waitReady(t, c.join(4))
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[1].ForceReplaceStore(3, 4, c.peers[4])
		return err == nil
	})
	c.waitRole(4, 1, roleVoter)
	c.waitRole(4, 2, roleVoter)
	// Given once more, it needs no force.
	if regions, err := c.stores[1].ReplaceStore(3, 4, c.peers[4]); regions != 0 || err != nil {
		t.Errorf("once more: %d regions, %v", regions, err)
	}
	c.lose(3)

	// A store that starts waits for one that only it was told of.
	c.peers[7] = "127.0.0.1:1"
	raft, clients := listenLocal(t, "127.0.0.1:0"), listenLocal(t, "127.0.0.1:0")
	c.peers[5], c.clients[5] = raft.Addr().String(), clients.Addr().String()
	c.fs[5], c.joined[5] = vfs.NewCrashableMem(), true
	c.given[5] = map[uint64]string{1: c.peers[1], 5: c.peers[5], 7: c.peers[7]}
	c.open(5, raft, clients)
	eventually(t, 30*time.Second, "it waits", func() bool { return infoLines(c.stores[5])["awaited_stores"] == "7" })
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[1].ForceReplaceStore(7, 5, c.peers[5])
		return err == nil
	})
	waitReady(t, c.stores[5])
	c.stop(5)
	delete(c.fs, 5)
	c.checkEqual()
}

// A store that lost its folder, and was started all the same, answers and is lost; and
// who is new is known by what it says itself.
func TestOrderToReplaceWhoAnswers(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged() // so the leader has heard of store 3
	c.lose(3)
	c.fs[3] = vfs.NewCrashableMem()
	c.start(3)
	wantFailure(t, c.stores[3], ErrKnown, "store 3") // and is there as long as nobody closes it
	c.join(4)
	var err error
	eventually(t, 30*time.Second, "the order is refused", func() bool {
		_, err = c.stores[1].ReplaceStore(3, 5, c.peers[4])
		return !errors.Is(err, ErrTryAgain)
	})
	want := fmt.Sprintf("at %s is store 4, not store 5; see which store is to replace 3", c.peers[4])
	if !errors.Is(err, ErrChange) || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("an order about a store that isn't there: %v, want %q", err, want)
	}
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[1].ReplaceStore(3, 4, c.peers[4])
		return err == nil
	})
	c.waitRole(4, 1, roleVoter)
	c.stop(3)
	delete(c.fs, 3)
	c.checkEqual()
}

// A store that was started without being told of the others is of a cluster of its own,
// and can't take part in this one: nothing is ordered for its sake.
func TestNothingIsOrderedForAStranger(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	raft, clients := listenLocal(t, "127.0.0.1:0"), listenLocal(t, "127.0.0.1:0")
	c.peers[4], c.clients[4] = raft.Addr().String(), clients.Addr().String()
	c.fs[4], c.given[4] = vfs.NewCrashableMem(), map[uint64]string{4: c.peers[4]}
	c.open(4, raft, clients)
	waitReady(t, c.stores[4])
	c.lose(3)
	for name, change := range map[string]func(leader *Store) error{
		"a learner": func(leader *Store) error { _, err := leader.AddLearner(1, 4, c.peers[4]); return err },
		"an order":  func(leader *Store) error { _, err := leader.ReplaceStore(3, 4, c.peers[4]); return err },
	} {
		leader := c.leaderOf(1)
		want := fmt.Sprintf("not of the same cluster: store %d is of cluster %s, store 4 is of cluster %s",
			leader.options.StoreID, leader.host.affiliation.id(), c.stores[4].host.affiliation.id())
		if err := change(leader); !errors.Is(err, ErrChange) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	c.stop(4)
	delete(c.fs, 4)
}
