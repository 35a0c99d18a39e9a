package raftmux

import (
	"encoding/binary"
	"errors"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/wire"
)

// kvEncoder encodes kvproto's own messages. A Sender uses one over and over.
type kvEncoder struct {
	message *raft_serverpb.RaftMessage
	size    int
	usual   wire.MessageEncoder
	isUsual bool // the message is of the kind that usual takes, and measured
	parts   kvParts
}

// Size implements Encoder.
func (e *kvEncoder) Size() int {
	if e.size, e.isUsual = e.usual.Measure(e.message); !e.isUsual {
		e.size = e.message.Size()
	}
	return e.size
}

// AppendTo implements Encoder.
func (e *kvEncoder) AppendTo(buffer []byte) []byte {
	if e.isUsual {
		return e.usual.AppendTo(buffer)
	}
	end := len(buffer) + e.size
	if cap(buffer) < end {
		return buffer
	}
	if n, err := marshal(buffer[len(buffer):end], e.message); err != nil || n != e.size {
		return buffer
	}
	return buffer[:end]
}

// PayloadBytes implements PayloadEncoder.
func (e *kvEncoder) PayloadBytes(atLeast int) (bytes int) {
	for _, entry := range e.message.GetMessage().GetEntries() {
		if n := len(entry.Data); n >= atLeast {
			bytes += n
		}
	}
	return bytes
}

// AppendReferring implements PayloadEncoder. The generated code writes back to
// front and can't leave anything out, so it is given shallow copies without what
// holds the payloads, and the rest is written here. Fields may come in any order.
func (e *kvEncoder) AppendReferring(buffer []byte, payloads *Payloads) []byte {
	parts := &e.parts
	parts.outer, parts.raft = *e.message, *e.message.Message
	parts.outer.Message, parts.raft.Entries = nil, nil
	buffer = appendMarshalled(buffer, &parts.outer)
	buffer = append(buffer, tagMessage)
	buffer = binary.AppendUvarint(buffer, uint64(e.message.Message.Size()))
	buffer = appendMarshalled(buffer, &parts.raft)
	for _, entry := range e.message.Message.Entries {
		buffer = append(buffer, tagEntry)
		buffer = binary.AppendUvarint(buffer, uint64(entry.Size()))
		parts.entry = *entry
		parts.entry.Data = nil
		buffer = appendMarshalled(buffer, &parts.entry)
		if len(entry.Data) > 0 {
			buffer = append(buffer, tagEntryData)
			buffer = binary.AppendUvarint(buffer, uint64(len(entry.Data)))
			buffer = payloads.Append(buffer, entry.Data)
		}
	}
	*parts = kvParts{} // keeps nothing of the caller's
	return buffer
}

// kvParts are shallow copies of what AppendReferring encodes.
type kvParts struct {
	outer raft_serverpb.RaftMessage
	raft  eraftpb.Message
	entry eraftpb.Entry
}

// Tags of length-delimited fields: the field's number times eight, plus 2.
const (
	tagMessage   = 4<<3 | 2 // RaftMessage.message
	tagEntry     = 7<<3 | 2 // eraftpb.Message.entries
	tagEntryData = 4<<3 | 2 // eraftpb.Entry.data
)

// appendMarshalled appends what the generated code makes of a message. If that
// fails the message lacks those bytes, which Push notices.
func appendMarshalled(buffer []byte, message generated) []byte {
	end := len(buffer) + message.Size()
	if cap(buffer) < end {
		return buffer
	}
	if _, err := marshal(buffer[len(buffer):end], message); err != nil {
		return buffer
	}
	return buffer[:end]
}

// generated is a message of kvproto's.
type generated interface {
	Size() int
	MarshalToSizedBuffer(b []byte) (int, error)
}

var errNilElement = errors.New("raftmux: a list in the message has a nil element")

// marshal runs the generated code, which panics at a nil element of a list,
// wherever in the message that is.
func marshal(buffer []byte, message generated) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = errNilElement
		}
	}()
	return message.MarshalToSizedBuffer(buffer)
}

func (e *kvEncoder) reset() {
	e.message = nil
	e.usual.Reset()
}

// envelopeOf reads a message's envelope. It takes a nil message, which is invalid.
func envelopeOf(message *raft_serverpb.RaftMessage) Envelope {
	var envelope Envelope
	envelope.read(message)
	return envelope
}

// read is envelopeOf, for an envelope that stays where it is.
func (e *Envelope) read(message *raft_serverpb.RaftMessage) {
	body, to := message.GetMessage(), message.GetToPeer()
	e.RegionID = message.GetRegionId()
	e.FromStoreID = message.GetFromPeer().GetStoreId()
	e.ToStoreID, e.ToPeerID = to.GetStoreId(), to.GetId()
	e.Type, e.HasMessage = body.GetMsgType(), body != nil
	e.Bodiless = message.GetExtraMsg() != nil || message.GetIsTombstone() || message.GetMergeTarget() != nil
	e.Witness = e.Type == eraftpb.MessageType_MsgSnapshot && wire.ForWitness(e.RegionID, body.GetSnapshot().GetData())
}

// transfers says whether a message is the SnapshotSender's to carry.
func transfers(envelope *Envelope) bool {
	return envelope.HasMessage && envelope.Type == eraftpb.MessageType_MsgSnapshot && !envelope.Witness
}

// invalid says what is wrong with a message, "" if nothing is.
func (c *Client) invalid(envelope *Envelope) string {
	switch {
	case envelope.ToPeerID == 0:
		return "it has no to_peer"
	case envelope.ToStoreID == 0:
		return "its to_peer is on store 0"
	case envelope.ToStoreID == c.options.StoreID:
		return "its to_peer is on this store"
	case !envelope.HasMessage && !envelope.Bodiless:
		return "it has neither a Raft message nor extra_msg, is_tombstone or merge_target"
	case envelope.HasMessage && isLocal(envelope.Type):
		return envelope.Type.String() + " must stay local, or is unknown"
	}
	return ""
}

// isLocal says whether messages of a type are a store's own affair.
func isLocal(t eraftpb.MessageType) bool {
	switch t {
	case eraftpb.MessageType_MsgHup,
		eraftpb.MessageType_MsgBeat,
		eraftpb.MessageType_MsgUnreachable,
		eraftpb.MessageType_MsgSnapStatus,
		eraftpb.MessageType_MsgCheckQuorum:
		return true
	}
	// etcd's raft numbers its own local types from 19 on; kvproto has none there.
	return t < 0 || t > eraftpb.MessageType_MsgRequestPreVoteResponse
}

// laneOf says which lane carries a message. What is in the control lane may
// overtake what is in the data lane, which etcd's raft and TiKV's take well:
//
//   - A heartbeat commits no more than what its receiver has acknowledged, so it
//     never speaks of entries that are still on their way. But a commit that
//     overtakes an append which begins before it makes the receiver discard that
//     append: while a leader probes, over a data lane with a round trip of several
//     heartbeats, five times the payload may be sent again for as long as that
//     lasts. Hosts avoid it by etcdraft.Guard, which holds such commits back.
//   - A heartbeat's response that overtakes an append's makes a leader that
//     probes send its probe once more, at most one per heartbeat. To keep the
//     responses with the data gains nothing: what is dear is the heartbeat's
//     commit (BenchmarkHeartbeatResponsesPassAppends in internal/loop).
//   - A vote or a pre-vote speaks of the sender's log as it is. One that overtakes
//     an append ends a term in which that append no longer counts.
//
// MsgTimeoutNow stays with the data: it is sent when the receiver has all of the
// log, and should find it so. What has no Raft message in it is data, too.
func laneOf(envelope *Envelope) peer.Lane {
	if !envelope.HasMessage {
		return peer.Data
	}
	switch envelope.Type {
	case eraftpb.MessageType_MsgHeartbeat, eraftpb.MessageType_MsgHeartbeatResponse:
		return peer.Control
	}
	if isVote(envelope) {
		return peer.Control
	}
	return peer.Data
}

// isVote says whether a message is about an election.
func isVote(envelope *Envelope) bool {
	if !envelope.HasMessage {
		return false
	}
	switch envelope.Type {
	case eraftpb.MessageType_MsgRequestVote,
		eraftpb.MessageType_MsgRequestVoteResponse,
		eraftpb.MessageType_MsgRequestPreVote,
		eraftpb.MessageType_MsgRequestPreVoteResponse:
		return true
	}
	return false
}

// isVolatile says whether a message is worthless, or harmful, once the stream
// for which it waited has broken: a vote or a heartbeat speaks of a moment, and
// an order to campaign or to hand over leadership must not come late.
func isVolatile(envelope *Envelope) bool {
	if !envelope.HasMessage {
		return false
	}
	switch envelope.Type {
	case eraftpb.MessageType_MsgTimeoutNow, eraftpb.MessageType_MsgTransferLeader:
		return true
	}
	return laneOf(envelope) == peer.Control
}

// ReportRefused tells a host of a message that Send refused, as a dropped one
// would be: its peer is unreachable, and a snapshot has failed. It calls the
// router on the caller's goroutine, and returns false if the router said "not
// now" to any of it.
func ReportRefused(router Router, message *raft_serverpb.RaftMessage) bool {
	envelope := envelopeOf(message)
	taken := router.ReportUnreachable(envelope.RegionID, envelope.ToPeerID)
	if envelope.HasMessage && envelope.Type == eraftpb.MessageType_MsgSnapshot {
		taken = router.ReportSnapshotStatus(envelope.RegionID, envelope.ToPeerID, SnapshotFailure) && taken
	}
	return taken
}
