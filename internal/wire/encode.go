package wire

import (
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// MessageEncoder writes RaftMessages of the kinds that a store sends all day, byte
// for byte as the generated code does, in less time: each part is measured once,
// and written front to back. It isn't for concurrent use.
type MessageEncoder struct {
	message *raft_serverpb.RaftMessage
	size    int
	raft    int   // size of the Raft message
	entries []int // sizes of its entries
}

// maxKeptEntries bounds the memory that a MessageEncoder keeps.
const maxKeptEntries = 4096

// Measure returns the exact size of the encoded message, which AppendTo writes
// next, or false if it is one for the generated code: with a snapshot, unknown
// fields, or anything else that is rare. The message must stay as it is until
// then.
func (e *MessageEncoder) Measure(m *raft_serverpb.RaftMessage) (size int, ok bool) {
	if m.IsTombstone || m.StartKey != nil || m.EndKey != nil || m.MergeTarget != nil ||
		m.ExtraMsg != nil || m.ExtraCtx != nil || m.DiskUsage != 0 || m.XXX_unrecognized != nil ||
		m.Message == nil || !plainPeer(m.FromPeer) || !plainPeer(m.ToPeer) ||
		m.RegionEpoch == nil || m.RegionEpoch.XXX_unrecognized != nil {
		return 0, false
	}
	if !e.measureRaft(m.Message) {
		return 0, false
	}
	e.message = m
	e.size = numberSize(m.RegionId) +
		2 + numberSize(m.FromPeer.Id) + numberSize(m.FromPeer.StoreId) +
		2 + numberSize(m.ToPeer.Id) + numberSize(m.ToPeer.StoreId) +
		delimitedSize(e.raft) +
		2 + numberSize(m.RegionEpoch.ConfVer) + numberSize(m.RegionEpoch.Version)
	return e.size, true
}

// plainPeer says whether a peer has an id and a store and nothing else. Its body
// then has at most 22 bytes.
func plainPeer(p *metapb.Peer) bool {
	return p != nil && p.Role == 0 && !p.IsWitness && p.XXX_unrecognized == nil
}

func (e *MessageEncoder) measureRaft(m *eraftpb.Message) bool {
	if m.Snapshot != nil || m.RequestSnapshot != 0 || m.DeprecatedPriority != 0 || m.Priority != 0 ||
		m.MsgType < 0 || m.XXX_unrecognized != nil {
		return false
	}
	e.raft = numberSize(uint64(m.MsgType)) + numberSize(m.To) + numberSize(m.From) + numberSize(m.Term) +
		numberSize(m.LogTerm) + numberSize(m.Index) + numberSize(m.Commit) +
		flagSize(m.Reject) + numberSize(m.RejectHint) + bytesSize(len(m.Context))
	e.entries = e.entries[:0]
	for _, entry := range m.Entries {
		if entry == nil || entry.SyncLog || entry.EntryType < 0 || entry.XXX_unrecognized != nil {
			return false
		}
		size := numberSize(uint64(entry.EntryType)) + numberSize(entry.Term) + numberSize(entry.Index) +
			bytesSize(len(entry.Data)) + bytesSize(len(entry.Context))
		e.entries = append(e.entries, size)
		e.raft += delimitedSize(size)
	}
	return true
}

// AppendTo appends the message that was measured.
func (e *MessageEncoder) AppendTo(b []byte) []byte {
	m := e.message
	b = appendNumber(b, 1<<3, m.RegionId)
	b = appendPair(b, 2<<3|wireBytes, m.FromPeer.Id, m.FromPeer.StoreId)
	b = appendPair(b, 3<<3|wireBytes, m.ToPeer.Id, m.ToPeer.StoreId)
	b = appendVarint(append(b, 4<<3|wireBytes), uint64(e.raft))
	b = e.appendRaft(b, m.Message)
	return appendPair(b, 5<<3|wireBytes, m.RegionEpoch.ConfVer, m.RegionEpoch.Version)
}

func (e *MessageEncoder) appendRaft(b []byte, m *eraftpb.Message) []byte {
	b = appendNumber(b, 1<<3, uint64(m.MsgType))
	b = appendNumber(b, 2<<3, m.To)
	b = appendNumber(b, 3<<3, m.From)
	b = appendNumber(b, 4<<3, m.Term)
	b = appendNumber(b, 5<<3, m.LogTerm)
	b = appendNumber(b, 6<<3, m.Index)
	for i, entry := range m.Entries {
		b = appendVarint(append(b, entryTag), uint64(e.entries[i]))
		b = appendNumber(b, 1<<3, uint64(entry.EntryType))
		b = appendNumber(b, 2<<3, entry.Term)
		b = appendNumber(b, 3<<3, entry.Index)
		b = appendBytes(b, 4<<3|wireBytes, entry.Data)
		b = appendBytes(b, 6<<3|wireBytes, entry.Context)
	}
	b = appendNumber(b, 8<<3, m.Commit)
	if m.Reject {
		b = append(b, 10<<3, 1)
	}
	b = appendNumber(b, 11<<3, m.RejectHint)
	return appendBytes(b, 12<<3|wireBytes, m.Context)
}

// Reset lets go of the message.
func (e *MessageEncoder) Reset() {
	e.message = nil
	if cap(e.entries) > maxKeptEntries {
		e.entries = nil
	}
}

// numberSize is the size of a number's field; zero is left out.
func numberSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + varintSize(v)
}

func flagSize(v bool) int {
	if v {
		return 2
	}
	return 0
}

// delimitedSize is the size of a field with a body of n bytes.
func delimitedSize(n int) int { return 1 + varintSize(uint64(n)) + n }

// bytesSize is the size of a field of n bytes; none are left out.
func bytesSize(n int) int {
	if n == 0 {
		return 0
	}
	return delimitedSize(n)
}

func appendNumber(b []byte, tag byte, v uint64) []byte {
	switch {
	case v == 0:
		return b
	case v < 0x80:
		return append(b, tag, byte(v))
	}
	return appendVarint(append(b, tag), v)
}

func appendBytes(b []byte, tag byte, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	return append(appendVarint(append(b, tag), uint64(len(value))), value...)
}

// appendPair appends a message of two numbers, fields 1 and 2, whose length has
// one byte.
func appendPair(b []byte, tag byte, one, two uint64) []byte {
	b = append(b, tag, byte(numberSize(one)+numberSize(two)))
	b = appendNumber(b, 1<<3, one)
	return appendNumber(b, 2<<3, two)
}
