package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// SnapshotMethod is the method by which snapshots travel.
const SnapshotMethod = "/tikvpb.Tikv/Snapshot"

// Keys of a snapshot stream's metadata, unknown to other peers.
const (
	// SnapshotSizeKey is the sender's: how many bytes of data there are, decimal.
	// It says, too, that every data chunk has an offset and a checksum.
	SnapshotSizeKey = "raftmux-snapshot-size"
	// SnapshotOffsetKey is the receiver's: a SnapshotOffset, where to go on. It
	// says, too, that the receiver can do that.
	SnapshotOffsetKey = "raftmux-snapshot-offset"
	// SnapshotPrecheckKey is the sender's: a SnapshotPrecheck. The stream then
	// brings no chunk, only the question whether a snapshot may come.
	SnapshotPrecheckKey = "raftmux-snapshot-precheck"
	// SnapshotReservedKey is the receiver's answer to that, if it is yes: for how
	// many milliseconds room is kept.
	SnapshotReservedKey = "raftmux-snapshot-reserved-ms"
)

// SnapshotOffset says how much of a snapshot a receiver has.
type SnapshotOffset struct {
	// Offset is the number of bytes that it has and has verified.
	Offset int64
	// Sum is the CRC32C of those bytes.
	Sum uint32
}

// String returns the value of SnapshotOffsetKey.
func (o SnapshotOffset) String() string { return fmt.Sprintf("%d/%d", o.Offset, o.Sum) }

// ParseSnapshotOffset reads what String wrote.
func ParseSnapshotOffset(text string) (SnapshotOffset, error) {
	offset, sum, _ := strings.Cut(text, "/")
	o, err1 := strconv.ParseInt(offset, 10, 64)
	s, err2 := strconv.ParseUint(sum, 10, 32)
	if err1 != nil || err2 != nil || o < 0 {
		return SnapshotOffset{}, fmt.Errorf("wire: %s %q is not an offset and a checksum", SnapshotOffsetKey, text)
	}
	return SnapshotOffset{Offset: o, Sum: uint32(s)}, nil
}

// SnapshotPrecheck asks whether a snapshot may come.
type SnapshotPrecheck struct {
	// RegionID, PeerID and StoreID say for whom it is.
	RegionID, PeerID, StoreID uint64
	// ForBalance is set if it moves a replica that is well where it is.
	ForBalance bool
}

// String returns the value of SnapshotPrecheckKey.
func (p SnapshotPrecheck) String() string {
	return fmt.Sprintf("%d/%d/%d/%t", p.RegionID, p.PeerID, p.StoreID, p.ForBalance)
}

// ParseSnapshotPrecheck reads what String wrote.
func ParseSnapshotPrecheck(text string) (SnapshotPrecheck, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 4 {
		return SnapshotPrecheck{}, fmt.Errorf("wire: %s %q has %d parts, must have 4", SnapshotPrecheckKey, text, len(parts))
	}
	region, err1 := strconv.ParseUint(parts[0], 10, 64)
	peer, err2 := strconv.ParseUint(parts[1], 10, 64)
	store, err3 := strconv.ParseUint(parts[2], 10, 64)
	balance, err4 := strconv.ParseBool(parts[3])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return SnapshotPrecheck{}, fmt.Errorf("wire: %s %q: %w", SnapshotPrecheckKey, text, err)
	}
	return SnapshotPrecheck{RegionID: region, PeerID: peer, StoreID: store, ForBalance: balance}, nil
}

// SnapshotData reads a snapshot's data as TiKV's RaftSnapshotData, and returns nil
// if it isn't one of that region. A host's own bytes won't name the region there.
func SnapshotData(regionID uint64, snapshotData []byte) *raft_serverpb.RaftSnapshotData {
	if len(snapshotData) > maxSnapshotData {
		return nil
	}
	data := new(raft_serverpb.RaftSnapshotData)
	if data.Unmarshal(snapshotData) != nil || data.GetRegion().GetId() != regionID {
		return nil
	}
	return data
}

// ForWitness says whether a snapshot's data is the RaftSnapshotData of a witness's
// snapshot in that region.
func ForWitness(regionID uint64, snapshotData []byte) bool {
	data := SnapshotData(regionID, snapshotData)
	return data.GetMeta().GetForWitness() && len(data.GetData()) == 0
}

// maxSnapshotData bounds what is parsed as RaftSnapshotData: a region, and a few
// names and sizes. What is larger is a host's whole state.
const maxSnapshotData = 1 << 20

// The fields of SnapshotChunk. The last two are raftmux's own, with numbers that
// kvproto is not going to reach: other peers skip them.
const (
	chunkMessageTag = 1<<3 | wireBytes
	chunkDataTag    = 2<<3 | wireBytes

	chunkSumField    = 20011
	chunkOffsetField = 20012
	chunkSumTag      = chunkSumField<<3 | wireFixed32
	chunkOffsetTag   = chunkOffsetField<<3 | wireVarint
)

// MaxSnapshotHeaderSize is the most that either function that begins a chunk appends.
const MaxSnapshotHeaderSize = 3 + 4 + 3 + 10 + 1 + 10

// SnapshotChunk is a chunk as it came; its slices are parts of what was parsed.
type SnapshotChunk struct {
	// Message is the encoded RaftMessage, nil if there is none.
	Message []byte
	// Data is the data, and Offset where in the snapshot it begins.
	Data   []byte
	Offset int64
	// Sum is the CRC32C of the snapshot's data up to the end of this chunk.
	Sum uint32
	// Verifiable is set if Offset and Sum are there.
	Verifiable bool
}

// AppendSnapshotMessage appends what stands before an encoded RaftMessage of
// that size, which completes the chunk.
func AppendSnapshotMessage(dst []byte, size int) []byte {
	return appendVarint(append(dst, chunkMessageTag), uint64(size))
}

// AppendSnapshotData appends what stands before that many bytes of data, which
// complete the chunk.
func AppendSnapshotData(dst []byte, size int, offset int64, sum uint32) []byte {
	dst = binary.LittleEndian.AppendUint32(appendVarint(dst, chunkSumTag), sum)
	dst = appendVarint(appendVarint(dst, chunkOffsetTag), uint64(offset))
	return appendVarint(append(dst, chunkDataTag), uint64(size))
}

// What can be wrong with a chunk, besides the ErrFrame errors.
var (
	ErrChunkTwice  = errors.New("a field is there twice")
	ErrChunkOffset = errors.New("negative offset")
)

// ParseSnapshotChunk takes a chunk apart without copying. It accepts and refuses
// as kvproto's generated code does, save that it doesn't look into the message
// and refuses a field that is there twice.
func ParseSnapshotChunk(b []byte) (SnapshotChunk, error) {
	var c SnapshotChunk
	var hasData, hasSum, hasOffset bool
	for i := 0; i < len(b); {
		start := i
		tag, next, err := readVarint(b, i)
		if err != nil {
			return SnapshotChunk{}, chunkError(start, err)
		}
		num, wtype := int32(tag>>3), int(tag&7)
		switch {
		case wtype == wireEnd:
			return SnapshotChunk{}, chunkError(start, ErrFrameGroup)
		case num <= 0:
			return SnapshotChunk{}, chunkError(start, ErrFrameTag)
		case num <= 2:
			if wtype != wireBytes {
				return SnapshotChunk{}, chunkError(start, ErrFrameWireType)
			}
			n, body, err := readLength(b, next)
			if err != nil {
				return SnapshotChunk{}, chunkError(start, err)
			}
			i = body + n
			if num == 1 && c.Message == nil {
				c.Message = b[body:i:i]
			} else if num == 2 && !hasData {
				c.Data, hasData = b[body:i:i], true
			} else {
				return SnapshotChunk{}, chunkError(start, ErrChunkTwice)
			}
		default:
			if i, err = skipField(b, start); err != nil {
				return SnapshotChunk{}, chunkError(start, err)
			}
			switch tag {
			case chunkSumTag:
				if hasSum {
					return SnapshotChunk{}, chunkError(start, ErrChunkTwice)
				}
				c.Sum, hasSum = binary.LittleEndian.Uint32(b[next:]), true
			case chunkOffsetTag:
				if hasOffset {
					return SnapshotChunk{}, chunkError(start, ErrChunkTwice)
				}
				v, _, _ := readVarint(b, next)
				if c.Offset, hasOffset = int64(v), true; c.Offset < 0 {
					return SnapshotChunk{}, chunkError(start, ErrChunkOffset)
				}
			}
		}
	}
	c.Verifiable = hasSum && hasOffset
	return c, nil
}

func chunkError(offset int, reason error) error {
	return fmt.Errorf("wire: malformed snapshot chunk at byte %d: %w", offset, reason)
}
