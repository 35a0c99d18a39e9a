package etcdraft

import (
	"errors"
	"fmt"
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

const (
	// maxCounter bounds terms and indexes. Raft adds to both, and one that wraps
	// around to 0 makes it panic, perhaps much later.
	maxCounter = math.MaxInt64
	// maxMembers bounds the ids of a snapshot's ConfState: for Raft, to restore one
	// costs the square of their number, and 3 ms at that.
	maxMembers = 128
	// maxConfChange bounds the bytes of a conf change, which take fifty times as
	// many once it is parsed.
	maxConfChange = 1 << 20
)

// CheckError is what a message was refused for. It wraps raftmux.ErrInvalid.
type CheckError struct {
	// Type, From and To are the message's.
	Type     raftpb.MessageType
	From, To uint64
	// Problem says what is wrong.
	Problem string

	regionID uint64 // 0 where only the message is known
}

// isNil is the Problem of a message that has no type and no peers to name.
const isNil = "the message is nil"

// Error implements error.
func (e *CheckError) Error() string {
	text := "etcdraft: "
	if e.regionID != 0 {
		text += fmt.Sprintf("region %d: ", e.regionID)
	}
	if e.Problem == isNil {
		return text + isNil
	}
	return text + fmt.Sprintf("%v from peer %d to peer %d: %s", e.Type, e.From, e.To, e.Problem)
}

// Unwrap returns raftmux.ErrInvalid.
func (e *CheckError) Unwrap() error { return raftmux.ErrInvalid }

func refuse(message *raftpb.Message, problem string) error {
	return &CheckError{Type: message.GetType(), From: message.GetFrom(), To: message.GetTo(), Problem: problem}
}

// ofRegion has a refusal name the region of its message.
func ofRegion(regionID uint64, err error) error {
	var refusal *CheckError
	if errors.As(err, &refusal) {
		refusal.regionID = regionID
	}
	return err
}

// Check refuses a message that must stay local or whose content alone can make
// RawNode.Step panic, at once or later. Sender.Send and the Receiver both call
// it; call it yourself for messages that came another way. What depends on the
// state of the node is refused by Guard.
//
// Refused are:
//   - nil, types that are local or unknown (negative ones too), responses and
//     votes inside the message, which only messages to local threads have;
//   - To or From that are 0 or a local thread, or equal, except that
//     MsgProp, MsgReadIndex and MsgTransferLeader may come back to their origin;
//   - a term in MsgProp and MsgReadIndex, and its absence in all others but
//     MsgTransferLeader; terms and indexes above MaxInt64;
//   - MsgProp and MsgReadIndex without entries, nil entries, more than 4,000,000
//     entries, proposed entries of an unknown type, conf changes that don't unmarshal,
//     that name an unknown type or transition, or of more than 1 MiB;
//   - MsgApp whose entries don't follow its index and term one by one, or are
//     newer than its term;
//   - MsgSnap without metadata, index, term or ConfState, newer than its term, or
//     with a ConfState that can't be restored or names peers more than 128 times;
//   - MsgHeartbeatResp with a context of 1 to 7 bytes, and MsgHeartbeat, which
//     is answered by one.
func Check(message *raftpb.Message) error {
	if message == nil {
		return refuse(nil, isNil)
	}
	kind := message.GetType()
	if !travels(kind) {
		return refuse(message, "is of a type that must stay local, or unknown")
	}
	if problem := checkEnds(message); problem != "" {
		return refuse(message, problem)
	}
	if len(message.Responses) != 0 || message.GetVote() != 0 {
		return refuse(message, "has responses or a vote, which must stay local")
	}
	if message.GetTerm() > maxCounter || message.GetLogTerm() > maxCounter || message.GetIndex() > maxCounter ||
		message.GetCommit() > maxCounter || message.GetRejectHint() > maxCounter {
		return refuse(message, "has a term or an index beyond reach")
	}
	if n := len(message.Entries); n > wire.MaxEntries {
		return refuse(message, fmt.Sprintf("has %d entries, the limit is %d", n, wire.MaxEntries))
	}
	for _, entry := range message.Entries {
		if entry == nil {
			return refuse(message, "has a nil entry")
		}
	}
	switch kind {
	case raftpb.MsgProp, raftpb.MsgReadIndex:
		if message.GetTerm() != 0 {
			return refuse(message, "has a term")
		}
	case raftpb.MsgTransferLeader:
	default:
		if message.GetTerm() == 0 {
			return refuse(message, "has no term")
		}
	}
	var problem string
	switch kind {
	case raftpb.MsgProp:
		problem = checkProposal(message)
	case raftpb.MsgReadIndex:
		if len(message.Entries) == 0 {
			problem = "has no entries"
		}
	case raftpb.MsgApp:
		problem = checkAppend(message)
	case raftpb.MsgSnap:
		problem = checkSnapshot(message)
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		if n := len(message.GetContext()); n > 0 && n < 8 {
			problem = "has a context of less than 8 bytes"
		}
	}
	if problem != "" {
		return refuse(message, problem)
	}
	return nil
}

// travels says whether messages of the type cross the network.
func travels(kind raftpb.MessageType) bool {
	switch kind {
	case raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader,
		raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote,
		raftpb.MsgPreVoteResp:
		return true
	}
	return false
}

// forwarded says whether followers pass messages of the type on to the leader,
// under the name of the peer that began.
func forwarded(kind raftpb.MessageType) bool {
	return kind == raftpb.MsgProp || kind == raftpb.MsgReadIndex || kind == raftpb.MsgTransferLeader
}

func checkEnds(message *raftpb.Message) (problem string) {
	from, to := message.GetFrom(), message.GetTo()
	switch {
	case from == raft.None || to == raft.None:
		return "lacks a peer id"
	case raft.IsLocalMsgTarget(from) || raft.IsLocalMsgTarget(to):
		return "is from or to a local thread"
	case from == to && !forwarded(message.GetType()):
		return "is from the peer that it is to"
	}
	return ""
}

// checkWithin is Check and checkHeader, of a message and the header that it is in.
func checkWithin(header *Header, message *raftpb.Message) error {
	err := Check(message)
	if err == nil {
		err = checkHeader(header, message)
	}
	if err == nil {
		return nil
	}
	return ofRegion(header.RegionID, err)
}

// checkHeader refuses a message that isn't what its header says. A message that
// is passed on comes from another peer than it names.
func checkHeader(header *Header, message *raftpb.Message) error {
	switch {
	case header.To.ID != message.GetTo():
		return refuse(message, fmt.Sprintf("is addressed to peer %d", header.To.ID))
	case header.From.ID != message.GetFrom() && !forwarded(message.GetType()):
		return refuse(message, fmt.Sprintf("is sent by peer %d", header.From.ID))
	case header.From.ID == raft.None:
		return refuse(message, "is sent by no peer")
	case header.From.ID == header.To.ID:
		return refuse(message, "is sent by the peer that it is addressed to")
	}
	return nil
}

func checkProposal(message *raftpb.Message) (problem string) {
	if len(message.Entries) == 0 {
		return "has no entries"
	}
	for _, entry := range message.Entries {
		if entry.GetType() != raftpb.EntryNormal && len(entry.GetData()) > maxConfChange {
			return "has a conf change of more than 1 MiB"
		}
		switch entry.GetType() {
		case raftpb.EntryNormal:
		case raftpb.EntryConfChange:
			var change raftpb.ConfChange
			if proto.Unmarshal(entry.GetData(), &change) != nil {
				return "has a conf change that doesn't unmarshal"
			}
			if !knownChange(change.GetType()) {
				return "has a conf change of an unknown type"
			}
		case raftpb.EntryConfChangeV2:
			var change raftpb.ConfChangeV2
			if proto.Unmarshal(entry.GetData(), &change) != nil {
				return "has a conf change that doesn't unmarshal"
			}
			if _, ok := raftpb.ConfChangeTransition_name[int32(change.GetTransition())]; !ok {
				return "has a conf change with an unknown transition"
			}
			for _, single := range change.GetChanges() {
				if !knownChange(single.GetType()) {
					return "has a conf change of an unknown type"
				}
			}
		default:
			return "has an entry of an unknown type"
		}
	}
	return ""
}

func knownChange(kind raftpb.ConfChangeType) bool {
	_, ok := raftpb.ConfChangeType_name[int32(kind)]
	return ok
}

func checkAppend(message *raftpb.Message) (problem string) {
	index, term := message.GetIndex(), message.GetLogTerm()
	if index > maxCounter-uint64(len(message.Entries)) {
		return "has a term or an index beyond reach"
	}
	for _, entry := range message.Entries {
		index++
		if entry.GetIndex() != index {
			return "has entries that don't follow each other"
		}
		if entry.GetTerm() < term || entry.GetTerm() == 0 {
			return "has entries whose terms go back"
		}
		term = entry.GetTerm()
	}
	if term > message.GetTerm() {
		return "has entries newer than its term"
	}
	return ""
}

func checkSnapshot(message *raftpb.Message) (problem string) {
	metadata := message.GetSnapshot().GetMetadata()
	state := metadata.GetConfState()
	if state == nil {
		return "has no snapshot, or one without metadata or ConfState"
	}
	switch {
	case metadata.GetIndex() == 0 || metadata.GetTerm() == 0:
		return "has a snapshot without an index or a term"
	case metadata.GetIndex() >= maxCounter:
		return "has a term or an index beyond reach"
	case metadata.GetTerm() > message.GetTerm():
		return "has a snapshot newer than its term"
	case len(state.Voters)+len(state.Learners)+len(state.VotersOutgoing)+len(state.LearnersNext) > maxMembers:
		return "has a snapshot with too many members"
	}
	return checkMembers(state)
}

// The lists of a ConfState that a peer may be in, as bits.
const (
	isVoter = 1 << iota
	isOutgoing
	isLearner
	isNext
)

// checkMembers refuses a ConfState that Raft can't restore, or that it would find to
// be another one than it says. Raft itself tells at the price of the square, and each
// message has it told, before anyone knows whose it is.
func checkMembers(state *raftpb.ConfState) (problem string) {
	const broken, contradicts = "has a snapshot whose ConfState can't be restored: ", "has a snapshot whose ConfState contradicts itself: "
	joint := len(state.VotersOutgoing) > 0
	switch {
	case len(state.Voters) == 0 && (joint || len(state.Learners) > 0 || len(state.LearnersNext) > 0):
		return broken + "it has no voters"
	case !joint && (state.GetAutoLeave() || len(state.LearnersNext) > 0):
		return broken + "it isn't joint, and says what follows"
	}
	lists := make(map[uint64]uint8, maxMembers)
	for _, list := range []struct {
		ids []uint64
		is  uint8
	}{{state.Voters, isVoter}, {state.VotersOutgoing, isOutgoing}, {state.Learners, isLearner}, {state.LearnersNext, isNext}} {
		for _, id := range list.ids {
			if id == raft.None || lists[id]&list.is != 0 {
				return contradicts + "a peer is twice in one list, or is 0"
			}
			lists[id] |= list.is
		}
	}
	for _, in := range lists {
		if in&isLearner != 0 && in != isLearner || in&isNext != 0 && in != isNext|isOutgoing {
			return contradicts + "a peer is a learner and a voter"
		}
	}
	return ""
}
