package snapshot

import (
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// partSize is the size of the parts in which a block is lent to gRPC, and so how
// finely progress is seen.
const partSize = 64 << 10

// blocks is a pool of memory for chunks.
type blocks struct{ pool sync.Pool }

// block is the memory of one chunk. It goes back to its pool when gRPC has let go
// of all parts of it; gRPC drops parts of a stream that is gone without a word,
// and the block is then garbage.
type block struct {
	bytes []byte
	home  *blocks
	users atomic.Int32
}

func (b *blocks) get() *block {
	if got, ok := b.pool.Get().(*block); ok {
		return got
	}
	return &block{bytes: make([]byte, chunkSize), home: b}
}

// lend returns the first n bytes as buffers for gRPC. The block is not to be used
// any more. Each time that gRPC lets go of some bytes, moved is told how many.
func (b *block) lend(n int, moved func(int)) mem.BufferSlice {
	parts := (n + partSize - 1) / partSize
	b.users.Store(int32(parts))
	buffers := make(mem.BufferSlice, 0, parts+1)
	for start := 0; start < n; start += partSize {
		part := b.bytes[start:min(n, start+partSize)]
		buffers = append(buffers, mem.NewBuffer(&part, &loan{block: b, moved: moved}))
	}
	return buffers
}

// release gives back a block that was not lent.
func (b *block) release() { b.home.pool.Put(b) }

// lendMessage returns an encoded message as buffers for gRPC. moved is told as in
// lend, of lent bytes; what is short is not lent, for gRPC doesn't give it back.
func lendMessage(encoded []byte, moved func(int)) (buffers mem.BufferSlice, lent int) {
	if len(encoded) < partSize {
		return mem.BufferSlice{mem.SliceBuffer(encoded)}, 0
	}
	lent = len(encoded)
	for len(encoded) > 0 {
		n := partSize
		if len(encoded) < 2*partSize { // so no part is short
			n = len(encoded)
		}
		part := encoded[:n]
		buffers = append(buffers, mem.NewBuffer(&part, &loan{moved: moved}))
		encoded = encoded[n:]
	}
	return buffers, lent
}

// loan is the pool to which gRPC gives a part back. gRPC doesn't give back parts
// that are too small to be worth it.
type loan struct {
	block *block // nil if the memory isn't used again
	moved func(int)
}

// Get implements mem.BufferPool. Nobody calls it.
func (*loan) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

// Put implements mem.BufferPool.
func (l *loan) Put(part *[]byte) {
	l.moved(len(*part))
	if l.block != nil && l.block.users.Add(-1) == 0 {
		l.block.release()
	}
}
