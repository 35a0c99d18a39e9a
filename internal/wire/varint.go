package wire

import "math"

// overrun is the index that the readers of this file return in place of the
// next index when a value is malformed or truncated. It is past the end of any
// slice, so it ends every "for i < len(b)" loop, after which i != len(b) tells
// that something went wrong. This keeps error checks out of hot loops.
const overrun = math.MaxInt

// Protobuf wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireStart   = 3
	wireEnd     = 4
	wireFixed32 = 5
)

// uvarint reads the varint at b[i:]. It returns the value and the index behind
// it, or overrun. i may be len(b) or beyond. As in gogo's generated code at most
// ten bytes are read, and what exceeds 64 bits in the tenth is dropped.
func uvarint(b []byte, i int) (uint64, int) {
	if i >= len(b) {
		return 0, overrun
	}
	c := b[i]
	i++
	if c < 0x80 {
		return uint64(c), i
	}
	v := uint64(c & 0x7f)
	for shift := uint(7); shift < 64; shift += 7 {
		if i >= len(b) {
			return 0, overrun
		}
		c := b[i]
		i++
		v |= uint64(c&0x7f) << (shift & 63) // the mask spares a check
		if c < 0x80 {
			return v, i
		}
	}
	return 0, overrun
}

// delimited reads the length at b[i:] and returns that many bytes behind it,
// as a slice of b that cannot grow into what follows, and the index behind
// them, or (nil, overrun). A slice that it returns is never nil otherwise.
func delimited(b []byte, i int) ([]byte, int) {
	if i < len(b) && b[i] < 0x80 { // mostly
		start := i + 1
		end := start + int(b[i])
		if end > len(b) {
			return nil, overrun
		}
		return b[start:end:end], end
	}
	n, i := uvarint(b, i)
	if i > len(b) || n > uint64(len(b)-i) {
		return nil, overrun
	}
	end := i + int(n)
	return b[i:end:end], end
}

// skipUnknown returns the index behind the field whose tag is at b[i], or -1
// when the field is none that can be kept as unrecognised without a thought: a
// number up to known (a known field in a shape that the caller did not take),
// a group, an illegal tag, or a value that is malformed.
func skipUnknown(b []byte, i, known int) int {
	wire, i := uvarint(b, i)
	if i > len(b) {
		return -1
	}
	// The generated code truncates the field number the same way.
	if num := int32(wire >> 3); num <= 0 || int64(num) <= int64(known) {
		return -1
	}
	switch wire & 7 {
	case wireVarint:
		_, i = uvarint(b, i)
	case wireFixed64:
		i += 8
	case wireBytes:
		_, i = delimited(b, i)
	case wireFixed32:
		i += 4
	default:
		return -1
	}
	if i > len(b) {
		return -1
	}
	return i
}

// span is a run of adjacent unrecognised fields.
type span struct{ start, end int }

// field adds the field whose tag is at b[i] to the run, and returns the index
// behind it. It answers overrun if skipUnknown has none, or if the field isn't
// adjacent to the run, which is too rare to be worth code.
func (s *span) field(b []byte, i, known int) int {
	end := skipUnknown(b, i, known)
	if end < 0 || s.end != 0 && s.end != i {
		return overrun
	}
	if s.end == 0 {
		s.start = i
	}
	s.end = end
	return end
}
