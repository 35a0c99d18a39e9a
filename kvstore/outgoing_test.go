package kvstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/snapshot"
)

// noted is a transport that sends nothing, and notes which snapshots it was given.
type noted struct {
	snapshots []*raftpb.Snapshot
	to        []uint64 // the peers that they were for
}

func (n *noted) SendAll(_ etcdraft.Group, _ etcdraft.Node, messages []*raftpb.Message) (int, error) {
	for _, message := range messages {
		if message.GetType() == raftpb.MsgSnap {
			n.snapshots = append(n.snapshots, message.GetSnapshot())
			n.to = append(n.to, message.GetTo())
		}
	}
	return len(messages), nil
}
func (n *noted) Bury(etcdraft.Group, etcdraft.Peer)       {}
func (n *noted) AskIfStale(etcdraft.Group, etcdraft.Peer) {}
func (n *noted) Flush()                                   {}
func (n *noted) Close()                                   {}

// handDriven is a host with one region, which it leads alone, and whose worker does
// a turn when it is told to.
type handDriven struct {
	*testing.T
	host   *Host
	worker *worker
	region *region
	sent   *noted
	keys   int
}

func newHandDriven(t *testing.T, options Options) *handDriven {
	t.Helper()
	options.StoreID, options.Dir, options.Peers, options.Regions = 1, "data", map[uint64]string{1: "127.0.0.1:0"}, 1
	options.FS = vfs.NewMem()
	h, err := openHost(options.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	if err := h.load(); err != nil {
		t.Fatal(err)
	}
	d := &handDriven{T: t, host: h, worker: h.workerOf(1), sent: &noted{}}
	d.worker.sender = d.sent
	d.region = d.worker.regions[1]
	d.worker.activate(d.region)
	for !d.region.leads || d.region.node.HasReady() {
		d.turn()
	}
	return d
}

func (d *handDriven) turn() {
	d.Helper()
	if err := d.worker.loop(false); err != nil {
		d.Fatal(err)
	}
}

// ask has the worker do what a request wants, and waits for that.
func (d *handDriven) ask(kind itemKind, r *request) {
	d.Helper()
	r.region, r.deadline, r.done = 1, time.Now().Add(time.Minute), make(chan answer, 1)
	d.worker.inbox.push(item{kind: kind, region: 1, request: r})
	for {
		d.turn()
		select {
		case answer := <-r.done:
			if answer.err != nil {
				d.Fatal(answer.err)
			}
			return
		default:
		}
	}
}

func (d *handDriven) write(n int) {
	d.Helper()
	for range n {
		d.keys++
		d.ask(itemWrite, &request{op: opSet, key: fmt.Append(nil, "key", d.keys), value: []byte("value")})
	}
}

// sendSnapshot adds a peer, which has nothing, and returns it when a snapshot is
// on its way to it.
func (d *handDriven) sendSnapshot() (peer uint64) {
	d.Helper()
	peer = d.addPeer(2)
	d.answer(peer, raftpb.MsgAppResp)
	d.waitSnapshot(peer, 1)
	return peer
}

// addPeer adds a learner on a store.
func (d *handDriven) addPeer(store uint64) (peer uint64) {
	d.Helper()
	c := peerChange{kind: raftpb.ConfChangeAddLearnerNode}
	c.body.StoreID, c.body.Address = store, "127.0.0.1:1"
	d.ask(itemChange, d.host.newChange(1, c))
	return d.region.descriptor.LastPeer
}

// answer has the peer say that it is there, or that it lacks all that it was sent.
func (d *handDriven) answer(peer uint64, kind raftpb.MessageType) {
	d.Helper()
	status := d.region.node.Status()
	message := &raftpb.Message{Type: kind.Enum(), From: new(peer), To: new(d.region.group.Self.ID), Term: new(status.GetTerm())}
	if kind == raftpb.MsgAppResp {
		message.Index, message.Reject, message.RejectHint = new(status.Progress[peer].Next-1), new(true), new(uint64(0))
	}
	if err := d.region.node.Step(message); err != nil {
		d.Fatal(err)
	}
	d.worker.activate(d.region)
	d.turn()
}

// waitSnapshot lets the peer answer heartbeats until n snapshots were sent to it.
func (d *handDriven) waitSnapshot(peer uint64, n int) {
	d.Helper()
	for tries := 0; len(d.sent.snapshots) < n; tries++ {
		if tries == 10 {
			d.Fatalf("%d snapshots were sent, want %d", len(d.sent.snapshots), n)
		}
		d.answer(peer, raftpb.MsgHeartbeatResp)
		d.host.files.running.Wait()
	}
}

func (d *handDriven) breakSnapshot(peer uint64) {
	d.Helper()
	d.worker.inbox.push(item{kind: itemSnapshotFailed, region: 1, id: peer})
	d.turn()
}

// hasFile says whether the snapshot that was sent last can be read still.
func (d *handDriven) hasFile() bool {
	metadata := d.sent.snapshots[len(d.sent.snapshots)-1].GetMetadata()
	_, err := d.host.files.fs.Stat(d.host.files.outgoingName(1, metadata.GetIndex(), metadata.GetTerm()))
	return err == nil
}

// A snapshot that is on its way is kept for as long as that takes, and for a while
// after it broke: then it is sent again as it is, and goes on.
func TestSnapshotOnItsWayIsKept(t *testing.T) {
	d := newHandDriven(t, Options{})
	peer := d.sendSnapshot()
	now := time.Now().Add(10 * snapshotKeep)
	d.region.expireOutgoing(d.host.files, now)
	if !d.hasFile() {
		t.Fatal("it was dropped while it was on its way")
	}
	d.region.outgoing.used = time.Time{}
	d.breakSnapshot(peer)
	d.region.expireOutgoing(d.host.files, time.Now().Add(snapshotKeep/2))
	if !d.hasFile() {
		t.Error("it was dropped when it broke")
	}
	d.waitSnapshot(peer, 2)
	if first, second := d.sent.snapshots[0].GetMetadata(), d.sent.snapshots[1].GetMetadata(); first.GetIndex() != second.GetIndex() {
		t.Errorf("a broken snapshot at %d was followed by one at %d", first.GetIndex(), second.GetIndex())
	}
	d.breakSnapshot(peer)
	d.region.expireOutgoing(d.host.files, time.Now().Add(2*snapshotKeep))
	if d.hasFile() || d.region.outgoing != nil {
		t.Error("it is kept for ever")
	}
}

// The log isn't cut off behind a snapshot that broke: for a while, and to a limit.
func TestLogWaitsForABrokenSnapshot(t *testing.T) {
	for name, test := range map[string]struct {
		after  time.Duration // from the break to the writes
		writes int
		holds  bool
	}{
		"within the limit":     {0, 20, true},
		"more than twice it":   {0, 60, false},
		"nobody came for long": {2 * snapshotKeep, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newHandDriven(t, Options{MaxLogEntries: 20})
			d.write(15)
			d.breakSnapshot(d.sendSnapshot())
			o := d.region.outgoing
			o.broken = o.broken.Add(-test.after)
			// Not asked for again: the peer is out of reach.
			for range 2 * electionTick {
				d.region.node.Tick()
			}
			before := d.worker.counters.compactions.Load()
			d.write(test.writes)
			if d.worker.counters.compactions.Load() == before && !test.holds {
				t.Error("nothing was cut off")
			}
			if fits := d.region.fits(o); fits != test.holds {
				t.Errorf("the snapshot at %d and the log from %d: fits is %v", o.at.index, d.region.log.truncated.index, fits)
			}
		})
	}
}

// A snapshot that breaks on its way to a new peer, under writes, goes on where it was.
func TestBrokenSnapshotGoesOn(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1, MaxLogEntries: 20, SnapshotRate: 16 << 10})
	fillAboveBurst(t, c.stores[1])
	c.join(2)
	<-c.stores[2].Ready()
	if _, err := c.stores[1].AddLearner(1, 2, c.peers[2]); err != nil {
		t.Fatal(err)
	}
	sender := c.stores[1].snapshotSender
	underWay := func(condition func(snapshot.Progress) bool) (found snapshot.Progress) {
		t.Helper()
		eventually(t, 30*time.Second, "a snapshot is on its way", func() bool {
			for _, transfer := range sender.Transfers() {
				if found = transfer; condition(transfer) {
					return true
				}
			}
			return false
		})
		return found
	}
	first := underWay(func(p snapshot.Progress) bool { return p.Done > 0 })
	eventually(t, 30*time.Second, "some of it has come", func() bool {
		transfers := c.stores[2].snapshotReceiver.Transfers()
		return len(transfers) > 0 && transfers[0].Done > 0
	})
	for i := range 15 {
		mustSet(t, c.stores[1], fmt.Sprint("meanwhile", i), "value")
	}
	// A sender goes on only with whom it knows to be able to, which it may not have
	// heard before the first break. Each has to be followed by the same snapshot.
	last := first
	for tries := 0; last.Resumed == 0; tries++ {
		if tries == 5 {
			t.Fatalf("none of %d broken transfers went on", tries)
		}
		if sender.Cancel(1) == 0 {
			t.Fatal("it ended by itself")
		}
		for i := 0; i < 15 && tries == 0; i++ { // the log waits for twice its limit, not for more
			mustSet(t, c.stores[1], fmt.Sprint("afterwards", i), "value")
		}
		last = underWay(func(p snapshot.Progress) bool { return p.Started.After(last.Started) && p.Done > 0 })
		if last.Index != first.Index {
			t.Fatalf("after %+v came %+v", first, last)
		}
	}
}

// A peer that is destroyed ends the snapshots that it sends, and those that come to
// it, but not one that comes to the next peer of the region.
func TestSnapshotsOfADestroyedPeerEnd(t *testing.T) {
	d := newHandDriven(t, Options{})
	var cancelled []uint64
	d.host.cancelSending = func(region uint64) { cancelled = append(cancelled, region) }
	d.host.serving.Store(true)
	sink := snapshotSink{d.host}
	own := d.region.group.Self.ID
	to := func(peer uint64) *raft_serverpb.RaftMessage {
		return &raft_serverpb.RaftMessage{RegionId: 1, FromPeer: &metapb.Peer{Id: 9, StoreId: 9}, ToPeer: &metapb.Peer{Id: peer, StoreId: 1}}
	}
	late, err := sink.CreateSnapshot(t.Context(), to(own))
	if err != nil {
		t.Fatal(err)
	}
	next, err := sink.CreateSnapshot(t.Context(), to(own+1))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.worker.destroy(d.region); err != nil {
		t.Fatal(err)
	}
	if len(cancelled) != 1 || cancelled[0] != 1 {
		t.Errorf("the snapshots of regions %v were ended, want 1", cancelled)
	}
	if _, err := late.Write([]byte("data")); err == nil {
		t.Error("a snapshot to a destroyed peer goes on")
	}
	if _, err := next.Write([]byte("data")); err != nil {
		t.Errorf("a snapshot to the next peer: %v", err)
	}
	if _, err := sink.CreateSnapshot(t.Context(), to(own)); err == nil {
		t.Error("a snapshot to a destroyed peer begins")
	}
	for _, writer := range []interface{ Discard() error }{late, next} {
		if err := writer.Discard(); err != nil {
			t.Error(err)
		}
	}
	d.host.serving.Store(false) // whoever closes the host has to see to the batch
}
