package kvstore

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// compact gives up the older half of a log that has grown too long. Each replica
// does that for itself: what it gives up is in its state machine, on disk. That
// the log is shorter need not be synced, for nobody relies on it.
func (r *region) compact(db *pebble.DB, options *Options) (bool, error) {
	entries := r.log.lastIndex - r.log.truncated.index
	r.view.entries.Store(entries)
	if entries <= uint64(options.MaxLogEntries) && r.log.bytes <= options.MaxLogBytes {
		return false, nil
	}
	to := min(r.log.truncated.index+(entries+1)/2, r.applied)
	if entries <= 2*uint64(options.MaxLogEntries) && r.log.bytes <= 2*options.MaxLogBytes {
		to = r.needed(to, time.Now())
	}
	if to <= r.log.truncated.index {
		return false, nil
	}
	batch := db.NewBatch()
	defer func() { _ = batch.Close() }()
	if err := r.log.compact(batch, to); err != nil {
		return false, err
	}
	return true, batch.Commit(pebble.NoSync)
}

// needed returns the index up to which no peer needs the log that is alive, or
// that a snapshot is on its way to: cut off here, it would need another one. That
// goes for one that broke on its way, too: nothing else says that its peer, which
// has acknowledged nothing yet, is going to come for the rest.
func (r *region) needed(index uint64, now time.Time) uint64 {
	if !r.leads {
		return index
	}
	if r.outgoing != nil && r.outgoing.mayGoOn(now) {
		index = min(index, r.outgoing.at.index)
	}
	r.node.WithProgress(func(_ uint64, _ raft.ProgressType, progress tracker.Progress) {
		switch {
		case progress.State == tracker.StateSnapshot:
			index = min(index, progress.PendingSnapshot)
		case progress.RecentActive && progress.Match > 0:
			index = min(index, progress.Match)
		}
	})
	return index
}
