package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// leaderOf returns the store that leads a region.
func (c *cluster) leaderOf(region uint64) (leader *Store) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, fmt.Sprintf("region %d has a leader", region), func() bool {
		for _, store := range c.stores {
			if store.host.views[region-1].leader.Load() == store.options.StoreID {
				leader = store
				return true
			}
		}
		return false
	})
	return leader
}

// mustChange asks whoever leads until the change is made.
func (c *cluster) mustChange(region uint64, what string, change func(leader *Store) error) {
	c.t.Helper()
	var err error
	eventually(c.t, 30*time.Second, what, func() bool {
		err = change(c.leaderOf(region))
		if err != nil && !errors.Is(err, ErrTryAgain) && !errors.Is(err, ErrNotLeader) {
			c.t.Fatalf("%s: %v", what, err)
		}
		return err == nil
	})
}

func (c *cluster) role(store, region uint64) viewedRole {
	if c.stores[store] == nil {
		return roleNone
	}
	return viewedRole(c.stores[store].host.views[region-1].role.Load())
}

func (c *cluster) waitRole(store, region uint64, role viewedRole) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, fmt.Sprintf("region %d on store %d has role %d", region, store, role), func() bool {
		return c.role(store, region) == role
	})
}

func mustPeer(t *testing.T, store *Store, region, on uint64) Peer {
	t.Helper()
	d, err := store.Peers(region)
	if err != nil || d.on(on) == nil {
		t.Fatalf("region %d has no peer on store %d: %+v, %v", region, on, d, err)
	}
	return *d.on(on)
}

// takeOut removes a region's peer from a store, which lives and destroys it.
func (c *cluster) takeOut(region, store uint64) {
	c.t.Helper()
	c.mustChange(region, "take out", func(leader *Store) error {
		d, err := leader.Peers(region)
		if err != nil || d.on(store) == nil {
			return err // it is out
		}
		return leader.RemovePeer(region, d.on(store).ID)
	})
	c.waitRole(store, region, roleNone)
}

// putIn gives a store a peer of a region, and that a vote.
func (c *cluster) putIn(region, store uint64) {
	c.t.Helper()
	c.mustChange(region, "put in", func(leader *Store) error {
		d, err := leader.Peers(region)
		if err != nil {
			return err
		}
		own := d.on(store)
		switch {
		case own == nil:
			_, err = leader.AddLearner(region, store, c.peers[store])
			return errors.Join(ErrTryAgain, err) // and then the rest
		case own.Role == Learner:
			return leader.Promote(region, own.ID)
		}
		return nil
	})
	c.waitRole(store, region, roleVoter)
}

func TestAddPromoteRemove(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	for i := range 50 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "value")
	}
	c.join(4)
	var peer uint64
	c.mustChange(1, "add a learner", func(leader *Store) (err error) {
		peer, err = leader.AddLearner(1, 4, c.peers[4])
		return err
	})
	if peer != lastFoundingPeer(1)+1 {
		t.Errorf("the new peer is %d", peer)
	}
	c.waitRole(4, 1, roleLearner)
	if c.stores[4].host.restored.Load() == 0 {
		t.Error("it got no snapshot")
	}
	c.mustChange(1, "promote", func(leader *Store) error { return leader.Promote(1, peer) })
	c.waitRole(4, 1, roleVoter)

	old := mustPeer(t, c.stores[1], 1, 3)
	c.mustChange(1, "take out", func(leader *Store) error { return leader.RemovePeer(1, old.ID) })
	// Its leader doesn't write to it any more. It asks for votes, and is told.
	c.waitRole(3, 1, roleNone)
	mustSet(t, c.stores[4], "key", "new")
	if got := mustGet(t, c.stores[4], "key7"); string(got) != "value" {
		t.Errorf("key7 is %q at the new store", got)
	}
	if _, err := c.stores[3].Get([]byte("key")); !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), "no replica on store 3") {
		t.Errorf("the store without a replica says %v", err)
	}

	// Once more, in the place where it was: under a new id.
	c.mustChange(1, "add again", func(leader *Store) (err error) {
		peer, err = leader.AddLearner(1, 3, c.peers[3])
		return err
	})
	if peer != lastFoundingPeer(1)+2 {
		t.Errorf("the peer that is new again is %d", peer)
	}
	c.waitRole(3, 1, roleLearner)
	c.checkEqual()
}

func TestWrongChangesAreRefused(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	leader := c.leaderOf(1)
	other := c.stores[leader.options.StoreID%3+1]
	own := mustPeer(t, leader, 1, leader.options.StoreID)
	peer := mustPeer(t, leader, 1, other.options.StoreID)
	for name, test := range map[string]struct {
		change func() error
		is     error
		want   func() string
	}{
		"not the leader":    {func() error { return other.Promote(1, peer.ID) }, ErrNotLeader, func() string { return fmt.Sprintf("region 1 is led by store %d", leader.options.StoreID) }},
		"no such region":    {func() error { return leader.Promote(3, 1) }, ErrChange, func() string { return "there is no region 3, they are 1 to 2" }},
		"no such peer":      {func() error { return leader.Promote(1, 99) }, ErrChange, func() string { return "there is no peer 99; a new one begins as a learner" }},
		"a voter already":   {func() error { return leader.Promote(1, peer.ID) }, ErrChange, func() string { return "is a voter already" }},
		"nobody to remove":  {func() error { return leader.RemovePeer(1, 99) }, ErrChange, func() string { return "there is no peer 99" }},
		"has one already":   {func() error { _, err := leader.AddLearner(1, 2, c.peers[2]); return err }, ErrChange, func() string { return "store 2 has peer" }},
		"another's address": {func() error { _, err := leader.AddLearner(1, 4, c.peers[3]); return err }, ErrChange, func() string { return "region 1: at " + c.peers[3] + " is store 3, not store 4" }},
		"another address":   {func() error { _, err := leader.AddLearner(1, 3, "127.0.0.1:1"); return err }, ErrChange, func() string { return "region 1: store 3 answers at " + c.peers[3] + ", so it is not at 127.0.0.1:1" }},
		"store 0":           {func() error { _, err := leader.AddLearner(1, 0, "h:1"); return err }, ErrChange, func() string { return "store id 0 is not from 1 to 999" }},
		"no address":        {func() error { _, err := leader.AddLearner(1, 4, "h"); return err }, ErrChange, func() string { return `the address "h" of store 4 is not host:port` }},
		"replace by itself": {func() error { _, err := leader.ReplaceStore(3, 3, "h:1"); return err }, ErrChange, func() string { return "store 3 can't replace itself" }},
		"itself":            {func() error { return leader.RemovePeer(1, own.ID) }, ErrTryAgain, func() string { return "the leader does not take itself out" }},
	} {
		eventually(t, 20*time.Second, name+" is refused", func() bool {
			// Whoever leads just then: the case before may have moved it.
			leader = c.leaderOf(1)
			other = c.stores[leader.options.StoreID%3+1]
			peer, own = mustPeer(t, leader, 1, other.options.StoreID), mustPeer(t, leader, 1, leader.options.StoreID)
			err := test.change()
			return errors.Is(err, test.is) && strings.Contains(err.Error(), test.want())
		})
	}
	c.checkEqual()
}

// A change while another one is under way is refused, and not silently dropped.
func TestOneChangeAtATime(t *testing.T) {
	m := &meddler{}
	c := newCluster(t, 3, Options{Regions: 1, RequestTimeout: 20 * time.Second, wrapTransport: m.wrap})
	mustSet(t, c.stores[1], "key", "value")
	leader := c.leaderOf(1)
	// No entry reaches anyone, so nothing is committed.
	m.mu.Lock()
	m.take = func(message *raftpb.Message) bool {
		return message.GetType() == raftpb.MsgApp && len(message.GetEntries()) > 0
	}
	m.mu.Unlock()
	add := func(store uint64) *request {
		c := peerChange{kind: raftpb.ConfChangeAddLearnerNode}
		c.body.StoreID, c.body.Address = store, "127.0.0.1:1"
		return leader.host.dispatch(leader.host.newChange(1, c))
	}
	first, second := add(7), add(8)
	if err := (<-second.done).err; !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), "has another change under way") {
		t.Errorf("the second change: %v", err)
	}
	m.mu.Lock()
	m.take = nil
	m.mu.Unlock()
	if err := (<-first.done).err; err != nil {
		t.Errorf("the first change: %v", err)
	}
}

// The leader is asked to take itself out: it hands over, and the next leader does it.
func TestLeaderIsTakenOut(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	first := c.leaderOf(1).options.StoreID
	peer := mustPeer(t, c.stores[first], 1, first)
	c.mustChange(1, "take the leader out", func(leader *Store) error { return leader.RemovePeer(1, peer.ID) })
	c.waitRole(first, 1, roleNone)
	if now := c.leaderOf(1).options.StoreID; now == first {
		t.Errorf("store %d still leads", now)
	}
	mustSet(t, c.stores[first%3+1], "key", "after")
	c.checkTwo(first)
}

// checkTwo compares the replicas of all stores but one.
func (c *cluster) checkTwo(without uint64) {
	c.t.Helper()
	c.stop(without)
	delete(c.fs, without)
	c.checkEqual()
}

// Entries that take the place of a conf change take it away from the barrier.
func TestBarrierShrinksWithTheLog(t *testing.T) {
	entry := func(index uint64, kind raftpb.EntryType) *raftpb.Entry {
		return &raftpb.Entry{Index: new(index), Type: kind.Enum()}
	}
	r := &region{applied: 7}
	r.raiseBarrier([]*raftpb.Entry{entry(8, raftpb.EntryNormal), entry(9, raftpb.EntryNormal), entry(10, raftpb.EntryConfChange)})
	if r.barrier != 10 || !r.changing() {
		t.Errorf("the barrier is %d, behind a conf change at 10", r.barrier)
	}
	r.raiseBarrier([]*raftpb.Entry{entry(8, raftpb.EntryNormal)})
	if r.applied = 8; r.barrier != 7 || r.changing() {
		t.Errorf("the barrier is %d, and the log was cut at 8", r.barrier)
	}
}

// While a change is under way the lead isn't given away: of two voters, the other
// one might be the one that goes.
func TestNoHandOverDuringAChange(t *testing.T) {
	m := &meddler{}
	c := newCluster(t, 2, Options{Regions: 1, RequestTimeout: 20 * time.Second, wrapTransport: m.wrap})
	mustSet(t, c.stores[1], "key", "value")
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	leader := c.leaderOf(1)
	other := 3 - leader.options.StoreID
	peer := mustPeer(t, leader, 1, other)
	var held, given atomic.Bool
	m.mu.Lock()
	m.take = func(message *raftpb.Message) bool {
		if message.GetType() == raftpb.MsgTimeoutNow {
			given.Store(true)
		}
		return held.Load() && message.GetType() == raftpb.MsgAppResp
	}
	m.mu.Unlock()
	held.Store(true)
	remove := leader.host.dispatch(leader.host.newChange(1, peerChange{kind: raftpb.ConfChangeRemoveNode, peer: peer.ID}))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	leader.HandOver(ctx)
	held.Store(false)
	if err := (<-remove.done).err; err != nil {
		t.Error(err)
	}
	if given.Load() {
		t.Error("the lead was given away")
	}
	c.waitRole(other, 1, roleNone)
	mustSet(t, leader, "key", "after")
}
