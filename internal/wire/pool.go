package wire

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	smallestPooled = 12 // 4 KiB
	largestPooled  = 24 // 16 MiB
)

// Pool keeps memory for what is received, and for what of that is needed in one
// piece and came in several. gRPC's own pool clears what it hands out, a MiB for
// a message of 33 KiB; this one does not, for nothing is read that was not
// written, and goes by powers of two. The garbage collector takes what nobody
// uses. Its zero value is ready, and safe for concurrent use.
type Pool struct {
	classes [largestPooled + 1]sync.Pool
}

var _ mem.BufferPool = (*Pool)(nil)

// Get returns a buffer of that length, whose content is anything.
func (p *Pool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), smallestPooled)
	if class > largestPooled {
		buffer := make([]byte, length)
		return &buffer
	}
	if buffer, ok := p.classes[class].Get().(*[]byte); ok {
		*buffer = (*buffer)[:length]
		return buffer
	}
	buffer := make([]byte, length, 1<<class)
	return &buffer
}

// Put takes a buffer of Get's back.
func (p *Pool) Put(buffer *[]byte) {
	size := cap(*buffer)
	class := bits.Len(uint(size)) - 1
	if class < smallestPooled || class > largestPooled || size != 1<<class {
		return
	}
	p.classes[class].Put(buffer)
}
