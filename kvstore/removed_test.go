package kvstore

import (
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// A message to a peer that was taken out, however late it comes, and after a
// restart too, doesn't bring it back.
func TestNoMessageRevivesAPeer(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	leader := c.leaderOf(1)
	gone := leader.options.StoreID%3 + 1
	peer, from := mustPeer(t, leader, 1, gone), mustPeer(t, leader, 1, leader.options.StoreID)
	c.mustChange(1, "take out", func(leader *Store) error { return leader.RemovePeer(1, peer.ID) })
	c.waitRole(gone, 1, roleNone)
	late := func() {
		t.Helper()
		host := c.stores[gone].host
		refused := host.workers[0].counters.refused.Load()
		for _, kind := range []raftpb.MessageType{raftpb.MsgHeartbeat, raftpb.MsgApp, raftpb.MsgVote} {
			err := host.Step(etcdraft.Header{
				RegionID: 1,
				From:     etcdraft.Peer{ID: from.ID, StoreID: from.StoreID},
				To:       etcdraft.Peer{ID: peer.ID, StoreID: gone},
			}, &raftpb.Message{Type: kind.Enum(), From: new(from.ID), To: new(peer.ID), Term: new(uint64(9))})
			if err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 10*time.Second, "the late messages are refused", func() bool {
			return host.workers[0].counters.refused.Load() >= refused+3
		})
		if role := c.role(gone, 1); role != roleNone {
			t.Errorf("the peer is back, in role %d", role)
		}
	}
	c.options.Workers = 1
	late()
	c.kill(gone)
	c.start(gone)
	late()
}

// A peer that was taken out while its store was away finds out when it is back.
func TestPeerThatWasAwayLearnsThatItIsOut(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 3})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.kill(3)
	for region := uint64(1); region <= 3; region++ {
		c.mustChange(region, "take out", func(leader *Store) error {
			return leader.RemovePeer(region, PeerID(region, 3))
		})
	}
	c.start(3)
	for region := uint64(1); region <= 3; region++ {
		c.waitRole(3, region, roleNone)
	}
	mustSet(t, c.stores[1], "key", "value")
	c.checkTwo(3)
}

// So does a learner, which asks for no votes.
func TestLearnerThatWasAwayLearnsThatItIsOut(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	c.join(4)
	var peer uint64
	c.mustChange(1, "add a learner", func(leader *Store) (err error) {
		peer, err = leader.AddLearner(1, 4, c.peers[4])
		return err
	})
	c.waitRole(4, 1, roleLearner)
	c.kill(4)
	c.mustChange(1, "take out", func(leader *Store) error { return leader.RemovePeer(1, peer) })
	c.start(4)
	c.waitRole(4, 1, roleNone)
}

// A store whose peer was taken out and that has another one writes on where it
// was: the region remembers what the store wrote before. What it took while the
// new peer had nothing yet is not said to be written when the snapshot comes.
func TestWritesThroughAPeerThatIsNewAgain(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1, RequestTimeout: time.Second})
	again := c.leaderOf(1).options.StoreID%3 + 1
	for i := range 100 {
		mustSet(t, c.stores[again], fmt.Sprint("key", i), "before")
	}
	c.takeOut(1, again)
	var written []string
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if key := fmt.Sprint("meanwhile", i); c.stores[again].Set([]byte(key), []byte("x")) == nil {
				written = append(written, key)
			}
		}
	}()
	c.putIn(1, again)
	for i := range 10 {
		mustSet(t, c.stores[again], fmt.Sprint("key", i), "after")
	}
	close(stop)
	<-stopped
	for i := range 10 {
		if got := mustGet(t, c.stores[again%3+1], fmt.Sprint("key", i)); string(got) != "after" {
			t.Fatalf("key%d was acknowledged and is %q", i, got)
		}
	}
	for _, key := range written[:min(len(written), 100)] {
		if mustGet(t, c.stores[again%3+1], key) == nil {
			t.Fatalf("%s was acknowledged and is not there", key)
		}
	}
	c.checkEqual()
}
