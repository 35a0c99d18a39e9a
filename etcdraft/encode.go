package etcdraft

import (
	"encoding/binary"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
)

// Tags of raft_serverpb.RaftMessage and what it holds: the field's number times
// eight, plus 0 for a varint and 2 for bytes.
const (
	tagRegionID  = 1 << 3
	tagFromPeer  = 2<<3 | 2
	tagToPeer    = 3<<3 | 2
	tagMessage   = 4<<3 | 2
	tagEpoch     = 5<<3 | 2
	tagPeerID    = 1 << 3
	tagPeerStore = 2 << 3
	tagConfVer   = 1 << 3
	tagVersion   = 2 << 3

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
// for the next: set measures, once, and AppendTo writes by what was measured.
type encoder struct {
	header  Header
	message *raftpb.Message

	size        int // all
	messageSize int // the message's body
	entrySizes  []int
	// The bodies of the snapshot and of what it holds.
	snapshotSize, metadataSize, stateSize int
}

func (e *encoder) set(header Header, message *raftpb.Message) {
	e.header, e.message = header, message
	e.messageSize = e.measure(message)
	e.size = sizeOfField(header.RegionID) +
		2 + sizeOfPair(header.From.ID, header.From.StoreID) +
		2 + sizeOfPair(header.To.ID, header.To.StoreID) +
		sizeOfBytes(e.messageSize) +
		2 + sizeOfPair(header.Epoch.ConfVer, header.Epoch.Version)
}

// clear lets go of the message.
func (e *encoder) clear() {
	e.message = nil
	if cap(e.entrySizes) > maxKeptSizes {
		e.entrySizes = nil
	}
}

func (e *encoder) measure(message *raftpb.Message) int {
	size := sizeOfField(uint64(message.GetType())) + sizeOfField(message.GetTo()) + sizeOfField(message.GetFrom()) +
		sizeOfField(message.GetTerm()) + sizeOfField(message.GetLogTerm()) + sizeOfField(message.GetIndex()) +
		sizeOfField(message.GetCommit()) + sizeOfField(message.GetRejectHint())
	e.entrySizes = e.entrySizes[:0]
	for _, entry := range message.Entries {
		n := sizeOfField(uint64(entry.GetType())) + sizeOfField(entry.GetTerm()) + sizeOfField(entry.GetIndex()) +
			sizeOfOptional(len(entry.GetData()))
		e.entrySizes = append(e.entrySizes, n)
		size += sizeOfBytes(n)
	}
	if message.Snapshot != nil {
		e.snapshotSize = e.measureSnapshot(message.Snapshot)
		size += sizeOfBytes(e.snapshotSize)
	}
	if message.GetReject() {
		size += 2
	}
	return size + sizeOfOptional(len(message.GetContext()))
}

func (e *encoder) measureSnapshot(snapshot *raftpb.Snapshot) int {
	size := sizeOfOptional(len(snapshot.GetData()))
	metadata := snapshot.GetMetadata()
	if metadata == nil {
		return size
	}
	e.metadataSize = sizeOfField(metadata.GetIndex()) + sizeOfField(metadata.GetTerm())
	if state := metadata.GetConfState(); state != nil {
		e.stateSize = sizeOfOptional(sizeOfPacked(state.Voters)) + sizeOfOptional(sizeOfPacked(state.Learners)) +
			sizeOfOptional(sizeOfPacked(state.VotersOutgoing)) + sizeOfOptional(sizeOfPacked(state.LearnersNext))
		if state.GetAutoLeave() {
			e.stateSize += 2
		}
		e.metadataSize += sizeOfBytes(e.stateSize)
	}
	return size + sizeOfBytes(e.metadataSize)
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

// AppendReferring implements raftmux.PayloadEncoder.
func (e *encoder) AppendReferring(b []byte, payloads *raftmux.Payloads) []byte {
	h, m := &e.header, e.message
	b = appendField(b, tagRegionID, h.RegionID)
	b = appendPair(b, tagFromPeer, h.From.ID, h.From.StoreID)
	b = appendPair(b, tagToPeer, h.To.ID, h.To.StoreID)

	b = append(b, tagMessage)
	b = binary.AppendUvarint(b, uint64(e.messageSize))
	b = appendField(b, tagType, uint64(m.GetType()))
	b = appendField(b, tagTo, m.GetTo())
	b = appendField(b, tagFrom, m.GetFrom())
	b = appendField(b, tagTerm, m.GetTerm())
	b = appendField(b, tagLogTerm, m.GetLogTerm())
	b = appendField(b, tagIndex, m.GetIndex())
	for i, entry := range m.Entries {
		b = append(b, tagEntry)
		b = binary.AppendUvarint(b, uint64(e.entrySizes[i]))
		b = appendField(b, tagEntryType, uint64(entry.GetType()))
		b = appendField(b, tagEntryTerm, entry.GetTerm())
		b = appendField(b, tagEntryIndex, entry.GetIndex())
		if data := entry.GetData(); len(data) > 0 {
			b = binary.AppendUvarint(append(b, tagEntryData), uint64(len(data)))
			b = payloads.Append(b, data)
		}
	}
	b = appendField(b, tagCommit, m.GetCommit())
	if m.Snapshot != nil {
		b = e.appendSnapshot(b, m.Snapshot)
	}
	if m.GetReject() {
		b = append(b, tagReject, 1)
	}
	b = appendField(b, tagRejectHint, m.GetRejectHint())
	b = appendBytes(b, tagContext, m.GetContext())

	return appendPair(b, tagEpoch, h.Epoch.ConfVer, h.Epoch.Version)
}

func (e *encoder) appendSnapshot(b []byte, snapshot *raftpb.Snapshot) []byte {
	b = append(b, tagSnapshot)
	b = binary.AppendUvarint(b, uint64(e.snapshotSize))
	b = appendBytes(b, tagSnapshotData, snapshot.GetData())
	metadata := snapshot.GetMetadata()
	if metadata == nil {
		return b
	}
	b = append(b, tagSnapshotMetadata)
	b = binary.AppendUvarint(b, uint64(e.metadataSize))
	if state := metadata.GetConfState(); state != nil {
		b = append(b, tagMetadataState)
		b = binary.AppendUvarint(b, uint64(e.stateSize))
		b = appendPacked(b, tagVoters, state.Voters)
		b = appendPacked(b, tagLearners, state.Learners)
		b = appendPacked(b, tagVotersOutgoing, state.VotersOutgoing)
		b = appendPacked(b, tagLearnersNext, state.LearnersNext)
		if state.GetAutoLeave() {
			b = append(b, tagAutoLeave, 1)
		}
	}
	b = appendField(b, tagMetadataIndex, metadata.GetIndex())
	return appendField(b, tagMetadataTerm, metadata.GetTerm())
}

// sizeOfVarint is the number of bytes of a varint.
func sizeOfVarint(value uint64) int { return (bits.Len64(value|1) + 6) / 7 }

// sizeOfField is the size of a scalar with its tag, which is left out for 0.
func sizeOfField(value uint64) int {
	if value == 0 {
		return 0
	}
	return 1 + sizeOfVarint(value)
}

// sizeOfBytes is the size of n bytes with their tag and length.
func sizeOfBytes(n int) int { return 1 + sizeOfVarint(uint64(n)) + n }

// sizeOfOptional is sizeOfBytes where no bytes are left out.
func sizeOfOptional(n int) int {
	if n == 0 {
		return 0
	}
	return sizeOfBytes(n)
}

// sizeOfPair is the size of a message of two scalars, fields 1 and 2: at most 22
// bytes, so its length always takes one byte.
func sizeOfPair(first, second uint64) int { return sizeOfField(first) + sizeOfField(second) }

func sizeOfPacked(values []uint64) int {
	size := 0
	for _, value := range values {
		size += sizeOfVarint(value)
	}
	return size
}

func appendField(b []byte, tag byte, value uint64) []byte {
	if value == 0 {
		return b
	}
	if value < 0x80 {
		return append(b, tag, byte(value))
	}
	return binary.AppendUvarint(append(b, tag), value)
}

func appendBytes(b []byte, tag byte, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag), uint64(len(value)))
	return append(b, value...)
}

func appendPair(b []byte, tag byte, first, second uint64) []byte {
	b = append(b, tag, byte(sizeOfPair(first, second)))
	b = appendField(b, tagPeerID, first)
	return appendField(b, tagPeerStore, second)
}

func appendPacked(b []byte, tag byte, values []uint64) []byte {
	size := sizeOfPacked(values)
	if size == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, tag), uint64(size))
	for _, value := range values {
		b = binary.AppendUvarint(b, value)
	}
	return b
}
