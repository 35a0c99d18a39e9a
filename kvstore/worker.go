package kvstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// transport is what a worker needs to send messages: an etcdraft.Sender, and the
// raftmux.Sender below it. It is used by the worker's goroutine only.
type transport interface {
	// SendAll sends a region's messages and reports to the node what was not accepted.
	SendAll(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (accepted int, err error)
	// Bury tells a peer that it was taken out of its region.
	Bury(group etcdraft.Group, peer etcdraft.Peer)
	// AskIfStale asks a peer to do that if this one was.
	AskIfStale(group etcdraft.Group, peer etcdraft.Peer)
	Flush()
	Close()
}

// worker drives the regions whose id modulo the number of workers is its own.
// All of its fields belong to its goroutine, but for the inbox and the counters.
type worker struct {
	host    *Host
	inbox   *inbox
	sender  transport
	regions map[uint64]*region
	// tombstones has the highest peer id of each region that this store had and
	// has no more.
	tombstones map[uint64]uint64
	// given has the numbers that were given last in the regions that this store
	// had and has no more.
	given   map[uint64]lastGiven
	met     map[uint64]bool // stores that were heard of since the start
	active  []*region       // regions that may have something ready
	ready   []readyRegion
	applier applier
	spare   []item
	touched bool // whether something was handed to the sender since the last Flush

	counters workerCounters
}

// lastGiven are the numbers that a region gave last.
type lastGiven struct{ write, read uint64 }

// workerCounters are for INFO; anyone may read them.
type workerCounters struct {
	loops, syncs, proposals, writes, reads, becameLeader, refused atomic.Uint64
	compactions, destroyed, snapshotsSent, snapshotsFailed        atomic.Uint64
	prechecks, prechecksRefused                                   atomic.Uint64
}

type readyRegion struct {
	region *region
	ready  raft.Ready
}

func newWorker(h *Host) *worker {
	return &worker{
		host:       h,
		inbox:      newInbox(),
		regions:    map[uint64]*region{},
		tombstones: map[uint64]uint64{},
		given:      map[uint64]lastGiven{},
		met:        map[uint64]bool{},
		applier:    applier{db: h.db, directory: h.directory, batch: h.db.NewBatch(), touched: map[string]bool{}},
	}
}

// run is the worker's life. When it returns, every request was answered. An
// error means that the disk failed; nothing can be promised from then on.
func (w *worker) run(ctx context.Context) (err error) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	defer func() { w.shutDown(err) }()
	for {
		ticked := false
		if len(w.active) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-w.inbox.wake:
			case <-ticker.C:
				ticked = true
			}
		} else {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
				ticked = true
			default:
			}
		}
		if err := w.loop(ticked); err != nil {
			return err
		}
	}
}

// loop is one turn: everything that came in, one synced batch, one Flush.
func (w *worker) loop(ticked bool) error {
	now := time.Now()
	w.counters.loops.Add(1)
	if err := w.drain(now); err != nil {
		return err
	}
	if ticked {
		w.tick(now)
	}
	if err := w.collect(now); err != nil {
		return err
	}
	if err := w.commit(); err != nil {
		return err
	}
	if err := w.finish(); err != nil {
		return err
	}
	if w.touched {
		w.sender.Flush()
		w.touched = false
	}
	return nil
}

func (w *worker) tick(now time.Time) {
	moving := 0
	for _, r := range w.regions {
		if r.moving() {
			moving++
		}
	}
	for _, r := range w.regions {
		r.tick()
		w.doubt(r)
		r.expireReads(now)
		r.expireChange(now)
		r.expireOutgoing(w.host.files, now)
		if len(r.writes.pending) > 0 {
			r.pumpWrites(now)
		}
		r.rebalance(w.host.directory.upFor)
		if r.moving() {
			r.replace(w.host, now)
		} else if r.toMove() && moving < replacing {
			moving++
			r.replace(w.host, now)
		}
		w.activate(r)
	}
}

func (w *worker) activate(r *region) {
	if !r.active {
		r.active = true
		w.active = append(w.active, r)
	}
}

// collect takes from each active region what Raft wants saved, sent and
// applied, and puts the first and the last into the batch.
func (w *worker) collect(now time.Time) error {
	for _, r := range w.active {
		if r.dead {
			continue
		}
		r.pumpReads(now)
		if !r.node.HasReady() {
			r.dropIncoming(w.host.files) // Raft had no use for them
			continue
		}
		ready := r.node.Ready()
		r.guard.Observe(ready)
		if ready.SoftState != nil {
			if r.softState(ready.SoftState) {
				w.counters.becameLeader.Add(1)
			}
		}
		if err := w.collectSnapshot(r, &ready); err != nil {
			return err
		}
		if err := r.log.stage(w.applier.batch, ready.HardState, ready.Entries); err != nil {
			return err
		}
		r.raiseBarrier(ready.Entries)
		if err := w.applier.apply(r, ready.CommittedEntries); err != nil {
			return err
		}
		w.ready = append(w.ready, readyRegion{r, ready})
	}
	return nil
}

// collectSnapshot restores the snapshot that Raft has taken, if any. What is
// collected of the region afterwards goes on from there.
func (w *worker) collectSnapshot(r *region, ready *raft.Ready) error {
	defer r.dropIncoming(w.host.files)
	if raft.IsEmptySnap(ready.Snapshot) {
		return nil
	}
	before := r.descriptor
	if err := r.restore(w.host.files, ready.Snapshot, ready.HardState); err != nil {
		return err
	}
	w.host.restored.Add(1)
	for _, peer := range r.descriptor.Peers {
		if err := w.host.directory.learn(w.applier.batch, peer.StoreID, peer.Address); err != nil {
			return err
		}
	}
	w.host.directory.describe(r.id, before, r.descriptor)
	for store := range r.dedup {
		w.host.directory.wrote(store)
	}
	return nil
}

// commit makes the batch of all regions durable: the one synced write of a loop.
func (w *worker) commit() error {
	if w.applier.batch.Empty() {
		return nil
	}
	options := pebble.Sync
	if ackBeforeSync || w.host.options.unsafeNoSync {
		options = pebble.NoSync
	}
	if err := w.applier.batch.Commit(options); err != nil {
		return fmt.Errorf("kvstore: commit: %w", err)
	}
	w.counters.syncs.Add(1)
	return nil
}

// finish does all that had to wait for the batch: sending, acknowledging,
// telling Raft, answering reads. It keeps the regions that have more to do.
func (w *worker) finish() error {
	for _, ack := range w.applier.acks {
		ack.request.finish(ack.answer)
		w.counters.writes.Add(1)
	}
	w.applier.reset()
	for i := range w.ready {
		r, ready := w.ready[i].region, &w.ready[i].ready
		r.log.saved(ready.HardState, ready.Entries)
		if len(ready.Entries) > 0 {
			r.idle = 0
		}
		if len(ready.CommittedEntries) > 0 {
			r.view.applied.Store(r.applied)
			r.writes.settle()
		}
		for _, change := range r.changes {
			r.node.ApplyConfChange(change)
		}
		r.changes = nil
		r.node.Advance(*ready)
		if r.outgoing != nil {
			ready.Messages = r.admitted(ready.Messages, time.Now())
		}
		if len(ready.Messages) > 0 {
			w.touched = true
			if _, err := w.sender.SendAll(r.group, r.node, ready.Messages); err != nil {
				w.host.options.Logger.Debug("send", "region_id", r.id, "err", err)
			}
		}
		r.reads.confirm(ready.ReadStates)
		if ready.SoftState != nil && len(r.writes.pending) > 0 {
			r.pumpWrites(time.Now())
		}
	}
	w.ready = clearSlice(w.ready)
	still := w.active[:0]
	for _, r := range w.active {
		more, err := w.settle(r)
		if err != nil {
			return err
		}
		if r.active = more; more {
			still = append(still, r)
		}
	}
	clear(w.active[len(still):])
	w.active = still
	return nil
}

// settle does what needs a region whose database is as it says, and returns
// whether it has more to do at once.
func (w *worker) settle(r *region) (more bool, err error) {
	if r.dead {
		return false, nil
	}
	if r.descriptor.gone(r.group.Self.ID) {
		return false, w.destroy(r)
	}
	if err := r.serveReads(w.host.db); err != nil {
		return false, err
	}
	if r.wanted && r.initialized() {
		if err := w.provide(r, time.Now()); err != nil {
			return false, err
		}
	}
	compacted, err := r.compact(w.host.db, &w.host.options)
	if err != nil {
		return false, err
	}
	if compacted {
		w.counters.compactions.Add(1)
	}
	return r.node.HasReady() || r.canRead(), nil
}

// shutDown answers everyone who still waits and gives the sender back.
func (w *worker) shutDown(cause error) {
	err := errClosed
	if cause != nil {
		err = fmt.Errorf("%w the store failed, the outcome of a write is unknown: %w", ErrTryAgain, cause)
	}
	for _, it := range w.inbox.close() {
		if it.request != nil {
			it.request.finish(answer{err: errClosed})
		}
	}
	for _, ack := range w.applier.acks {
		ack.request.finish(answer{err: err})
	}
	for _, r := range w.regions {
		r.close(err)
	}
	_ = w.applier.batch.Close()
	w.sender.Close()
}

func clearSlice[T any](s []T) []T {
	clear(s)
	return s[:0]
}
