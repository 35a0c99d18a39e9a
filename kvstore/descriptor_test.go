package kvstore

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"pgregory.net/rapid"
)

// Whatever is asked for, a descriptor keeps its promises, and Raft agrees with it
// on who the peers are.
func TestDescriptor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := foundingDescriptor(1, []uint64{1, 2, 3}, map[uint64]string{1: "h:1", 2: "h:2", 3: "h:3"})
		given := map[uint64]bool{PeerID(1, 1): true, PeerID(1, 2): true, PeerID(1, 3): true}
		store := rapid.Uint64Range(1, 6)
		anyPeer := func(t *rapid.T) uint64 {
			if rapid.Bool().Draw(t, "known") {
				return rapid.SampledFrom(d.Peers).Draw(t, "peer").ID
			}
			return rapid.Uint64Range(1, d.LastPeer).Draw(t, "id")
		}
		try := func(t *rapid.T, c peerChange) {
			next, err := d.with(c)
			if err != nil {
				if !errors.Is(err, ErrChange) {
					t.Fatal(err)
				}
				return
			}
			if next.ConfVer != d.ConfVer+1 {
				t.Fatalf("version %d after %d", next.ConfVer, d.ConfVer)
			}
			checkAgainstRaft(t, d, next, c)
			d = next
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				c := peerChange{kind: raftpb.ConfChangeAddLearnerNode, peer: d.LastPeer + 1}
				c.body.StoreID = store.Draw(t, "store")
				c.body.Address = fmt.Sprint("h:", c.body.StoreID)
				before := d
				if try(t, c); d != before {
					if given[c.peer] {
						t.Fatalf("peer id %d is given again", c.peer)
					}
					given[c.peer] = true
				}
			},
			"promote": func(t *rapid.T) { try(t, peerChange{kind: raftpb.ConfChangeAddNode, peer: anyPeer(t)}) },
			"remove":  func(t *rapid.T) { try(t, peerChange{kind: raftpb.ConfChangeRemoveNode, peer: anyPeer(t)}) },
			"replace": func(t *rapid.T) {
				order := Replacement{Old: store.Draw(t, "old"), New: store.Draw(t, "new")}
				order.Address = fmt.Sprint("h:", order.New)
				next, err := d.replacing(order)
				if err != nil {
					return
				}
				again, err := next.replacing(order)
				if err != nil || !reflect.DeepEqual(again.Retired, next.Retired) {
					t.Fatalf("the same order again: %v", err)
				}
				d = next
			},
			"": func(t *rapid.T) { checkDescriptor(t, d, given) },
		})
	})
}

func checkDescriptor(t *rapid.T, d *Descriptor, given map[uint64]bool) {
	if len(d.voterStores()) == 0 {
		t.Fatal("no voter is left")
	}
	seen := map[uint64]bool{}
	for _, peer := range d.Peers {
		if seen[peer.StoreID] || d.gone(peer.ID) {
			t.Fatalf("store %d twice, or peer %d both there and gone", peer.StoreID, peer.ID)
		}
		seen[peer.StoreID] = true
		if slices.Contains(d.Retired, peer.StoreID) && (d.Replacement == nil || d.Replacement.Old != peer.StoreID) {
			t.Fatalf("store %d is gone for good, has peer %d, and nobody is to take it out", peer.StoreID, peer.ID)
		}
	}
	for id := range given {
		if d.gone(id) == slices.ContainsFunc(d.Peers, func(p Peer) bool { return p.ID == id }) {
			t.Fatalf("peer %d is neither there nor gone", id)
		}
	}
	if d.gone(d.LastPeer + 1) {
		t.Fatal("a peer to come is gone already")
	}
	value, err := d.encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decodeDescriptor(value); err != nil || !reflect.DeepEqual(back.confState(), d.confState()) {
		t.Fatalf("%s is read as %+v, %v", value, back, err)
	}
}

// checkAgainstRaft has Raft make the same change.
func checkAgainstRaft(t *rapid.T, before, after *Descriptor, c peerChange) {
	progress := tracker.MakeProgressTracker(1, 0)
	config, peers, err := confchange.Restore(confchange.Changer{Tracker: progress, LastIndex: 1}, before.confState())
	if err != nil {
		t.Fatal(err)
	}
	progress.Config, progress.Progress = config, peers
	change, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	config, _, err = confchange.Changer{Tracker: progress, LastIndex: 1}.Simple(change.AsV2().GetChanges()...)
	if err != nil {
		t.Fatalf("Raft refuses %v: %v", change, err)
	}
	progress.Config = config
	if err := after.confState().Equivalent(progress.ConfState()); err != nil {
		t.Fatal(err)
	}
}

// A substitute that has a peer already is lost before the store that it is for is out.
func TestSubstituteIsReplacedTooEarly(t *testing.T) {
	d := foundingDescriptor(1, []uint64{1, 2, 4}, map[uint64]string{1: "h:1", 2: "h:2", 4: "h:4"})
	d, err := d.replacing(Replacement{Old: 1, New: 4, Address: "h:4"})
	if err != nil {
		t.Fatal(err)
	}
	next := Replacement{Old: 4, New: 5, Address: "h:5"}
	if _, err := d.replacing(next); !errors.Is(err, ErrTryAgain) {
		t.Errorf("store 1 has a peer still, and another order is taken: %v", err)
	}
	d, err = d.with(peerChange{kind: raftpb.ConfChangeRemoveNode, peer: PeerID(1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.replacing(next); err != nil || *d.Replacement != next {
		t.Errorf("store 1 is out: %+v, %v", d, err)
	}
}
