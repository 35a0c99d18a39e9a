package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/snapshot"
)

// compacted says whether the log of every region of a store begins behind an index.
func compacted(store *Store) bool {
	for _, w := range store.host.workers {
		if w.counters.compactions.Load() == 0 {
			return false
		}
	}
	return true
}

// A store that was away for longer than the log reaches comes back by snapshots.
func TestStoreThatWasAwayForLong(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 4, MaxLogEntries: 20})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	for i := range 40 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "before")
	}
	c.kill(3)
	for i := range 400 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "after")
	}
	for i := range 20 {
		if _, err := c.stores[1].Delete([]byte(fmt.Sprint("key", i))); err != nil {
			t.Fatal(err)
		}
	}
	if !compacted(c.stores[1]) {
		t.Error("nothing was compacted")
	}
	c.start(3)
	eventually(t, 60*time.Second, "the store has everything", func() bool { return c.stores[3].host.restored.Load() >= 4 })
	c.waitConverged()
	if files := snapshotFilesOf(t, c, 3, "receive-"); len(files) > 0 {
		t.Errorf("left of the snapshots that came: %v", files)
	}
	c.stop(1)
	c.start(1)
	if files := snapshotFilesOf(t, c, 1, ""); len(files) > 0 {
		t.Errorf("left of the snapshots that were sent before a restart: %v", files)
	}
	for i, want := range map[int]string{5: "", 30: "after", 399: "after"} {
		if got := mustGet(t, c.stores[3], fmt.Sprint("key", i)); string(got) != want {
			t.Errorf("key%d is %q, want %q", i, got, want)
		}
	}
	c.checkEqual()
}

// snapshotFilesOf lists the files of snapshots that a store has.
func snapshotFilesOf(t *testing.T, c *cluster, id uint64, prefix string) (files []string) {
	t.Helper()
	all, err := c.fs[id].List("data/snapshots")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if strings.HasPrefix(name, prefix) {
			files = append(files, name)
		}
	}
	return files
}

// A store that goes down at any moment while snapshots come in, and forgets what
// it had not synced, gets them again and is whole in the end.
func TestCrashesWhileRestoring(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 8, MaxLogEntries: 10})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	value := strings.Repeat("x", 10_000)
	for round := range 2 {
		c.kill(3)
		for i := range 300 {
			mustSet(t, c.stores[1], fmt.Sprint("key", i), fmt.Sprint(round, value))
		}
		c.start(3)
		for crash := range uint64(3) {
			// After some snapshots of eight, that is in the midst of another.
			store := c.stores[3]
			eventually(t, 60*time.Second, "some snapshots came", func() bool {
				return store.host.restored.Load() > crash || upToDate(c, 3)
			})
			c.kill(3)
			c.start(3)
		}
	}
	c.checkEqual()
}

func upToDate(c *cluster, id uint64) bool {
	for i := range c.options.Regions {
		if c.stores[id].host.views[i].applied.Load() < c.stores[1].host.views[i].applied.Load() {
			return false
		}
	}
	return true
}

// fullDisk has no room for the table with a store's own part of a snapshot.
type fullDisk struct{ full atomic.Bool }

func (d *fullDisk) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".own") && d.full.Load() {
		return errorfs.ErrInjected
	}
	return nil
}

func (d *fullDisk) String() string { return "full disk" }

// A disk that fails while a snapshot goes into the database stops the store, and
// leaves the region as it was; on a good disk the store gets a snapshot again.
func TestDiskFailsWhileRestoring(t *testing.T) {
	var disk fullDisk
	c := newClusterOn(t, 3, Options{Regions: 1, MaxLogEntries: 10}, func(id uint64, fs vfs.FS) vfs.FS {
		if id == 3 {
			return errorfs.Wrap(fs, &disk)
		}
		return fs
	})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	mustSet(t, c.stores[1], "key", "before")
	c.waitConverged()
	c.kill(3)
	for i := range 100 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "after")
	}
	disk.full.Store(true)
	c.start(3)
	select {
	case err := <-c.stores[3].Failed():
		if !errors.Is(err, errorfs.ErrInjected) || !strings.Contains(err.Error(), "region 1") {
			t.Errorf("the store failed with %v", err)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the store went on")
	}
	c.kill(3)
	disk.full.Store(false)
	c.start(3)
	c.checkEqual()
}

// A store whose disk is gone is refused under its old id, joins under a new one,
// and all regions replace it; its old id is a tombstone then.
func TestLostDisk(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 12})
	for i := range 200 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "value")
	}
	c.waitConverged()
	c.lose(3)

	c.fs[3] = vfs.NewCrashableMem()
	c.start(3)
	wantFailure(t, c.stores[3], ErrKnown, "store 3: store 1 at "+c.peers[1]+" says")
	if err := c.stores[3].Set([]byte("key"), nil); !errors.Is(err, ErrTryAgain) {
		t.Errorf("a store that must not start takes a write: %v", err)
	}
	c.stop(3)
	delete(c.fs, 3)

	c.join(4)
	regions, err := c.stores[1].ReplaceStore(3, 4, c.peers[4])
	if err != nil || regions != 12 {
		t.Fatalf("replace: %d regions, %v", regions, err)
	}
	<-c.stores[4].Ready()
	for region := uint64(1); region <= 12; region++ {
		c.waitRole(4, region, roleVoter)
		d, err := c.stores[4].Peers(region)
		if err != nil || d.on(3) != nil {
			t.Errorf("region %d: %+v, %v", region, d, err)
		}
	}
	if again, err := c.stores[2].ReplaceStore(3, 4, c.peers[4]); err != nil || again != 0 {
		t.Errorf("once more: %d regions, %v", again, err)
	}
	if _, err := c.stores[1].host.directory.Resolve(context.Background(), 3, ""); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("store 3 resolves with %v", err)
	}
	mustSet(t, c.stores[4], "key1", "new")

	// Neither does the old id come back, nor the new one once it is lost.
	c.fs[3] = vfs.NewCrashableMem()
	c.start(3)
	wantFailure(t, c.stores[3], ErrRetired, "store 3")
	c.stop(3)
	delete(c.fs, 3)
	c.lose(4)
	c.fs[4] = vfs.NewCrashableMem()
	c.start(4)
	wantFailure(t, c.stores[4], ErrKnown, "store 4")
	c.stop(4)
	delete(c.fs, 4)

	c.join(5)
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[2].ReplaceStore(4, 5, c.peers[5])
		return err == nil
	})
	<-c.stores[5].Ready()
	for region := uint64(1); region <= 12; region++ {
		c.waitRole(5, region, roleVoter)
	}
	c.killAll()
	for _, id := range []uint64{1, 2, 5} {
		c.start(id)
	}
	if got := mustGet(t, c.stores[5], "key1"); string(got) != "new" {
		t.Errorf("key1 is %q", got)
	}
	c.checkEqual()
}

// A store whose disk is gone is refused, too, if it names no store that has heard of
// it: one that has its peer in a descriptor says so, and one that has not knows others.
func TestLostDiskOfAStoreThatNamesFew(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1})
	c.join(4)
	c.join(5)
	<-c.stores[4].Ready()
	<-c.stores[5].Ready()
	c.putIn(1, 4)
	c.waitRole(4, 1, roleVoter)
	for store := uint64(1); store <= 3; store++ {
		eventually(t, 10*time.Second, "all in the region know of it", func() bool {
			return c.stores[store].host.answer(question{Store: 4}).Met
		})
	}
	c.lose(4)
	for name := range map[uint64]bool{1: true, 2: true, 3: true, 5: true} {
		c.fs[4] = vfs.NewCrashableMem()
		c.given[4] = map[uint64]string{4: c.peers[4], name: c.peers[name]}
		c.start(4)
		wantFailure(t, c.stores[4], ErrKnown, "store 4")
		c.stop(4)
		delete(c.fs, 4)
	}
}

func wantFailure(t *testing.T, store *Store, is error, text string) {
	t.Helper()
	select {
	case err := <-store.Failed():
		if !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
			t.Errorf("the store failed with %v, want %q", err, text)
		}
	case <-store.Ready():
		t.Error("the store started")
	case <-time.After(30 * time.Second):
		t.Error("the store neither started nor failed")
	}
}

// The lead of all regions goes away in the midst of a replacement; the next
// leaders go on with it.
func TestReplacementOutlivesLeaders(t *testing.T) {
	m := &meddler{}
	var snapshots atomic.Int64
	m.take = func(message *raftpb.Message) bool {
		if message.GetType() == raftpb.MsgSnap {
			snapshots.Add(1)
		}
		return false
	}
	c := newCluster(t, 3, Options{Regions: 12, wrapTransport: m.wrap})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	for i := range 100 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "value")
	}
	c.lose(3)
	c.join(4)
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[1].ReplaceStore(3, 4, c.peers[4])
		return err == nil
	})
	eventually(t, 30*time.Second, "snapshots", func() bool { return snapshots.Load() > 3 })
	c.kill(2)
	c.start(2)
	for region := uint64(1); region <= 12; region++ {
		c.waitRole(4, region, roleVoter)
	}
	c.checkEqual()
}

// heldDisk makes no snapshot to send before it may.
type heldDisk struct{ begun, may chan struct{} }

func (d *heldDisk) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpCreate && strings.Contains(op.Path, "send-") {
		close(d.begun)
		<-d.may
	}
	return nil
}

func (d *heldDisk) String() string { return "held disk" }

// A peer that is destroyed while its snapshot is being written leaves no file.
func TestSnapshotOfADestroyedPeer(t *testing.T) {
	disk := &heldDisk{begun: make(chan struct{}), may: make(chan struct{})}
	options := Options{StoreID: 1, Dir: "data", Peers: map[uint64]string{1: "127.0.0.1:0"}, Regions: 1, FS: errorfs.Wrap(vfs.NewMem(), disk)}
	h, err := openHost(options.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.load(); err != nil {
		t.Fatal(err)
	}
	w := h.workers[1%len(h.workers)]
	r := w.regions[1]
	if err := r.makeSnapshot(h.files); err != nil {
		t.Fatal(err)
	}
	<-disk.begun
	if err := w.destroy(r); err != nil {
		t.Fatal(err)
	}
	close(disk.may)
	h.files.running.Wait()
	files, err := options.FS.List("data/snapshots")
	if err != nil || len(files) > 0 {
		t.Errorf("left of a snapshot that nobody wants: %v, %v", files, err)
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
}

// A store that closes while it sends a snapshot doesn't wait for that, and closes well.
func TestCloseWhileASnapshotIsSent(t *testing.T) {
	const rate = 4 << 10 // after a burst of a MiB: many minutes for what follows
	c := newCluster(t, 3, Options{Regions: 4, MaxLogEntries: 20, SnapshotRate: rate})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.kill(3)
	random := rand.NewChaCha8([32]byte{})
	value := make([]byte, 20_000)
	for i := range 400 {
		_, _ = random.Read(value) // or it would be compressed to nothing
		mustSet(t, c.stores[1], fmt.Sprint("key", i), string(value))
	}
	c.start(3)
	sending := uint64(0)
	eventually(t, 60*time.Second, "a snapshot is held back", func() bool {
		for id, store := range c.stores {
			for _, transfer := range store.snapshotSender.Transfers() {
				if transfer.Phase == snapshot.Moving && transfer.Done > 0 && transfer.Total-transfer.Done > 10*rate*int64(closeTimeout.Seconds()) {
					sending = id
				}
			}
		}
		return sending != 0
	})
	began := time.Now()
	if err := c.stores[sending].Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took >= closeTimeout {
		t.Errorf("Close took %v", took)
	}
	c.stop(sending)
}
