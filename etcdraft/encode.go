package etcdraft

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

// Tags of raft_serverpb.RaftMessage and what it holds: the field's number times
// eight, plus 0 for a varint and 2 for bytes.
const (
	tagRegionID = 1 << 3
	tagFromPeer = 2<<3 | 2
	tagToPeer   = 3<<3 | 2
	tagMessage  = 4<<3 | 2
	tagEpoch    = 5<<3 | 2

	// What a peer and an epoch hold: two scalars each.
	tagFirst  = 1 << 3
	tagSecond = 2 << 3

	// eraftpb.Message; raftpb.Message has the same up to 12.
	tagType       = 1 << 3
	tagTo         = 2 << 3
	tagFrom       = 3 << 3
	tagTerm       = 4 << 3
	tagLogTerm    = 5 << 3
	tagIndex      = 6 << 3
	tagEntry      = 7<<3 | 2
	tagCommit     = 8 << 3
	tagSnapshot   = 9<<3 | 2
	tagReject     = 10 << 3
	tagRejectHint = 11 << 3
	tagContext    = 12<<3 | 2

	tagEntryType  = 1 << 3
	tagEntryTerm  = 2 << 3
	tagEntryIndex = 3 << 3
	tagEntryData  = 4<<3 | 2

	tagSnapshotData     = 1<<3 | 2
	tagSnapshotMetadata = 2<<3 | 2
	tagMetadataState    = 1<<3 | 2
	tagMetadataIndex    = 2 << 3
	tagMetadataTerm     = 3 << 3

	tagVoters         = 1<<3 | 2
	tagLearners       = 2<<3 | 2
	tagVotersOutgoing = 3<<3 | 2
	tagLearnersNext   = 4<<3 | 2
	tagAutoLeave      = 5 << 3
)

var _ raftmux.PayloadEncoder = (*encoder)(nil)

// maxKeptSizes bounds the memory that an encoder keeps for the sizes of entries.
const maxKeptSizes = 4096

// encoder writes one message as a raft_serverpb.RaftMessage. It is used again
// for the next: set measures, once, and AppendTo writes by what was measured. If the
// message has changed since, it may panic, or write another size.
type encoder struct {
	header  Header
	message *raftpb.Message

	size        int // all
	payloads    int // of that, the entries' data
	messageSize int // the message's body
	entrySizes  []int
	// The bodies of the snapshot and of what it holds.
	snapshotSize, metadataSize, stateSize int
}

func (e *encoder) set(header Header, message *raftpb.Message) {
	e.header, e.message = header, message
	e.messageSize = e.measure(message)
	e.size = wire.NumberSize(header.RegionID) +
		wire.PairSize(header.From.ID, header.From.StoreID) +
		wire.PairSize(header.To.ID, header.To.StoreID) +
		wire.DelimitedSize(e.messageSize) +
		wire.PairSize(header.Epoch.ConfVer, header.Epoch.Version)
}

// clear lets go of the message.
func (e *encoder) clear() {
	e.message = nil
	if cap(e.entrySizes) > maxKeptSizes {
		e.entrySizes = nil
	}
}

func (e *encoder) measure(message *raftpb.Message) int {
	size := wire.NumberSize(uint64(message.GetType())) + wire.NumberSize(message.GetTo()) +
		wire.NumberSize(message.GetFrom()) + wire.NumberSize(message.GetTerm()) +
		wire.NumberSize(message.GetLogTerm()) + wire.NumberSize(message.GetIndex()) +
		wire.NumberSize(message.GetCommit()) + wire.FlagSize(message.GetReject()) +
		wire.NumberSize(message.GetRejectHint()) + wire.BytesSize(len(message.GetContext()))
	e.entrySizes, e.payloads = e.entrySizes[:0], 0
	for _, entry := range message.Entries {
		payload := len(entry.GetData())
		n := wire.NumberSize(uint64(entry.GetType())) + wire.NumberSize(entry.GetTerm()) +
			wire.NumberSize(entry.GetIndex()) + wire.BytesSize(payload)
		e.entrySizes = append(e.entrySizes, n)
		e.payloads += payload
		size += wire.DelimitedSize(n)
	}
	if message.Snapshot != nil {
		e.snapshotSize = e.measureSnapshot(message.Snapshot)
		size += wire.DelimitedSize(e.snapshotSize)
	}
	return size
}

func (e *encoder) measureSnapshot(snapshot *raftpb.Snapshot) int {
	size := wire.BytesSize(len(snapshot.GetData()))
	metadata := snapshot.GetMetadata()
	if metadata == nil {
		return size
	}
	e.metadataSize = wire.NumberSize(metadata.GetIndex()) + wire.NumberSize(metadata.GetTerm())
	if state := metadata.GetConfState(); state != nil {
		e.stateSize = wire.BytesSize(sizeOfPacked(state.Voters)) + wire.BytesSize(sizeOfPacked(state.Learners)) +
			wire.BytesSize(sizeOfPacked(state.VotersOutgoing)) + wire.BytesSize(sizeOfPacked(state.LearnersNext)) +
			wire.FlagSize(state.GetAutoLeave())
		e.metadataSize += wire.DelimitedSize(e.stateSize)
	}
	return size + wire.DelimitedSize(e.metadataSize)
}

// Size implements raftmux.Encoder.
func (e *encoder) Size() int { return e.size }

// PayloadBytes implements raftmux.PayloadEncoder.
func (e *encoder) PayloadBytes(atLeast int) (bytes int) {
	for _, entry := range e.message.Entries {
		if n := len(entry.GetData()); n >= atLeast {
			bytes += n
		}
	}
	return bytes
}

// AppendTo implements raftmux.Encoder.
func (e *encoder) AppendTo(b []byte) []byte { return e.AppendReferring(b, nil) }

// AppendReferring implements raftmux.PayloadEncoder. b always ends with room, from i
// on, for all that is still to come but the entries' data, which payloads may copy
// or not.
func (e *encoder) AppendReferring(b []byte, payloads *raftmux.Payloads) []byte {
	h, m := &e.header, e.message
	b, i := extend(b, e.size-e.payloads), len(b)
	i = wire.PutNumber(b, i, tagRegionID, h.RegionID)
	i = wire.PutPair(b, i, tagFromPeer, h.From.ID, h.From.StoreID)
	i = wire.PutPair(b, i, tagToPeer, h.To.ID, h.To.StoreID)

	b[i] = tagMessage
	i = wire.PutVarint(b, i+1, uint64(e.messageSize))
	i = wire.PutNumber(b, i, tagType, uint64(m.GetType()))
	i = wire.PutNumber(b, i, tagTo, m.GetTo())
	i = wire.PutNumber(b, i, tagFrom, m.GetFrom())
	i = wire.PutNumber(b, i, tagTerm, m.GetTerm())
	i = wire.PutNumber(b, i, tagLogTerm, m.GetLogTerm())
	i = wire.PutNumber(b, i, tagIndex, m.GetIndex())
	for k, entry := range m.Entries {
		b[i] = tagEntry
		i = wire.PutVarint(b, i+1, uint64(e.entrySizes[k]))
		i = wire.PutNumber(b, i, tagEntryType, uint64(entry.GetType()))
		i = wire.PutNumber(b, i, tagEntryTerm, entry.GetTerm())
		i = wire.PutNumber(b, i, tagEntryIndex, entry.GetIndex())
		if data := entry.GetData(); len(data) > 0 {
			b[i] = tagEntryData
			i = wire.PutVarint(b, i+1, uint64(len(data)))
			left := len(b) - i
			b = payloads.Append(b[:i], data)
			b, i = extend(b, left), len(b)
		}
	}
	i = wire.PutNumber(b, i, tagCommit, m.GetCommit())
	if m.Snapshot != nil {
		i = e.putSnapshot(b, i, m.Snapshot)
	}
	i = wire.PutFlag(b, i, tagReject, m.GetReject())
	i = wire.PutNumber(b, i, tagRejectHint, m.GetRejectHint())
	i = wire.PutBytes(b, i, tagContext, m.GetContext())

	return b[:wire.PutPair(b, i, tagEpoch, h.Epoch.ConfVer, h.Epoch.Version)]
}

func (e *encoder) putSnapshot(b []byte, i int, snapshot *raftpb.Snapshot) int {
	b[i] = tagSnapshot
	i = wire.PutVarint(b, i+1, uint64(e.snapshotSize))
	i = wire.PutBytes(b, i, tagSnapshotData, snapshot.GetData())
	metadata := snapshot.GetMetadata()
	if metadata == nil {
		return i
	}
	b[i] = tagSnapshotMetadata
	i = wire.PutVarint(b, i+1, uint64(e.metadataSize))
	if state := metadata.GetConfState(); state != nil {
		b[i] = tagMetadataState
		i = wire.PutVarint(b, i+1, uint64(e.stateSize))
		i = putPacked(b, i, tagVoters, state.Voters)
		i = putPacked(b, i, tagLearners, state.Learners)
		i = putPacked(b, i, tagVotersOutgoing, state.VotersOutgoing)
		i = putPacked(b, i, tagLearnersNext, state.LearnersNext)
		i = wire.PutFlag(b, i, tagAutoLeave, state.GetAutoLeave())
	}
	i = wire.PutNumber(b, i, tagMetadataIndex, metadata.GetIndex())
	return wire.PutNumber(b, i, tagMetadataTerm, metadata.GetTerm())
}

// extend makes b longer.
func extend(b []byte, by int) []byte { return slices.Grow(b, by)[:len(b)+by] }

func sizeOfPacked(values []uint64) int {
	size := 0
	for _, value := range values {
		size += wire.VarintSize(value)
	}
	return size
}

func putPacked(b []byte, i int, tag byte, values []uint64) int {
	size := sizeOfPacked(values)
	if size == 0 {
		return i
	}
	b[i] = tag
	i = wire.PutVarint(b, i+1, uint64(size))
	for _, value := range values {
		i = wire.PutVarint(b, i, value)
	}
	return i
}
