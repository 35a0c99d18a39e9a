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

// transport is what a worker needs to send messages: an etcdraft.Sender. It is
// used by the worker's goroutine only.
type transport interface {
	// SendAll sends a region's messages and reports to the node what was not accepted.
	SendAll(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (accepted int, err error)
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
	active  []*region // regions that may have something ready
	ready   []readyRegion
	applier applier
	spare   []item
	touched bool // whether something was handed to the sender since the last Flush

	counters workerCounters
}

// workerCounters are for INFO; anyone may read them.
type workerCounters struct {
	loops, syncs, proposals, writes, reads, becameLeader, refused atomic.Uint64
}

type readyRegion struct {
	region *region
	ready  raft.Ready
}

func newWorker(h *Host) *worker {
	return &worker{
		host:    h,
		inbox:   newInbox(),
		regions: map[uint64]*region{},
		applier: applier{db: h.db, batch: h.db.NewBatch(), touched: map[string]bool{}},
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
	w.drain(now)
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

// drain hands what came in to the regions.
func (w *worker) drain(now time.Time) {
	items := w.inbox.take(w.spare)
	for i := range items {
		it := &items[i]
		if it.kind == itemStoreUnreachable {
			for _, r := range w.regions {
				r.unreachable(PeerID(r.id, it.id))
				w.activate(r)
			}
			continue
		}
		r := w.regions[it.region]
		switch it.kind {
		case itemMessage:
			w.step(r, it.message)
		case itemWrite:
			if !r.writes.add(it.request) {
				it.request.finish(answer{err: errBusy})
				continue
			}
			w.counters.proposals.Add(1)
			r.propose(it.request, now)
		case itemRead:
			if !r.reads.add(it.request) {
				it.request.finish(answer{err: errBusy})
				continue
			}
			w.counters.reads.Add(1)
		case itemUnreachable:
			r.unreachable(it.id)
		case itemSnapshotFailed:
			r.node.ReportSnapshot(it.id, raft.SnapshotFailure)
		case itemSnapshotFinished:
			r.node.ReportSnapshot(it.id, raft.SnapshotFinish)
		}
		w.activate(r)
	}
	w.spare = items
}

// step gives a received message to Raft. A message that would make Raft panic,
// or that it has no use for, is dropped and counted.
func (w *worker) step(r *region, m *raftpb.Message) {
	if err := r.guard.Check(r.node, m); err != nil {
		w.counters.refused.Add(1)
		w.host.options.Logger.Debug("message refused", "region_id", r.id, "err", err)
		return
	}
	_ = r.node.Step(m)
}

func (w *worker) tick(now time.Time) {
	for _, r := range w.regions {
		r.tick()
		r.expireReads(now)
		if len(r.writes.pending) > 0 {
			r.pumpWrites(now)
		}
		r.rebalance(w.host.upFor)
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
		r.pumpReads(now)
		if !r.node.HasReady() {
			continue
		}
		ready := r.node.Ready()
		r.guard.Observe(ready)
		if ready.SoftState != nil {
			if r.softState(ready.SoftState) {
				w.counters.becameLeader.Add(1)
			}
		}
		if err := r.log.stage(w.applier.batch, ready.HardState, ready.Entries); err != nil {
			return err
		}
		if err := w.applier.apply(r, ready.CommittedEntries); err != nil {
			return err
		}
		w.ready = append(w.ready, readyRegion{r, ready})
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
		r.node.Advance(*ready)
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
		if err := r.serveReads(w.host.db); err != nil {
			return err
		}
		if r.active = r.node.HasReady() || r.canRead(); r.active {
			still = append(still, r)
		}
	}
	clear(w.active[len(still):])
	w.active = still
	return nil
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
		for _, write := range r.writes.pending {
			write.finish(answer{err: err})
		}
		for _, read := range r.reads.waiting {
			read.finish(answer{err: err})
		}
		for _, round := range r.reads.rounds {
			for _, read := range round.reads {
				read.finish(answer{err: err})
			}
		}
	}
	_ = w.applier.batch.Close()
	w.sender.Close()
}

func clearSlice[T any](s []T) []T {
	clear(s)
	return s[:0]
}
