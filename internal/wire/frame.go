package wire

import (
	"errors"
	"fmt"
)

const (
	// msgsTag is the tag of BatchRaftMessage.msgs: field 1, length-delimited.
	msgsTag = 1<<3 | wireBytes
	// observedField is BatchRaftMessage.last_observed_time, a varint: the
	// sender's clock in nanoseconds. kvproto's newer versions have it.
	observedField = 13
	observedTag   = observedField<<3 | wireVarint
)

// MaxObservedTimeSize is the most that AppendObservedTime appends.
const MaxObservedTimeSize = 1 + 10

// FrameHeaderSize is the exact size of what stands in a batch before a message
// whose body is that many bytes: its tag and its length.
func FrameHeaderSize(body int) int { return 1 + VarintSize(uint64(body)) }

// FrameSize is the exact size that a message whose body is that many bytes
// takes in a batch: tag, length and body.
func FrameSize(body int) int { return FrameHeaderSize(body) + body }

// AppendFrameHeader appends what stands before a message whose body is that
// many bytes. The body, appended behind it, completes the frame.
func AppendFrameHeader(dst []byte, body int) []byte {
	return appendVarint(append(dst, msgsTag), uint64(body))
}

// AppendObservedTime appends the batch's last_observed_time, which stands
// behind the last frame.
func AppendObservedTime(dst []byte, unixNano int64) []byte {
	return appendVarint(append(dst, observedTag), uint64(unixNano))
}

func appendVarint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// What can be wrong with the framing of a batch. A FrameError wraps one of them.
var (
	ErrFrameTruncated = errors.New("unexpected end of batch")
	ErrFrameVarint    = errors.New("varint longer than 64 bits")
	ErrFrameLength    = errors.New("negative length")
	ErrFrameTag       = errors.New("illegal field number")
	ErrFrameWireType  = errors.New("wrong wire type")
	ErrFrameGroup     = errors.New("end of a group that was not begun")
)

// FrameError tells where and why the framing of a batch is broken. Such a
// batch is a breach of protocol: nothing behind Offset can be told apart.
type FrameError struct {
	Offset int   // where in the batch the broken field begins
	Reason error // one of the ErrFrame errors
}

func (e *FrameError) Error() string {
	return fmt.Sprintf("wire: malformed raft batch at byte %d: %v", e.Offset, e.Reason)
}

func (e *FrameError) Unwrap() error { return e.Reason }

// FrameReader takes a batch apart, without copying and without allocating:
//
//	frames := wire.ReadFrames(batch)
//	for body, ok := frames.Next(); ok; body, ok = frames.Next() {
//		...
//	}
//	if err := frames.Err(); err != nil {
//		...
//	}
//
// It accepts and refuses a batch as kvproto's generated
// tikvpb.BatchRaftMessage.Unmarshal does, save that it doesn't look into the
// bodies: a body that is malformed costs only itself. Incoming.Frames reads in
// the same way a batch that came in several pieces, and copies what it must.
type FrameReader struct {
	batch []byte // the piece of the batch that is being read
	pos   int    // in it
	more  more   // what comes behind it

	observed uint64
	hasTime  bool
	err      error
}

// ReadFrames returns a reader of batch, which must not change while it or the
// bodies that it yields are in use.
func ReadFrames(batch []byte) FrameReader { return FrameReader{batch: batch} }

// Next returns the next message's body, a slice that cannot grow into what
// follows it, or false at the end of the batch or at the first broken field,
// which Err then tells apart.
func (r *FrameReader) Next() ([]byte, bool) {
	r.more.given = false
	for r.err == nil && (r.pos < len(r.batch) || r.nextPiece()) {
		if r.batch[r.pos] == msgsTag {
			if body, end := delimited(r.batch, r.pos+1); end != overrun {
				r.pos = end
				if r.more.give && len(body) > sharedLimit {
					body = r.inPlace(body)
				}
				return body, true
			}
		}
		if len(r.more.pieces) > 0 {
			if body, ok := r.across(); ok {
				return body, true
			}
		}
		if body, ok := r.field(); ok {
			return r.inPlace(body), true
		}
	}
	return nil, false
}

// Err returns nil or the *FrameError at which Next ended.
func (r *FrameReader) Err() error { return r.err }

// ObservedTime returns the batch's last_observed_time, the sender's clock in
// nanoseconds, and whether Next has met one so far. It stands at the end of a
// batch as a rule: ask when Next has answered false.
func (r *FrameReader) ObservedTime() (unixNano int64, ok bool) {
	return int64(r.observed), r.hasTime
}

// field takes the field at pos, whatever it is, if no other piece comes behind
// this one. It answers true if that was a message.
func (r *FrameReader) field() ([]byte, bool) {
	b, start := r.batch, r.pos
	wire, i, err := readVarint(b, start)
	if err != nil {
		return nil, r.fail(err)
	}
	num, wtype := int32(wire>>3), int(wire&7) // truncated as the generated code does
	switch {
	case wtype == wireEnd:
		return nil, r.fail(ErrFrameGroup)
	case num <= 0:
		return nil, r.fail(ErrFrameTag)
	case num == 1 && wtype != wireBytes:
		return nil, r.fail(ErrFrameWireType)
	case num == 1:
		n, i, err := readLength(b, i)
		if err != nil {
			return nil, r.fail(err)
		}
		r.pos = i + n
		return b[i:r.pos:r.pos], true
	case num == observedField && wtype == wireVarint:
		v, i, err := readVarint(b, i)
		if err != nil {
			return nil, r.fail(err)
		}
		r.observed, r.hasTime, r.pos = v, true, i
		return nil, false
	}
	end, err := skipField(b, start)
	if err != nil {
		return nil, r.fail(err)
	}
	r.pos = end
	return nil, false
}

func (r *FrameReader) fail(reason error) bool {
	r.err = &FrameError{Offset: r.more.before + r.pos, Reason: reason}
	return false
}

// skipField returns the index behind the field at b[i], groups included.
func skipField(b []byte, i int) (int, error) {
	depth := 0
	for i < len(b) {
		wire, next, err := readVarint(b, i)
		if err != nil {
			return 0, err
		}
		i = next
		switch wire & 7 {
		case wireVarint:
			if _, i, err = readVarint(b, i); err != nil {
				return 0, err
			}
		case wireFixed64:
			i += 8
		case wireBytes:
			var n int
			if n, i, err = readLength(b, i); err != nil {
				return 0, err
			}
			i += n
		case wireStart:
			depth++
		case wireEnd:
			if depth == 0 {
				return 0, ErrFrameGroup
			}
			depth--
		case wireFixed32:
			i += 4
		default:
			return 0, ErrFrameWireType
		}
		if depth == 0 && i <= len(b) {
			return i, nil
		}
	}
	return 0, ErrFrameTruncated
}

// readVarint is uvarint with a reason for its failure.
func readVarint(b []byte, i int) (uint64, int, error) {
	v, next := uvarint(b, i)
	if next == overrun {
		if len(b)-i >= 10 {
			return 0, 0, ErrFrameVarint
		}
		return 0, 0, ErrFrameTruncated
	}
	return v, next, nil
}

// readLength reads a length and checks that as much is left behind it.
func readLength(b []byte, i int) (int, int, error) {
	v, i, err := readVarint(b, i)
	switch {
	case err != nil:
		return 0, 0, err
	case int(v) < 0:
		return 0, 0, ErrFrameLength
	case int(v) > len(b)-i:
		return 0, 0, ErrFrameTruncated
	}
	return int(v), i, nil
}
