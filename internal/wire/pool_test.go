package wire

import (
	"testing"

	"pgregory.net/rapid"
)

// A pool hands out what was asked for, and no memory twice.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pool Pool
		lengths := rapid.SliceOf(rapid.OneOf(
			rapid.IntRange(0, 20<<10), rapid.SampledFrom([]int{1 << 12, 1<<12 + 1, 1 << 14, 1 << 20, 1 << 24, 1<<24 + 1}),
		)).Draw(t, "lengths")
		held := make(map[*byte]*[]byte)
		for i, length := range lengths {
			buffer := pool.Get(length)
			if len(*buffer) != length {
				t.Fatalf("asked for %d bytes, got %d", length, len(*buffer))
			}
			if length == 0 {
				continue
			}
			first := &(*buffer)[0]
			if held[first] != nil {
				t.Fatal("the memory is in use")
			}
			held[first] = buffer
			if i%2 == 0 {
				delete(held, first)
				pool.Put(buffer)
			}
		}
	})
}

// What no pool made is not kept, whatever its size.
func TestPoolTakesOnlyItsOwn(t *testing.T) {
	var pool Pool
	for _, size := range []int{0, 1, 5000, 1<<12 - 1, 1 << 25} {
		buffer := make([]byte, size)
		pool.Put(&buffer)
	}
	if got := pool.Get(4000); cap(*got) != 1<<12 {
		t.Errorf("a buffer for 4000 bytes has %d", cap(*got))
	}
}
