package kvstore

import (
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

var orderSeed = flag.Uint64("orders.seed", 0, "of TestRandomOrdersAreLinearizable; 0 draws one")

// anyOrders gives orders as an operator might who is in a hurry.
type anyOrders struct {
	c       *cluster
	random  *rand.Rand
	regions uint64
	alive   []uint64
	next    uint64            // the id of the next store
	client  map[uint64]uint64 // by store, whose client asks it
	pending sync.WaitGroup    // changes under way
}

func (o *anyOrders) store() uint64 { return o.alive[o.random.IntN(len(o.alive))] }

func (o *anyOrders) pause(atMost time.Duration) {
	time.Sleep(time.Duration(o.random.Int64N(int64(atMost))))
}

// change has a few stores change the peers of regions, side by side. What they may not
// do, they are refused.
func (o *anyOrders) change() {
	for range 1 + o.random.IntN(3) {
		at, on := o.c.stores[o.store()], o.store()
		region, promote := 1+o.random.Uint64N(o.regions), o.random.IntN(3) < 2
		o.pending.Go(func() {
			d, err := at.Peers(region)
			if err != nil {
				return
			}
			switch peer := d.on(on); {
			case peer == nil:
				_, _ = at.AddLearner(region, on, o.c.peers[on])
			case peer.Role == Learner && promote:
				_ = at.Promote(region, peer.ID)
			default:
				_ = at.RemovePeer(region, peer.ID)
			}
		})
	}
	o.pause(100 * time.Millisecond)
}

func (o *anyOrders) restart(store uint64) {
	o.c.kill(store)
	o.pause(time.Second)
	o.c.start(store)
	waitReady(o.c.t, o.c.stores[store])
}

// everywhere has every region have a peer with a vote on every store.
func (o *anyOrders) everywhere() {
	for region := uint64(1); region <= o.regions; region++ {
		for _, store := range o.alive {
			o.c.putIn(region, store)
		}
	}
}

// replace loses a store, and has all others told to replace it, twice and side by side,
// while one of them or the new one may be killed.
func (o *anyOrders) replace(h *historians) {
	o.everywhere()
	lost, joins := o.store(), o.next
	o.next++
	o.c.lose(lost)
	o.alive = slices.DeleteFunc(o.alive, func(store uint64) bool { return store == lost })
	o.c.join(joins)
	for _, at := range append(slices.Clone(o.alive), o.alive...) {
		store := o.c.stores[at]
		o.pending.Go(func() { _, _ = store.ReplaceStore(lost, joins, o.c.peers[joins]) })
	}
	o.pending.Wait()
	eventually(o.c.t, 30*time.Second, "the order is given", func() bool {
		_, err := o.c.stores[o.alive[0]].ReplaceStore(lost, joins, o.c.peers[joins])
		return err == nil
	})
	for _, store := range []uint64{o.store(), joins} {
		if o.random.IntN(2) == 0 {
			o.pause(300 * time.Millisecond)
			o.c.kill(store)
			o.c.start(store)
		}
	}
	waitReady(o.c.t, o.c.stores[joins])
	o.alive = append(o.alive, joins)
	o.client[joins] = o.client[lost]
	h.move(o.client[lost], joins)
	for region := uint64(1); region <= o.regions; region++ {
		o.c.waitRole(joins, region, roleVoter)
	}
}

// Whatever an operator orders, and whoever is killed meanwhile: what clients see is one
// map, no region loses its majority, and the replicas are equal.
func TestRandomOrdersAreLinearizable(t *testing.T) {
	seed := *orderSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-orders.seed=%d", seed)
	c := newCluster(t, 3, Options{Regions: 4, RequestTimeout: 2 * time.Second, MaxLogEntries: 12})
	o := &anyOrders{
		c: c, random: rand.New(rand.NewPCG(seed, 0)), regions: 4,
		alive: []uint64{1, 2, 3}, next: 4, client: map[uint64]uint64{1: 1, 2: 2, 3: 3},
	}
	checkHistory(t, c, func(h *historians, progress func(more int, what string)) {
		progress(200, "operations before")
		for step := range 16 {
			switch {
			case step%8 == 5:
				o.replace(h)
			case o.random.IntN(4) == 0:
				o.restart(o.store())
			default:
				o.change()
			}
			o.pending.Wait()
			for region := uint64(1); region <= o.regions; region++ {
				c.leaderOf(region)
			}
		}
		o.everywhere() // or the replicas can't be compared
	})
}
