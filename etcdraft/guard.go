package etcdraft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// ErrReadyFirst is what Guard.Check returns for a message of which it can't tell
// before it has observed the node's next Ready, because the log may have been cut
// off since the last. Handle the Ready and ask again, or drop the message: there
// is nothing wrong with it.
var ErrReadyFirst = errors.New("etcdraft: handle Ready before this message")

// CheckAgainst refuses a message that makes RawNode.Step panic because of the
// node's log: a MsgHeartbeat that commits past it, and a MsgAppResp that
// acknowledges past it (for which the leader would need a snapshot of the
// future). lastIndex is the last index of the node's log as of its last Ready:
// that of Ready.Entries, or of Ready.Snapshot, or else unchanged. The storage's
// LastIndex is the same once it has what the Ready held.
//
// No correct peer sends such a message in the node's term. If one comes, then a
// disk was lost: this peer's, which must not take part under its old id again, or
// the sender's. But one of an older term may just be late; Step ignores it, and to
// refuse it does no harm.
//
// Guard keeps lastIndex, knows the term, and refuses what needs more than that.
func CheckAgainst(message *raftpb.Message, lastIndex uint64) error {
	switch message.GetType() {
	case raftpb.MsgHeartbeat:
		if message.GetCommit() > lastIndex {
			return refuse(message, fmt.Sprintf("commits %d, past the end of the log at %d", message.GetCommit(), lastIndex))
		}
	case raftpb.MsgAppResp:
		if !message.GetReject() && message.GetIndex() > lastIndex {
			return refuse(message, fmt.Sprintf("acknowledges %d, past the end of the log at %d", message.GetIndex(), lastIndex))
		}
	}
	return nil
}

// Status tells what a node is doing. A *raft.RawNode does.
type Status interface {
	BasicStatus() raft.BasicStatus
	HasReady() bool
}

// Guard stands before one RawNode and refuses what Check can't, since it depends
// on the node's state. A message that passes Check and then Guard does not make
// Step panic, whoever sent it, provided that the node's Storage does its part: it
// answers, and it has a snapshot for what it has compacted.
//
//	guard := etcdraft.NewGuard(peerID, lastIndex)
//	...
//	if guard.Check(node, message) == nil {
//		err = node.Step(message)
//	}
//	...
//	ready := node.Ready()
//	guard.Observe(ready)
//
// Like the node, it is not for concurrent use. It takes six words.
type Guard struct {
	id uint64
	// last is the end of the log as of the last Ready, and floor the least that
	// it can be since.
	last, floor uint64
	// reads is the greatest context of the heartbeats that were sent in
	// readsTerm, which numbers the reads that wait for them.
	reads, readsTerm uint64
	// appended says whether an append came since the last heartbeat.
	appended bool
}

// NewGuard returns a Guard for the node of a peer whose log ends at lastIndex.
func NewGuard(peerID, lastIndex uint64) Guard {
	return Guard{id: peerID, last: lastIndex, floor: lastIndex}
}

// Observe takes note of a Ready. It must see each, before it sees the messages
// that came in answer to it.
func (g *Guard) Observe(ready raft.Ready) {
	if !raft.IsEmptySnap(ready.Snapshot) {
		g.last = ready.Snapshot.GetMetadata().GetIndex()
	}
	if n := len(ready.Entries); n > 0 {
		g.last = ready.Entries[n-1].GetIndex()
	}
	g.floor = g.last
	for _, message := range ready.Messages {
		context := message.GetContext()
		if message.GetType() != raftpb.MsgHeartbeat || len(context) < 8 {
			continue
		}
		if message.GetTerm() != g.readsTerm {
			g.reads, g.readsTerm = 0, message.GetTerm()
		}
		g.reads = max(g.reads, binary.LittleEndian.Uint64(context))
	}
}

// Check refuses a message that has passed the function Check and would make the
// node's Step panic all the same. These are, besides those of CheckAgainst:
//   - one that is to another peer, which may be from this one;
//   - MsgTransferLeader of the node's term, if it follows another leader in it;
//   - MsgHeartbeatResp that confirms reads which were not asked for;
//   - MsgPreVote to a node that has a log and no term. A host that begins a group
//     with a log or a snapshot must give it a HardState with a term as well:
//     without one, all pre-votes are refused and nobody is ever elected.
//
// The error is a *CheckError or ErrReadyFirst. Call Check right before Step: it
// assumes that what it passes is stepped.
//
// Check also takes out of a heartbeat what it newly commits, if an append came
// since the last one. Heartbeats travel in a lane of their own and may overtake
// appends; one that so commits past an append that is on its way makes Raft
// discard that append, and the leader probe again, for as long as appends are
// slow. Nothing is lost: appends say what is committed, too, and so does the
// first heartbeat after the last of them.
func (g *Guard) Check(node Status, message *raftpb.Message) error {
	if message.GetTo() != g.id {
		return refuse(message, fmt.Sprintf("is not to peer %d", g.id))
	}
	if err := g.checkLog(node, message); err != nil {
		return err
	}
	switch message.GetType() {
	case raftpb.MsgHeartbeat:
		if g.appended {
			message.Commit = proto.Uint64(min(message.GetCommit(), node.BasicStatus().GetCommit()))
		}
		g.appended = false
	case raftpb.MsgApp:
		g.appended = true
		// It may cut the log off, though not below its own end.
		if n := uint64(len(message.Entries)); n > 0 {
			g.floor = min(g.floor, message.GetIndex()+n)
		}
	case raftpb.MsgSnap:
		g.floor = min(g.floor, message.GetSnapshot().GetMetadata().GetIndex())
	case raftpb.MsgHeartbeatResp:
		context := message.GetContext()
		if len(context) < 8 {
			break
		}
		read := binary.LittleEndian.Uint64(context)
		if message.GetTerm() < g.readsTerm || message.GetTerm() == g.readsTerm && read <= g.reads {
			break
		}
		// Only the leader of its term heeds it. To others it may be an answer to what
		// this peer asked before it came back.
		status := node.BasicStatus()
		if status.RaftState == raft.StateLeader && message.GetTerm() == status.GetTerm() {
			return refuse(message, "confirms reads that were not asked for")
		}
	case raftpb.MsgTransferLeader:
		if message.GetTerm() == 0 {
			break
		}
		status := node.BasicStatus()
		if status.RaftState == raft.StateFollower && status.Lead != raft.None &&
			message.GetTerm() == status.GetTerm() {
			return refuse(message, "asks a peer that follows another in this term")
		}
	case raftpb.MsgPreVote:
		if g.last > 0 && node.BasicStatus().GetTerm() == 0 {
			return refuse(message, "asks a peer that has a log and no term, which its Storage's HardState is to give it")
		}
	}
	return nil
}

// checkLog is CheckAgainst, except for what Step ignores, and with an eye on what
// may have happened to the log since the last Ready.
func (g *Guard) checkLog(node Status, message *raftpb.Message) error {
	if CheckAgainst(message, g.floor) == nil {
		return nil
	}
	status := node.BasicStatus()
	if message.GetTerm() < status.GetTerm() {
		return nil // It may be late rather than wrong.
	}
	if message.GetType() == raftpb.MsgAppResp &&
		(message.GetTerm() != status.GetTerm() || status.RaftState != raft.StateLeader) {
		return nil // Only the leader of its term heeds it.
	}
	if err := CheckAgainst(message, g.last); err != nil {
		return err
	}
	if node.HasReady() {
		return ErrReadyFirst
	}
	// What might have changed the log didn't.
	g.floor = g.last
	return nil
}
