package wire

import (
	"slices"

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

// AppendTo appends the message that was measured, and panics if that has grown
// since. It writes at indices: the size is known, so it need not ask for room at
// each byte.
func (e *MessageEncoder) AppendTo(b []byte) []byte {
	m, i := e.message, len(b)
	b = slices.Grow(b, e.size)[:i+e.size]
	i = putNumber(b, i, 1<<3, m.RegionId)
	i = putPair(b, i, 2<<3|wireBytes, m.FromPeer.Id, m.FromPeer.StoreId)
	i = putPair(b, i, 3<<3|wireBytes, m.ToPeer.Id, m.ToPeer.StoreId)
	b[i] = 4<<3 | wireBytes
	i = putVarint(b, i+1, uint64(e.raft))
	i = e.putRaft(b, i, m.Message)
	return b[:putPair(b, i, 5<<3|wireBytes, m.RegionEpoch.ConfVer, m.RegionEpoch.Version)]
}

func (e *MessageEncoder) putRaft(b []byte, i int, m *eraftpb.Message) int {
	i = putNumber(b, i, 1<<3, uint64(m.MsgType))
	i = putNumber(b, i, 2<<3, m.To)
	i = putNumber(b, i, 3<<3, m.From)
	i = putNumber(b, i, 4<<3, m.Term)
	i = putNumber(b, i, 5<<3, m.LogTerm)
	i = putNumber(b, i, 6<<3, m.Index)
	for k, entry := range m.Entries {
		b[i] = entryTag
		i = putVarint(b, i+1, uint64(e.entries[k]))
		i = putNumber(b, i, 1<<3, uint64(entry.EntryType))
		i = putNumber(b, i, 2<<3, entry.Term)
		i = putNumber(b, i, 3<<3, entry.Index)
		i = putBytes(b, i, 4<<3|wireBytes, entry.Data)
		i = putBytes(b, i, 6<<3|wireBytes, entry.Context)
	}
	i = putNumber(b, i, 8<<3, m.Commit)
	if m.Reject {
		b[i], b[i+1] = 10<<3, 1
		i += 2
	}
	i = putNumber(b, i, 11<<3, m.RejectHint)
	return putBytes(b, i, 12<<3|wireBytes, m.Context)
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

// The put functions write at b[i] and return the index behind what they wrote.

func putVarint(b []byte, i int, v uint64) int {
	for v >= 0x80 {
		b[i] = byte(v) | 0x80
		v >>= 7
		i++
	}
	b[i] = byte(v)
	return i + 1
}

func putNumber(b []byte, i int, tag byte, v uint64) int {
	if v == 0 {
		return i
	}
	b[i] = tag
	return putVarint(b, i+1, v)
}

func putBytes(b []byte, i int, tag byte, value []byte) int {
	if len(value) == 0 {
		return i
	}
	b[i] = tag
	i = putVarint(b, i+1, uint64(len(value)))
	return i + copy(b[i:], value)
}

// putPair writes a message of two numbers, fields 1 and 2, whose length has
// one byte.
func putPair(b []byte, i int, tag byte, one, two uint64) int {
	b[i] = tag
	start := i + 2
	i = putNumber(b, start, 1<<3, one)
	i = putNumber(b, i, 2<<3, two)
	b[start-1] = byte(i - start)
	return i
}
