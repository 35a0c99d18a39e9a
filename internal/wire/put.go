package wire

import "math/bits"

// Encoders measure a message and then write it at indices, into memory that has
// the room: who knows the size need not ask for room at each byte.

// VarintSize is the length of v as a varint.
func VarintSize(v uint64) int { return (9*bits.Len64(v|1) + 64) / 64 }

// NumberSize is the size of a number's field; zero is left out.
func NumberSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + VarintSize(v)
}

// FlagSize is the size of a flag's field; false is left out.
func FlagSize(v bool) int {
	if v {
		return 2
	}
	return 0
}

// DelimitedSize is the size of a field with a body of n bytes.
func DelimitedSize(n int) int { return 1 + VarintSize(uint64(n)) + n }

// BytesSize is the size of a field of n bytes; none are left out.
func BytesSize(n int) int {
	if n == 0 {
		return 0
	}
	return DelimitedSize(n)
}

// PairSize is the size of a field of two numbers: at most 22 bytes and the tag and
// the length, which has one byte.
func PairSize(one, two uint64) int { return 2 + NumberSize(one) + NumberSize(two) }

// The put functions write at b[i] and return the index behind what they wrote.

// PutVarint writes a varint.
func PutVarint(b []byte, i int, v uint64) int {
	for v >= 0x80 {
		b[i] = byte(v) | 0x80
		v >>= 7
		i++
	}
	b[i] = byte(v)
	return i + 1
}

// PutNumber writes a number's field, or nothing for zero.
func PutNumber(b []byte, i int, tag byte, v uint64) int {
	if v == 0 {
		return i
	}
	b[i] = tag
	return PutVarint(b, i+1, v)
}

// PutFlag writes a flag's field, or nothing for false.
func PutFlag(b []byte, i int, tag byte, v bool) int {
	if !v {
		return i
	}
	b[i], b[i+1] = tag, 1
	return i + 2
}

// PutBytes writes a field of bytes, or nothing if there are none.
func PutBytes(b []byte, i int, tag byte, value []byte) int {
	if len(value) == 0 {
		return i
	}
	b[i] = tag
	i = PutVarint(b, i+1, uint64(len(value)))
	return i + copy(b[i:], value)
}

// PutPair writes a field of two numbers, which are its fields 1 and 2.
func PutPair(b []byte, i int, tag byte, one, two uint64) int {
	b[i] = tag
	start := i + 2
	i = PutNumber(b, start, 1<<3, one)
	i = PutNumber(b, i, 2<<3, two)
	b[start-1] = byte(i - start)
	return i
}
