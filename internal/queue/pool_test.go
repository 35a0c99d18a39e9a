package queue

import (
	"sync"
	"testing"
	"unsafe"
)

// Large chunks come again as they come back: the last one first, of its class.
func TestPoolGivesTheWarmest(t *testing.T) {
	t.Parallel()
	pool := new(Pool)
	const large, huge = 64 << 10, 256<<10 + slack
	first, other, last := pool.get(large), pool.get(huge), pool.get(large)
	for _, c := range []*chunk{first, other, last} {
		c.free()
	}
	if pool.get(large) != last || pool.get(huge) != other || pool.get(large) != first {
		t.Error("not the last that came back")
	}
	if c := pool.get(large); c == first || c == last {
		t.Error("a chunk in use is given out")
	}
}

// What a chunk's records take is what is counted for them.
func TestRecordSize(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(record{}); size != recordSize {
		t.Errorf("a record takes %d bytes, not %d", size, recordSize)
	}
}

// What is kept warm has a bound, which old chunks of any class make way for, and
// an account that agrees with it, whatever goes on at the same time.
func TestPoolKeepsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	pool := new(Pool)
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for round := range 8 {
				size := smallChunk << ((worker + round) % 8)
				var chunks []*chunk
				for range 2*mostWarm/size + 1 {
					chunks = append(chunks, pool.get(size))
				}
				for _, c := range chunks {
					c.free()
				}
			}
		})
	}
	workers.Wait()
	last := pool.get(hugeChunk)
	last.free()
	sum := 0
	for _, c := range pool.warm {
		sum += c.memory()
	}
	if sum != pool.warmBytes || sum > mostWarm {
		t.Errorf("%d bytes are kept, said to be %d", sum, pool.warmBytes)
	}
	if pool.get(hugeChunk) != last {
		t.Error("what came back last made way")
	}
}
