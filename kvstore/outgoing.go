package kvstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/raftmux/raftmux/snapshot"
)

// A snapshot is the state machine of one region as a sorted table of Pebble: all
// keys from its applied index to its last key, as they are in the database, so
// that the receiver can put the file into its own as it is. It is read from a
// Pebble snapshot, off the worker's goroutine.

const (
	// snapshotKeep is how long a snapshot is kept after it was last of use: other
	// peers may need it, and a broken transfer may go on with the rest of it.
	snapshotKeep = 30 * time.Second
	// snapshotBuilds is how many are written at a time.
	snapshotBuilds = 4
	// tableFormat is older than the newest one, so that stores of different
	// versions understand each other's.
	tableFormat = sstable.TableFormatPebblev4
)

// snapshotFiles is the folder of a store's snapshots, outgoing and incoming.
// Nothing in it outlives the process: it is emptied at the start.
type snapshotFiles struct {
	fs  vfs.FS
	dir string
	db  *pebble.DB

	ctx     context.Context // ends when the store stops
	cancel  context.CancelFunc
	slots   chan struct{}
	running sync.WaitGroup
	made    atomic.Uint64 // snapshots that were begun
}

func openSnapshotFiles(options Options, db *pebble.DB) (*snapshotFiles, error) {
	f := &snapshotFiles{fs: options.FS, dir: options.FS.PathJoin(options.Dir, "snapshots"), db: db}
	if err := f.fs.RemoveAll(f.dir); err != nil {
		return nil, fmt.Errorf("kvstore: clear %s: %w", f.dir, err)
	}
	if err := f.fs.MkdirAll(f.dir, 0o755); err != nil {
		return nil, fmt.Errorf("kvstore: make %s: %w", f.dir, err)
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.slots = make(chan struct{}, snapshotBuilds)
	return f, nil
}

// close ends what is being written.
func (f *snapshotFiles) close() {
	f.cancel()
	f.running.Wait()
}

// isBusy says whether as many snapshots are being written as may be.
func (f *snapshotFiles) isBusy() bool { return len(f.slots) == cap(f.slots) }

// remove removes a file that may be gone already.
func (f *snapshotFiles) remove(name string) { _ = f.fs.Remove(name) }

// outgoingName is the path of a snapshot that this store made. What a region is
// at an index and a term is the same whenever it is written.
func (f *snapshotFiles) outgoingName(region, index, term uint64) string {
	return f.fs.PathJoin(f.dir, fmt.Sprintf("send-%d-%d-%d.sst", region, index, term))
}

// outgoing is a snapshot that this store makes, or has made.
type outgoing struct {
	path    string
	confVer uint64
	at      position
	message *raftpb.Snapshot
	// balanceData is the message's data for a peer that can wait.
	balanceData []byte

	used   time.Time     // when Raft last asked for it, or it was last on its way; the worker's
	broken time.Time     // when it was last heard that it broke on its way; the worker's
	done   chan struct{} // closed when it is written, or failed
	err    error         // once done
	// orphaned says that nobody waits for it any more, and whoever writes it is to
	// remove it.
	orphaned atomic.Bool
}

// snapshot implements snapshotMaker. It is called by Raft, on the worker, and doesn't
// hear for which peer: see admitted.
func (r *region) snapshot() (*raftpb.Snapshot, error) {
	now := time.Now()
	if !r.isMade() || !r.hasRoom(now) {
		r.wanted = true
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	r.outgoing.used = now
	if !r.outgoing.isDone() {
		r.wanted = true // which keeps its room
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return r.outgoing.message, nil
}

// isMade says whether there is a snapshot that is of use, or will be when it is
// written.
func (r *region) isMade() bool {
	o := r.outgoing
	return o != nil && r.fits(o) && (!o.isDone() || o.err == nil)
}

// isDone says whether it is written, or failed.
func (o *outgoing) isDone() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// fits says whether a snapshot is of any use still: the log goes on where it
// ends, and all peers of now are in it.
func (r *region) fits(o *outgoing) bool {
	return o.at.index >= r.log.truncated.index && o.confVer == r.descriptor.ConfVer
}

// makeSnapshot begins the snapshot that Raft wants. What the region has applied
// must be in the database, and nothing beyond. If all slots are taken, it is
// called again.
func (r *region) makeSnapshot(f *snapshotFiles) error {
	if r.outgoing != nil && !r.dropOutgoing(f) {
		return nil
	}
	select {
	case f.slots <- struct{}{}:
	default:
		return nil
	}
	r.wanted = false
	term, err := r.log.Term(r.applied)
	if err != nil {
		return fmt.Errorf("kvstore: region %d: snapshot at %d: %w", r.id, r.applied, err)
	}
	o := &outgoing{
		at:      position{r.applied, term},
		confVer: r.descriptor.ConfVer,
		path:    f.outgoingName(r.id, r.applied, term),
		used:    time.Now(),
		done:    make(chan struct{}),
		message: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(r.applied), Term: new(term), ConfState: r.descriptor.confState(),
		}},
	}
	r.outgoing = o
	f.made.Add(1)
	view, region := f.db.NewSnapshot(), r.id
	f.running.Go(func() {
		defer func() { <-f.slots }()
		defer func() {
			if o.orphaned.Load() {
				f.remove(o.path)
			}
		}()
		defer close(o.done)
		var size int64
		size, o.err = f.write(view, region, o.path)
		if o.err == nil {
			o.message.Data, o.err = snapshotDataOf(region, size, false)
		}
		if o.err == nil {
			o.balanceData, o.err = snapshotDataOf(region, size, true)
		}
		if o.err = errors.Join(o.err, view.Close()); o.err != nil {
			f.remove(o.path)
		}
	})
	return nil
}

// dropOutgoing gives up the region's snapshot, unless it is still being written.
// A transfer that has its file open isn't disturbed.
func (r *region) dropOutgoing(f *snapshotFiles) bool {
	if !r.outgoing.isDone() {
		return false
	}
	f.remove(r.outgoing.path)
	r.outgoing = nil
	return true
}

// orphanOutgoing gives it up even if it is still being written.
func (r *region) orphanOutgoing(f *snapshotFiles) {
	if r.outgoing != nil {
		r.outgoing.orphaned.Store(true) // before dropOutgoing looks whether it is done
		r.dropOutgoing(f)
	}
}

// expireOutgoing drops a snapshot that nobody wants any more. While one is on its
// way, which takes what it takes, Raft doesn't ask for it.
func (r *region) expireOutgoing(f *snapshotFiles, now time.Time) {
	switch {
	case r.outgoing == nil:
	case r.isSent():
		r.outgoing.used = now
	case now.Sub(r.outgoing.used) > snapshotKeep:
		r.dropOutgoing(f)
	}
}

// isSent says whether the region's snapshot is on its way to any peer.
func (r *region) isSent() (sent bool) {
	if r.leads {
		r.node.WithProgress(func(_ uint64, _ raft.ProgressType, progress tracker.Progress) {
			sent = sent || r.isSentTo(progress)
		})
	}
	return sent
}

func (r *region) isSentTo(progress tracker.Progress) bool {
	return progress.State == tracker.StateSnapshot && progress.PendingSnapshot == r.outgoing.at.index
}

// snapshotBroke tells Raft that a snapshot has not arrived. The peer is sent the
// same again as long as it fits, and the transfer goes on where it broke.
func (r *region) snapshotBroke(peer uint64, now time.Time) {
	if r.outgoing != nil && r.leads && r.isSentTo(r.node.Status().Progress[peer]) {
		r.outgoing.used, r.outgoing.broken = now, now
	}
	r.node.ReportSnapshot(peer, raft.SnapshotFailure)
}

// mayGoOn says whether a peer may come for the rest of a snapshot that broke.
func (o *outgoing) mayGoOn(now time.Time) bool { return now.Sub(o.broken) <= snapshotKeep }

// write writes the state machine of a region as the view has it.
func (f *snapshotFiles) write(view *pebble.Snapshot, region uint64, path string) (size int64, err error) {
	iterator, err := view.NewIter(&pebble.IterOptions{
		LowerBound: regionKey(region, partApplied),
		UpperBound: regionKey(region, partLog),
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, iterator.Close()) }()
	return f.writeTable(path, func(set func(key, value []byte) error) error {
		for valid := iterator.First(); valid; valid = iterator.Next() {
			if f.ctx.Err() != nil {
				return f.ctx.Err()
			}
			if err := set(iterator.Key(), iterator.Value()); err != nil {
				return err
			}
		}
		return iterator.Error()
	})
}

// writeTable writes a sorted table, and syncs it.
func (f *snapshotFiles) writeTable(path string, fill func(set func(key, value []byte) error) error) (size int64, err error) {
	file, err := f.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	// The writer owns the file from here on, and syncs it when it is closed.
	table := sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{TableFormat: tableFormat})
	err = fill(table.Set)
	if err = errors.Join(err, table.Close()); err != nil {
		return 0, err
	}
	stat, err := f.fs.Stat(path)
	if err != nil {
		return 0, err
	}
	return stat.Size(), nil
}

// snapshotSource is the snapshot.Source of a store.
type snapshotSource struct{ files *snapshotFiles }

// OpenSnapshot implements snapshot.Source.
func (s snapshotSource) OpenSnapshot(_ context.Context, message *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	region, metadata := message.GetRegionId(), message.GetMessage().GetSnapshot().GetMetadata()
	file, err := s.files.fs.Open(s.files.outgoingName(region, metadata.GetIndex(), metadata.GetTerm()))
	if err != nil {
		return nil, fmt.Errorf("kvstore: region %d: the snapshot at %d is gone: %w", region, metadata.GetIndex(), err)
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return snapshotData{file, stat.Size()}, nil
}

type snapshotData struct {
	vfs.File
	size int64
}

// Size implements snapshot.Data.
func (d snapshotData) Size() int64 { return d.size }
