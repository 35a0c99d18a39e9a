package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/snapshot"
)

// noData never comes to its first byte.
type noData struct{ done <-chan struct{} }

func (n noData) OpenSnapshot(context.Context, *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	return n, nil
}

func (n noData) ReadAt([]byte, int64) (int, error) {
	<-n.done
	return 0, io.ErrUnexpectedEOF
}
func (n noData) Size() int64  { return 1 }
func (n noData) Close() error { return nil }

// occupy takes a place for snapshots on a store until it is let go of.
func (c *cluster) occupy(store uint64) (release func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sender, err := snapshot.NewSender(snapshot.SenderOptions{
		StoreID: 9, Source: noData{ctx.Done()}, DialOptions: c.stores[store].host.affiliation.dialOptions(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	message := &raft_serverpb.RaftMessage{
		RegionId: 1, FromPeer: &metapb.Peer{Id: 9, StoreId: 9}, ToPeer: &metapb.Peer{Id: 1 << 40, StoreId: store},
		Message: &eraftpb.Message{
			MsgType: eraftpb.MessageType_MsgSnapshot, Term: 1,
			Snapshot: &eraftpb.Snapshot{Metadata: &eraftpb.SnapshotMetadata{Index: 5, Term: 1}},
		},
	}
	var sending sync.WaitGroup
	sending.Go(func() { _ = sender.SendSnapshot(ctx, c.peers[store], message) })
	release = sync.OnceFunc(func() {
		cancel()
		sending.Wait()
		sender.Close()
	})
	c.t.Cleanup(release)
	eventually(c.t, 20*time.Second, "the place is taken", func() bool {
		return len(c.stores[store].snapshotReceiver.Transfers()) > 0
	})
	return release
}

// hold keeps all messages from some peers.
func (m *meddler) hold(peers ...uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take = func(message *raftpb.Message) bool { return slices.Contains(peers, message.GetTo()) }
}

func (m *meddler) letGo() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take = nil
}

// While all places of a receiver are taken its peers' leaders make nothing, however
// often Raft asks; once there is room it catches up.
func TestLeaderMakesNothingWithoutRoom(t *testing.T) {
	m, p := &meddler{}, &prechecker{}
	c := newCluster(t, 3, Options{
		Regions: 2, MaxLogEntries: 20, wrapTransport: m.wrap, wrapPrecheck: p.wrap, snapshotPlaces: 1,
	})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.kill(3)
	for i := range 200 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "value")
	}
	m.hold(PeerID(1, 3), PeerID(2, 3))
	c.start(3)
	release := c.occupy(3)
	m.letGo()

	refused := func(region uint64) (n int) {
		for _, answer := range p.answers() {
			if errors.Is(answer.err, snapshot.ErrBusy) && answer.RegionID == region && answer.StoreID == 3 && !answer.ForBalance {
				n++
			}
		}
		return n
	}
	eventually(t, 30*time.Second, "both regions' leaders were refused some times", func() bool {
		return refused(1) >= 3 && refused(2) >= 3
	})
	for id := uint64(1); id <= 2; id++ {
		if files := snapshotFilesOf(t, c, id, "send-"); len(files) > 0 || c.stores[id].host.files.made.Load() > 0 {
			t.Errorf("store %d has made %v", id, files)
		}
	}
	mustSet(t, c.stores[2], "key0", "meanwhile")
	lines := infoLines(c.stores[1])
	if sum := lines["snapshot_prechecks_refused"] + infoLines(c.stores[2])["snapshot_prechecks_refused"]; sum == "00" || lines["snapshots_made"] != "0" {
		t.Errorf("INFO says %s and %s", sum, lines["snapshots_made"])
	}

	release()
	eventually(t, 30*time.Second, "the store has everything", func() bool { return c.stores[3].host.restored.Load() >= 2 })
	if got := mustGet(t, c.stores[3], "key0"); string(got) != "meanwhile" {
		t.Errorf("key0 is %q", got)
	}
	c.checkEqual()
}

// When a voter that fell behind and a new learner both wait for a place, the voter
// gets it, though the learner's leader asks and the voter's doesn't.
func TestRecoveryComesBeforeBalance(t *testing.T) {
	m, p := &meddler{}, &prechecker{}
	c := newCluster(t, 3, Options{
		Regions: 2, MaxLogEntries: 20, wrapTransport: m.wrap, wrapPrecheck: p.wrap, snapshotPlaces: 1,
	})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.takeOut(2, 3)
	c.kill(3)
	for i := range 200 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "value")
	}
	m.hold(PeerID(1, 3), lastFoundingPeer(2)+1)
	c.start(3)
	release := c.occupy(3)
	c.mustChange(2, "add a learner", func(leader *Store) error {
		_, err := leader.AddLearner(2, 3, c.peers[3])
		return err
	})
	m.letGo()
	found := func(region uint64, is func(notedAnswer) bool) int {
		return slices.IndexFunc(p.answers(), func(a notedAnswer) bool { return a.RegionID == region && is(a) })
	}
	isBusy := func(a notedAnswer) bool { return errors.Is(a.err, snapshot.ErrBusy) }
	isYes := func(a notedAnswer) bool { return a.err == nil }
	eventually(t, 30*time.Second, "both wait", func() bool {
		return found(1, isBusy) >= 0 && found(2, isBusy) >= 0
	})
	may := make(chan struct{})
	p.letThrough(func(ctx context.Context, request snapshot.PrecheckRequest) {
		if request.RegionID == 1 {
			select {
			case <-may:
			case <-ctx.Done():
			}
		}
	})
	release()
	eventually(t, 20*time.Second, "the place is free", func() bool {
		return len(c.stores[3].snapshotReceiver.Transfers()) == 0
	})
	before := len(p.answers())
	eventually(t, 30*time.Second, "the learner's leader has asked again, in vain or not", func() bool {
		return found(2, isYes) >= 0 || len(p.answers()) >= before+3
	})
	close(may)
	eventually(t, 30*time.Second, "both have everything", func() bool { return c.stores[3].host.restored.Load() >= 2 })
	if voter, learner := found(1, isYes), found(2, isYes); learner < voter {
		t.Errorf("the learner had room in answer %d, the voter in %d: %+v", learner, voter, p.answers())
	}
	c.putIn(2, 3)
	c.checkEqual()
}
