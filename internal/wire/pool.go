package wire

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	smallestPooled = 12 // 4 KiB
	largestPooled  = 24 // 16 MiB
	framePooled    = 14 // 16 KiB, the payload of a full HTTP/2 frame

	// maxKeptFrames is how many frames a Pool keeps from the garbage collector:
	// what a stream's window of 8 MiB lets in.
	maxKeptFrames = 512
)

// Pool keeps memory for what is received, and for what of that is needed in one
// piece and came in several. gRPC's own pool clears what it hands out, a MiB for
// a message of 33 KiB; this one does not, for nothing is read that was not
// written, and goes by powers of two. Its zero value is ready, and safe for
// concurrent use.
//
// The garbage collector takes what nobody uses, save for frames: of those, up to
// 8 MiB that were in use at once are kept for as long as the Pool is. Where
// messages become the host's own, a small heap is collected a hundred times a
// second, and what comes in bulk would be allocated anew after each.
type Pool struct {
	classes [largestPooled + 1]sync.Pool
	frames  frameStack
}

var _ mem.BufferPool = (*Pool)(nil)

// Get returns a buffer of that length, whose content is anything.
func (p *Pool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), smallestPooled)
	if class > largestPooled {
		buffer := make([]byte, length)
		return &buffer
	}
	if buffer := p.used(class); buffer != nil {
		*buffer = (*buffer)[:length]
		return buffer
	}
	buffer := make([]byte, length, 1<<class)
	return &buffer
}

// used returns a buffer that was given back, or nil.
func (p *Pool) used(class int) *[]byte {
	if class == framePooled {
		if buffer := p.frames.take(); buffer != nil {
			return buffer
		}
	}
	buffer, _ := p.classes[class].Get().(*[]byte)
	return buffer
}

// Put takes a buffer of Get's back.
func (p *Pool) Put(buffer *[]byte) {
	size := cap(*buffer)
	class := bits.Len(uint(size)) - 1
	if class < smallestPooled || class > largestPooled || size != 1<<class {
		return
	}
	if class == framePooled && p.frames.keep(buffer) {
		return
	}
	p.classes[class].Put(buffer)
}

// frameStack is kept buffers of one size. The one that came last goes first, for
// it is the likeliest to be in the cache.
type frameStack struct {
	mu   sync.Mutex
	kept []*[]byte
}

// take returns nil if none is kept.
func (f *frameStack) take() *[]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.kept) - 1
	if last < 0 {
		return nil
	}
	buffer := f.kept[last]
	f.kept[last], f.kept = nil, f.kept[:last]
	return buffer
}

// keep answers false if there is no room.
func (f *frameStack) keep(buffer *[]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.kept) == maxKeptFrames {
		return false
	}
	f.kept = append(f.kept, buffer)
	return true
}
