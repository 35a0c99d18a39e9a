package kvstore

import (
	"fmt"
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
)

// askIfStale has a peer of region 1 ask that of store 1 whether it was taken out.
func askIfStale(t *testing.T, receiver raftmux.Receiver, from etcdraft.Peer) {
	t.Helper()
	question, err := (&raft_serverpb.RaftMessage{
		RegionId: 1,
		FromPeer: &metapb.Peer{Id: from.ID, StoreId: from.StoreID},
		ToPeer:   &metapb.Peer{Id: PeerID(1, 1), StoreId: 1},
		ExtraMsg: &raft_serverpb.ExtraMessage{Type: raft_serverpb.ExtraMessageType_MsgCheckStalePeer},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receiver.Decode(question); err != nil {
		t.Fatal(err)
	}
}

func TestQuestionsOfImpossibleStoresAreRefused(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	mustSet(t, c.stores[1], "ready", "")
	receiver := newReceiver(c.stores[1].host)()
	for _, store := range []uint64{0, 1, maxStoreID, 1_000_000} {
		askIfStale(t, receiver, etcdraft.Peer{ID: PeerID(1, 2), StoreID: store})
		if refused := receiver.Deliver(); refused != 1 {
			t.Errorf("of one question from store %d %d are refused", store, refused)
		}
	}
	askIfStale(t, receiver, etcdraft.Peer{ID: PeerID(1, 2), StoreID: 2})
	if refused := receiver.Deliver(); refused != 0 {
		t.Error("a question from store 2 is refused")
	}
}

// What a store sends to costs a goroutine, so nothing is sent to stores that others
// have made up.
func TestStrangersGetNoConnections(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	mustSet(t, c.stores[1], "ready", "")
	receiver := newReceiver(c.stores[1].host)()
	for i := range uint64(2000) {
		askIfStale(t, receiver, etcdraft.Peer{ID: PeerID(1, 2), StoreID: 2 + i%(maxStoreID-2)})
		if i%100 == 99 {
			receiver.Deliver()
			mustSet(t, c.stores[1], "they", fmt.Sprint("are heard ", i))
		}
	}
	if stores := c.stores[1].client.Stores(); len(stores) > 0 {
		t.Errorf("there are connections to %d stores", len(stores))
	}
}

// A peer that lags behind hears leaders that it doesn't know of, however many claim
// to be peers before and after them, and remembers few.
func TestFewStrangersAreRemembered(t *testing.T) {
	d := newHandDriven(t, Options{})
	d.host.serving.Store(true)
	defer d.host.serving.Store(false) // whoever closes the host has to see to the batch
	receiver := newReceiver(d.host)()
	claimed := uint64(1 << 40)
	flood := func() {
		t.Helper()
		for i := range uint64(2000) {
			claimed++
			askIfStale(t, receiver, etcdraft.Peer{ID: claimed, StoreID: 2 + i%(maxStoreID-2)})
			if refused := receiver.Deliver(); refused > 0 {
				t.Fatal("the inbox is full")
			}
			d.turn()
		}
		if known := len(d.region.group.Stores); known > 1+maxStrangers {
			t.Errorf("%d peers are remembered, want 1 and at most %d strangers", known, maxStrangers)
		}
	}
	flood()
	leader := etcdraft.Peer{ID: d.region.descriptor.LastPeer + 1, StoreID: 5}
	header := etcdraft.Header{RegionID: 1, From: leader, To: d.region.group.Self}
	term := d.region.node.Status().GetTerm() + 1
	heartbeat := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(leader.ID), To: new(header.To.ID), Term: new(term)}
	if err := d.host.Step(header, heartbeat); err != nil {
		t.Fatal(err)
	}
	d.turn()
	flood()
	if d.region.leader != leader.ID || d.region.group.Stores[leader.ID] != leader.StoreID {
		t.Errorf("peer %d is followed, want %d; answers to that go to store %d", d.region.leader, leader.ID, d.region.group.Stores[leader.ID])
	}

	// The descriptor comes to know the leader, which is no stranger any more.
	next, err := d.region.descriptor.with(peerChange{
		kind: raftpb.ConfChangeAddLearnerNode, peer: leader.ID,
		body: changeBody{StoreID: leader.StoreID, Address: "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.region.describe(next)
	if len(d.region.strangers) != maxStrangers-1 || d.region.group.Stores[leader.ID] != leader.StoreID {
		t.Errorf("there are %d strangers, and peer %d is on store %d", len(d.region.strangers), leader.ID, d.region.group.Stores[leader.ID])
	}
}
