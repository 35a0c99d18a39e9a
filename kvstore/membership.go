package kvstore

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// ErrNotLeader is wrapped by the error of a membership change that was asked of
// a store which doesn't lead the region. The text says which one does.
var ErrNotLeader = errors.New("NOTLEADER")

// caughtUp is how many entries a learner may lack to be made a voter: so few that
// it has them before anyone would wait for its vote.
const caughtUp = 64

// replacing bounds the regions of one worker that are being moved at a time, so
// that few have one replica less, and snapshots are made no faster than they go.
const replacing = 16

// startChange proposes a membership change. The request gets its answer when the
// change is applied here, or by expireChange.
//
// Changes are made one at a time and one peer at a time: Raft allows no other
// before the last one is applied at the leader, and drops it silently, so that is
// looked at here.
func (r *region) startChange(request *request, directory *directory) {
	err := r.checkChange(request, directory)
	if err == nil {
		var change *raftpb.ConfChange
		if change, err = request.change.encode(); err == nil && r.node.ProposeConfChange(change) != nil {
			err = fmt.Errorf("%w region %d takes no proposals just now, nothing was changed", ErrTryAgain, r.id)
		}
	}
	if err != nil {
		request.finish(answer{err: err})
		return
	}
	r.change = request
}

// raiseBarrier takes note of the conf changes among entries that the log gets. They
// take the place of all that it had from the first of them on.
func (r *region) raiseBarrier(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	r.barrier = min(r.barrier, entries[0].GetIndex()-1)
	for _, entry := range entries {
		if entry.GetType() == raftpb.EntryConfChange {
			r.barrier = max(r.barrier, entry.GetIndex())
		}
	}
}

// changing says whether a membership change is under way, or may be.
func (r *region) changing() bool { return r.change != nil || r.applied < r.barrier }

func (r *region) checkChange(request *request, directory *directory) error {
	c := &request.change
	switch {
	case !r.leads && r.leader == raft.None:
		return fmt.Errorf("%w region %d has no leader that store %d knows of", ErrTryAgain, r.id, r.store)
	case !r.leads:
		return fmt.Errorf("%w region %d is led by store %d", ErrNotLeader, r.id, r.group.Stores[r.leader])
	case r.changing():
		return fmt.Errorf("%w region %d has another change under way", ErrTryAgain, r.id)
	}
	if c.kind == raftpb.ConfChangeAddLearnerNode {
		c.peer = r.descriptor.LastPeer + 1
	}
	next, err := r.descriptor.with(*c)
	if err != nil {
		return inRegion(r.id, err)
	}
	if c.kind == raftpb.ConfChangeAddNode {
		if err := r.checkCaughtUp(c.peer); err != nil {
			return err
		}
	}
	if c.kind == raftpb.ConfChangeRemoveNode && c.peer == r.group.Self.ID {
		return r.handOver()
	}
	return r.checkQuorum(next, directory)
}

// checkCaughtUp refuses to make a voter of a learner that lacks much of the log:
// it would count in every majority and help in none.
func (r *region) checkCaughtUp(peer uint64) error {
	progress := r.node.Status().Progress[peer]
	if progress.State != tracker.StateReplicate || progress.Match+caughtUp < r.log.lastIndex {
		return fmt.Errorf("%w peer %d of region %d has %d of %d log entries; it must catch up first",
			ErrTryAgain, peer, r.id, progress.Match, r.log.lastIndex)
	}
	return nil
}

// checkQuorum refuses a change after which no majority would be in reach.
func (r *region) checkQuorum(next *Descriptor, directory *directory) error {
	voters := next.voterStores()
	up := 0
	for _, store := range voters {
		if store == r.store || directory.upFor(store) > 0 {
			up++
		}
	}
	if up <= len(voters)/2 {
		return fmt.Errorf("%w region %d would have voters on stores %v, of which only %d can be reached", ErrTryAgain, r.id, voters, up)
	}
	return nil
}

// handOver gives the lead to another voter. A leader doesn't take itself out: the
// others might never learn that it was allowed to go. Nor does it give the lead to a
// peer that is being taken out, as one may be that a change is about.
func (r *region) handOver() error {
	if r.changing() {
		return fmt.Errorf("%w region %d has a change under way", ErrTryAgain, r.id)
	}
	var best uint64
	status := r.node.Status()
	for _, peer := range r.descriptor.Peers {
		progress := status.Progress[peer.ID]
		if peer.ID != r.group.Self.ID && peer.Role == Voter && progress.RecentActive &&
			(best == 0 || progress.Match > status.Progress[best].Match) {
			best = peer.ID
		}
	}
	if best == 0 {
		return fmt.Errorf("%w region %d has no other voter to take over the lead", ErrTryAgain, r.id)
	}
	r.node.TransferLeader(best)
	return fmt.Errorf("%w region %d: the leader does not take itself out; it hands over to store %d, ask there",
		ErrTryAgain, r.id, r.group.Stores[best])
}

// expireChange answers a change that is out of time.
func (r *region) expireChange(now time.Time) {
	if r.change != nil && now.After(r.change.deadline) {
		r.change.finish(answer{err: r.change.expired()})
		r.change = nil
	}
}

// replace does the next step of the replacement that is ordered, if this peer
// leads. The old peer goes first: its store is gone, so keeping it in would only
// make majorities larger. Each step is looked up in the descriptor, so whoever
// leads goes on where the last leader stopped.
func (r *region) replace(h *Host, now time.Time) {
	order := r.descriptor.Replacement
	if order == nil || !r.leads || r.changing() {
		return
	}
	c := peerChange{}
	was, next := r.descriptor.on(order.Old), r.descriptor.on(order.New)
	switch {
	case was != nil:
		c.kind, c.peer = raftpb.ConfChangeRemoveNode, was.ID
	case next == nil:
		c.kind = raftpb.ConfChangeAddLearnerNode
		c.body.StoreID, c.body.Address = order.New, order.Address
	default:
		if r.checkCaughtUp(next.ID) != nil {
			return
		}
		c.kind, c.peer = raftpb.ConfChangeAddNode, next.ID
	}
	request := h.newChange(r.id, c)
	request.deadline = now.Add(h.options.RequestTimeout)
	r.startChange(request, h.directory)
}
