package kvstore

import (
	"slices"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
)

// dials says whether a store has to do with another one, so that it dials it if it is away.
func dials(store *Store, other uint64) bool {
	return slices.ContainsFunc(store.client.Stores(), func(s raftmux.StoreStatus) bool { return s.StoreID == other })
}

// A store whose last peer was taken out is dialled no more, dead or alive, and found
// again when it comes back and gets a peer.
func TestStoreWithoutPeersIsForgotten(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2, forgetAfter: 500 * time.Millisecond})
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged()
	c.kill(3)
	for region := uint64(1); region <= 2; region++ {
		if !dials(c.leaderOf(region), 3) {
			t.Errorf("a store with a peer in region %d is forgotten", region)
		}
		c.mustChange(region, "take out", func(leader *Store) error {
			d, err := leader.Peers(region)
			if err != nil || d.on(3) == nil {
				return err // it is out
			}
			return leader.RemovePeer(region, PeerID(region, 3))
		})
	}
	forgotten := func(by ...uint64) {
		t.Helper()
		eventually(t, 20*time.Second, "it is forgotten", func() bool {
			return !slices.ContainsFunc(by, func(id uint64) bool { return dials(c.stores[id], 3) })
		})
	}
	forgotten(1, 2)

	// It comes back, asks, and is told.
	c.start(3)
	for region := uint64(1); region <= 2; region++ {
		c.waitRole(3, region, roleNone)
	}
	forgotten(1, 2)
	eventually(t, 20*time.Second, "it forgets the others", func() bool { return !dials(c.stores[3], 1) && !dials(c.stores[3], 2) })
	if up := c.stores[1].host.directory.upFor(3); up != 0 {
		t.Errorf("it counts as one that can be reached, for %v", up)
	}
	for region := uint64(1); region <= 2; region++ {
		c.putIn(region, 3)
	}
	time.Sleep(3 * c.options.forgetAfter)
	for region := uint64(1); region <= 2; region++ {
		if leader := c.leaderOf(region); leader != c.stores[3] && !dials(leader, 3) {
			t.Errorf("a store that has a peer in region %d again is forgotten", region)
		}
	}
	mustSet(t, c.stores[3], "key", "after")
	c.checkEqual()
}

// What is counted of the stores with peers comes and goes with the descriptors.
func TestDirectoryCountsPeers(t *testing.T) {
	d := &directory{hosts: map[uint64]int{}}
	none := &Descriptor{}
	one := &Descriptor{Peers: []Peer{{ID: 1, StoreID: 1}, {ID: 2, StoreID: 2}}}
	two := &Descriptor{Peers: []Peer{{ID: 1, StoreID: 1}, {ID: 3, StoreID: 3}}}
	for i, step := range []struct {
		before, now *Descriptor
		want        []uint64
	}{
		{none, one, []uint64{1, 2}},
		{none, one, []uint64{1, 2}},
		{one, two, []uint64{1, 2, 3}},
		{one, none, []uint64{1, 3}},
		{two, two, []uint64{1, 3}},
		{two, none, nil},
	} {
		d.move(step.before, step.now)
		var have []uint64
		for store := uint64(1); store <= 3; store++ {
			if d.hasPeers(store) {
				have = append(have, store)
			}
		}
		if !slices.Equal(have, step.want) {
			t.Errorf("step %d: stores %v have peers, want %v", i, have, step.want)
		}
	}
	if len(d.hosts) > 0 {
		t.Errorf("left: %v", d.hosts)
	}
}
