package kvstore

import (
	"maps"
	"math/rand/v2"
	"time"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/raftmux/raftmux/snapshot"
)

// Why a leader asks before it makes a snapshot
//
// A store takes so many snapshots at a time and no more, and whoever makes one that
// the receiver has no room for has read and written a region for nothing, again and
// again. So the leader asks the receiver first, which keeps room for a while if it
// has any. It is a question of the peer: several may lack what the log has no more,
// and only who has room is sent the snapshot that Raft has for all of them.
//
// Raft must not wait for that. It takes ErrSnapshotTemporarilyUnavailable for an
// answer, and asks again whenever the peer that lacks something is heard of, with
// each answer to a heartbeat at the latest. So all that is kept here are wishes:
// Raft's, and what stores have said. A peer that Raft wants no snapshot for any
// more is asked nothing; an answer that never comes is asked for again; and a store
// that can't be asked gets the snapshot unasked.

const (
	// roomAgain is after what time a store is asked again that had no room, or
	// didn't answer; doubled each time until roomAgainMax.
	roomAgain    = 250 * time.Millisecond
	roomAgainMax = 2 * time.Second
	// roomLost is after what time an answer is not waited for any more. A question
	// has an end before that: the answer was lost on its way to the worker.
	roomLost = 2 * snapshot.DefaultConnectTimeout
	// roomLeast is for how long a yes counts at least: Raft comes for the snapshot
	// with the answer to a heartbeat, and would never find the room of a receiver
	// that keeps it for less.
	roomLeast = 10 * heartbeatTick * tickInterval
)

// room is what a peer's store has said of it.
type room struct {
	asked time.Time     // when it was asked what it hasn't answered, zero if there is nothing
	until time.Time     // there is room until then
	again time.Time     // it isn't asked before
	pause time.Duration // until then, when that was set
}

// roomAnswer is what came back, for the worker.
type roomAnswer struct {
	admission snapshot.Admission
	err       error
}

func (m *room) is(now time.Time) bool { return m != nil && now.Before(m.until) }

// mayAsk says whether it is time to ask. While there is room that is so once half
// of the time is over: what takes longer to make than that keeps its place.
func (m *room) mayAsk(now time.Time) bool {
	return (m.asked.IsZero() || now.Sub(m.asked) > roomLost) && !now.Before(m.again)
}

// heard takes an answer.
func (m *room) heard(a *roomAnswer, now time.Time) {
	asked := m.asked
	m.asked = time.Time{}
	if a.err != nil {
		m.pause = min(max(2*m.pause, roomAgain), roomAgainMax)
		m.again = now.Add(m.pause - m.pause/5 + rand.N(2*m.pause/5)) // or all regions come at once
		return
	}
	life := snapshotKeep // of a yes that promises nothing
	if a.admission.Known {
		life = max(a.admission.Reserved, roomLeast)
	}
	// The receiver's clock began to run after it was asked.
	m.pause, m.until, m.again = 0, asked.Add(life), asked.Add(life/2)
}

// lacking returns the peers that Raft may want a snapshot for: those that are alive
// and lack what the log has no more, and that none is on its way to.
func (r *region) lacking() (peers []*Peer) {
	if !r.leads {
		return nil
	}
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, progress tracker.Progress) {
		if id == r.group.Self.ID || !progress.RecentActive || progress.State == tracker.StateSnapshot || progress.Next > r.log.truncated.index {
			return
		}
		if peer := r.descriptor.peer(id); peer != nil {
			peers = append(peers, peer)
		}
	})
	return peers
}

// hasRoom says whether anyone who lacks a snapshot has room for it.
func (r *region) hasRoom(now time.Time) bool {
	for _, peer := range r.lacking() {
		if r.rooms[peer.ID].is(now) {
			return true
		}
	}
	return false
}

// forBalance says whether a snapshot for a peer could wait until all is well
// elsewhere: a voter that fell behind is missed, and so is the peer that is to
// replace a lost one; any other learner only comes on top.
func (r *region) forBalance(peer *Peer) bool {
	order := r.descriptor.Replacement
	return peer.Role == Learner && (order == nil || order.New != peer.StoreID)
}

// provide sees to the snapshot that Raft wants: that stores are asked for room, and
// that it is made once one has some. Raft comes for it by itself.
func (w *worker) provide(r *region, now time.Time) error {
	lacking := r.lacking()
	if len(lacking) == 0 {
		r.wanted = false // it asks again if it still wants it
		return nil
	}
	maps.DeleteFunc(r.rooms, func(peer uint64, _ *room) bool { return r.descriptor.peer(peer) == nil })
	found := false
	for _, peer := range lacking {
		found = w.seekRoom(r, peer, now) || found
	}
	switch {
	case r.isMade():
		r.wanted = false
	case found:
		return r.makeSnapshot(w.host.files)
	}
	return nil // to be called again
}

// seekRoom says whether a peer's store has room, as far as it has said, and asks it
// if it is time to.
func (w *worker) seekRoom(r *region, peer *Peer, now time.Time) bool {
	m := r.rooms[peer.ID]
	if m == nil {
		m = &room{}
		if r.rooms == nil {
			r.rooms = map[uint64]*room{}
		}
		r.rooms[peer.ID] = m
	}
	// While it would not be made at once, room for it would only be in others' way.
	if !m.mayAsk(now) || !m.is(now) && !r.isMade() && w.host.files.isBusy() {
		return m.is(now)
	}
	if w.host.prechecks.ask == nil {
		m.asked = now
		m.heard(&roomAnswer{}, now)
		return true
	}
	id := peer.ID
	request := snapshot.PrecheckRequest{RegionID: r.id, PeerID: id, StoreID: peer.StoreID, ForBalance: r.forBalance(peer)}
	asked := w.host.prechecks.begin(request, func(admission snapshot.Admission, err error) {
		// An inbox that is full loses it, see roomLost.
		w.inbox.push(item{kind: itemRoom, region: request.RegionID, id: id, room: &roomAnswer{admission, err}})
	})
	if asked {
		m.asked = now
		w.counters.prechecks.Add(1)
	}
	return m.is(now)
}

// heardOfRoom takes what a peer's store has said, if it is still of interest.
func (w *worker) heardOfRoom(r *region, peer uint64, a *roomAnswer, now time.Time) {
	if a.err != nil {
		w.counters.prechecksRefused.Add(1)
		w.host.options.Logger.Debug("no room for a snapshot", "region_id", r.id, "peer_id", peer, "err", a.err)
	}
	if m := r.rooms[peer]; m != nil && !m.asked.IsZero() {
		m.heard(a, now)
	}
}

// admitted returns the messages without the snapshots that their receivers have no
// room for. Raft tries those again when it hears of the peer next. One that goes
// takes its room with it: should it break, there may be none any more.
func (r *region) admitted(messages []*raftpb.Message, now time.Time) []*raftpb.Message {
	kept := messages[:0]
	for _, m := range messages {
		if m.GetType() != raftpb.MsgSnap {
			kept = append(kept, m)
			continue
		}
		peer := r.descriptor.peer(m.GetTo())
		if peer == nil || !r.rooms[m.GetTo()].is(now) {
			r.wanted = true
			r.node.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
			continue
		}
		delete(r.rooms, m.GetTo())
		if r.forBalance(peer) && r.outgoing != nil && r.outgoing.message == m.GetSnapshot() {
			m.Snapshot = &raftpb.Snapshot{Metadata: m.GetSnapshot().GetMetadata(), Data: r.outgoing.balanceData}
		}
		kept = append(kept, m)
	}
	return kept
}

// snapshotDataOf is what goes with a snapshot's message besides Raft's own.
func snapshotDataOf(region uint64, size int64, forBalance bool) ([]byte, error) {
	data := &raft_serverpb.RaftSnapshotData{Region: &metapb.Region{Id: region}, FileSize: uint64(size)}
	if forBalance {
		data.Meta = &raft_serverpb.SnapshotMeta{ForBalance: true}
	}
	return data.Marshal()
}
