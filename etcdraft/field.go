package etcdraft

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The wire types of the fields that are read here, as they stand in a tag.
const (
	typeVarint = uint64(protowire.VarintType)
	typeBytes  = uint64(protowire.BytesType)
	typeMask   = 7
	leastTag   = 1 << 3
)

// overrun is the end of a field that is malformed, or longer than the message.
const overrun = math.MaxInt

// field reads the field that begins at b[i], which must exist: its tag, its value,
// and the index behind it, which is beyond b if the field is malformed. The value of
// bytes is their number: they are b[next-int(value):next]. A field that is neither a
// scalar nor bytes has none.
//
// It is one call for the tag and what follows, for a call costs as much as
// reading most fields.
func field(b []byte, i int) (tag, value uint64, next int) {
	tag, next = uint64(b[i]), i+1
	if tag-leastTag >= 0x80-leastTag { // longer than a byte, or none at all
		tag, next = longTag(b, i)
	}
	if next >= len(b) {
		return tag, 0, overrun
	}
	if kind := tag & typeMask; kind != typeVarint && kind != typeBytes {
		return tag, 0, otherField(b, tag, next)
	}
	value, next = uint64(b[next]), next+1
	if value >= 0x80 {
		value, next = varint(b, next-1)
	}
	if tag&typeMask == typeVarint {
		return tag, value, next
	}
	if next > len(b) || value > uint64(len(b)-next) {
		return tag, 0, overrun
	}
	return tag, value, next + int(value)
}

// longTag reads a tag of any length, and returns the index behind it.
func longTag(b []byte, i int) (tag uint64, next int) {
	tag, next = varint(b, i)
	if tag < leastTag || tag>>3 > uint64(protowire.MaxValidNumber) {
		return tag, overrun
	}
	return tag, next
}

// otherField returns the index behind a field that is neither a scalar nor bytes,
// whose value begins at b[i].
func otherField(b []byte, tag uint64, i int) (next int) {
	n := protowire.ConsumeFieldValue(protowire.Number(tag>>3), protowire.Type(tag&typeMask), b[i:])
	if n < 0 {
		return overrun
	}
	return i + n
}

// varint reads the varint at b[i], and returns the index behind it. One of more than
// 64 bits is malformed, as it is for google's protobuf; gogo's code, and with it
// internal/wire, takes it.
func varint(b []byte, i int) (value uint64, next int) {
	value, n := binary.Uvarint(b[i:])
	if n <= 0 {
		return 0, overrun
	}
	return value, i + n
}

// passOver is for a field that has none of the known tags, whose numbers are all
// those from 1 to last's: an unknown field is none of ours, a known one of the wrong
// type is an error.
func passOver(tag, last uint64) error {
	if tag>>3 <= last>>3 {
		return errWireType
	}
	return nil
}
