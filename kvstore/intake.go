package kvstore

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// drain hands what came in to the regions. If the disk fails on the way, who
// has not been served is answered all the same.
func (w *worker) drain(now time.Time) error {
	items := w.inbox.take(w.spare)
	w.spare = items
	for i := range items {
		if err := w.take(&items[i], now); err != nil {
			for _, it := range items[i:] {
				if it.request != nil {
					it.request.finish(answer{err: errClosed})
				}
			}
			return err
		}
	}
	return nil
}

// take hands one item on.
func (w *worker) take(it *item, now time.Time) error {
	r := w.regions[it.region]
	switch {
	case it.kind == itemStoreUnreachable:
		w.storeUnreachable(it.id)
	case it.kind == itemMessage:
		return w.receive(it)
	case it.kind == itemHandOver:
		w.handOver()
	case r == nil && it.request != nil:
		it.request.finish(answer{err: w.absent(it.region)})
	case r == nil:
		// A report on a peer that has left.
	case it.kind == itemTombstone:
		return w.bury(r, it.id)
	case it.kind == itemIsStale:
		if r.group.Self.ID == it.header.To.ID {
			w.fromPeer(r, it.header) // which tells it
		}
	default:
		w.do(r, it, now)
		w.activate(r)
	}
	return nil
}

// absent is the answer to a request for a region that this store doesn't have.
func (w *worker) absent(region uint64) error {
	return fmt.Errorf("%w region %d has no replica on store %d, nothing was written", ErrTryAgain, region, w.host.options.StoreID)
}

// do hands a request or a report to a region.
func (w *worker) do(r *region, it *item, now time.Time) {
	switch it.kind {
	case itemWrite:
		if !r.initialized() {
			it.request.finish(answer{err: fmt.Errorf("%w region %d waits for its first snapshot on store %d, nothing was written",
				ErrTryAgain, r.id, r.store)})
			return
		}
		if !r.writes.add(it.request) {
			it.request.finish(answer{err: errBusy})
			return
		}
		w.counters.proposals.Add(1)
		r.propose(it.request, now)
	case itemRead:
		if !r.reads.add(it.request) {
			it.request.finish(answer{err: errBusy})
			return
		}
		w.counters.reads.Add(1)
	case itemChange:
		r.startChange(it.request, w.host.directory)
	case itemUnreachable:
		r.unreachable(it.id)
	case itemRoom:
		w.heardOfRoom(r, it.id, it.room, now)
	case itemSnapshotFailed:
		w.counters.snapshotsFailed.Add(1)
		r.snapshotBroke(it.id, now)
	case itemSnapshotFinished:
		w.counters.snapshotsSent.Add(1)
		r.node.ReportSnapshot(it.id, raft.SnapshotFinish)
	}
}

// handOver gives the lead of all regions away that another voter can take.
func (w *worker) handOver() {
	for _, r := range w.regions {
		if r.leads {
			_ = r.handOver()
			w.activate(r)
		}
	}
}

// storeUnreachable tells all regions with a peer on the store.
func (w *worker) storeUnreachable(store uint64) {
	for _, r := range w.regions {
		if peer := r.descriptor.on(store); peer != nil {
			r.unreachable(peer.ID)
			w.activate(r)
		}
	}
}

// receive takes a message from another store: finds the peer that it is to, or
// makes it, looks whether the sender is still a peer, and steps it.
func (w *worker) receive(it *item) error {
	r, err := w.addressee(it)
	if err != nil {
		return err
	}
	if r == nil || !w.fromPeer(r, it.header) {
		w.refuse(it, "not between peers of the region")
		return nil
	}
	if err := w.meet(it.header.From.StoreID); err != nil {
		return err
	}
	if it.file != "" {
		metadata := it.message.GetSnapshot().GetMetadata()
		r.incoming = append(r.incoming, incoming{position{metadata.GetIndex(), metadata.GetTerm()}, it.file})
	}
	w.step(r, it.message)
	w.activate(r)
	return nil
}

func (w *worker) refuse(it *item, why string) {
	w.counters.refused.Add(1)
	w.host.options.Logger.Debug("message refused", "region_id", it.region, "from_store_id", it.header.From.StoreID, "err", why)
	if it.file != "" {
		w.host.files.remove(it.file)
	}
}

// addressee returns the peer that a message is to, nil if there is none.
//
// A peer begins with the first word of the leader that has added it: an append or
// a heartbeat, or the snapshot itself. It has nothing then and waits for that. Ids
// only grow, so a message to a higher id than ours says that ours was taken out,
// and one to an id of which there is a tombstone, or a lower one, is late.
func (w *worker) addressee(it *item) (*region, error) {
	r, to := w.regions[it.region], it.header.To.ID
	if r != nil && r.group.Self.ID == to {
		return r, nil
	}
	if to <= w.tombstones[it.region] || !begins(it.message.GetType()) {
		return nil, nil
	}
	if r != nil {
		if to <= r.descriptor.LastPeer || to < r.group.Self.ID {
			return nil, nil
		}
		if err := w.destroy(r); err != nil {
			return nil, err
		}
	}
	r, err := openRegion(w.host, it.region, to)
	if err != nil {
		return nil, fmt.Errorf("kvstore: region %d: begin peer %d: %w", it.region, to, err)
	}
	last := w.given[it.region]
	r.writes.last, r.reads.last = last.write, last.read
	w.regions[it.region] = r
	// Its hard state will need to know whose it is.
	return r, w.applier.batch.Set(regionKey(it.region, partPeer), binary.BigEndian.AppendUint64(nil, to), nil)
}

// begins says whether a message of the type may make a peer. A vote may not: a
// peer is not asked for one before it has been filled, so it has forgotten some.
func begins(kind raftpb.MessageType) bool {
	return kind == raftpb.MsgApp || kind == raftpb.MsgHeartbeat || kind == raftpb.MsgSnap
}

// maxStrangers bounds the senders that a peer remembers without knowing them.
const maxStrangers = 16

// fromPeer says whether the sender may have a say. One that was taken out may
// not have heard of it, for the others don't write to it any more; it is told, if its
// store can be found. One that this peer doesn't know of yet, because it lags behind,
// is heard.
func (w *worker) fromPeer(r *region, header etcdraft.Header) bool {
	from := header.From
	if r.descriptor.gone(from.ID) {
		if w.host.directory.finds(from.StoreID) {
			w.sender.Bury(r.group, from)
			w.touched = true
		}
		return false
	}
	if peer := r.descriptor.peer(from.ID); peer != nil {
		return peer.StoreID == from.StoreID
	}
	if w.host.directory.isBuried(from.StoreID) {
		return false
	}
	r.heed(from)
	return true
}

// heed remembers where a peer is that the descriptor doesn't know, to answer it. Any
// sender may claim to be one, so the one that was heeded longest ago is forgotten for
// a new one; but not the leader, which has to have its answers.
func (r *region) heed(stranger etcdraft.Peer) {
	r.strangers = slices.DeleteFunc(r.strangers, func(id uint64) bool { return id == stranger.ID })
	if len(r.strangers) == maxStrangers {
		oldest := 0
		if r.strangers[oldest] == r.leader {
			oldest++
		}
		delete(r.group.Stores, r.strangers[oldest])
		r.strangers = slices.Delete(r.strangers, oldest, oldest+1)
	}
	r.strangers = append(r.strangers, stranger.ID)
	r.group.Stores[stranger.ID] = stranger.StoreID
}

// dropStrangers forgets those that the descriptor has come to know, as peers or as
// peers that were taken out.
func (r *region) dropStrangers() {
	r.strangers = slices.DeleteFunc(r.strangers, func(id uint64) bool {
		if id > r.descriptor.LastPeer {
			return false
		}
		delete(r.group.Stores, id)
		return true
	})
}

// meet notes, once per start, that another store has been heard of.
func (w *worker) meet(store uint64) error {
	if w.met[store] {
		return nil
	}
	w.met[store] = true
	return w.host.directory.meet(w.applier.batch, store)
}

// step gives a received message to Raft. A message that would make Raft panic,
// or that it has no use for, is dropped and counted.
func (w *worker) step(r *region, m *raftpb.Message) {
	if !r.initialized() && (m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgPreVote) {
		w.counters.refused.Add(1)
		return
	}
	if err := r.guard.Check(r.node, m); err != nil {
		w.counters.refused.Add(1)
		w.host.options.Logger.Debug("message refused", "region_id", r.id, "err", err)
		return
	}
	_ = r.node.Step(m)
}

// doubtAfter is after how many ticks without a leader a peer asks the others
// whether it is still one of them, and how many come between two such questions.
const doubtAfter = 3 * electionTick

// doubt lets a peer that hears of no leader ask. A voter finds out by asking for
// votes; a learner, or a peer that was taken out before it was filled, only so.
func (w *worker) doubt(r *region) {
	if r.leader != raft.None {
		r.alone = 0
		return
	}
	if r.alone++; r.alone%doubtAfter != 0 {
		return
	}
	for peer, store := range r.group.Stores {
		if peer != r.group.Self.ID {
			w.sender.AskIfStale(r.group, etcdraft.Peer{ID: peer, StoreID: store})
			w.touched = true
		}
	}
}

// bury is told by a member of a region that a peer of it was taken out.
func (w *worker) bury(r *region, peer uint64) error {
	if r.group.Self.ID != peer {
		return nil // that was an earlier one
	}
	return w.destroy(r)
}

// destroy removes a peer that was taken out, with all that it had, and leaves a
// tombstone, so that no late message brings it back. It is durable when destroy
// returns.
func (w *worker) destroy(r *region) error {
	r.close(fmt.Errorf("%w region %d has left store %d, the outcome of a write is unknown", ErrTryAgain, r.id, r.store))
	r.dead = true
	r.dropIncoming(w.host.files)
	r.orphanOutgoing(w.host.files)
	delete(w.regions, r.id)
	w.tombstones[r.id] = r.group.Self.ID
	r.view.buried.Store(r.group.Self.ID) // which ends the snapshots that come to it
	w.host.cancelSending(r.id)           // a newer peer has not begun, so none is its own
	w.given[r.id] = lastGiven{write: r.writes.last, read: r.reads.last}
	r.view.clear()
	w.host.directory.move(r.descriptor, &Descriptor{})
	w.host.directory.bury()
	w.counters.destroyed.Add(1)
	w.host.options.Logger.Info("peer destroyed", "region_id", r.id, "peer_id", r.group.Self.ID)

	batch := w.host.db.NewBatch()
	defer func() { _ = batch.Close() }()
	err := batch.DeleteRange(regionKey(r.id, partApplied), regionKey(r.id, partTombstone), nil)
	if err == nil {
		err = batch.Set(regionKey(r.id, partTombstone), binary.BigEndian.AppendUint64(nil, r.group.Self.ID), nil)
	}
	if err == nil {
		err = batch.Commit(pebble.Sync)
	}
	if err != nil {
		return fmt.Errorf("kvstore: region %d: destroy peer %d: %w", r.id, r.group.Self.ID, err)
	}
	return nil
}
