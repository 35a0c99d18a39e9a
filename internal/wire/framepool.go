package wire

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	frameSize  = 16 << 10 // of the payload of a full HTTP/2 frame
	slabFrames = 64       // bits of slab.free
	slabSize   = slabFrames * frameSize
	maxSlabs   = 8 // together what a stream's window of 8 MiB lets in

	// worthwhileRun is how many free slots there must be in a row to go back to
	// them while there is fresh memory: what a batch needs.
	worthwhileRun = 32
)

// FramePool is the memory that a grpc.Server receives frames into. Full frames
// that are asked for one after another, and the shorter one that ends them, lie
// one behind the other if there is room, each with the capacity to grow into
// the next. A message that was cut into such frames can be read in one piece.
// Connections that receive at the same time come between each other's frames.
//
// Of the memory for frames up to 8 MiB that were in use at once are kept for as
// long as the pool is: where messages become the host's own, a small heap is
// collected a hundred times a second, and what comes in bulk would be allocated
// anew after each. The rest is a Pool's. Its zero value is ready, and safe for
// concurrent use.
//
// That a slice can grow into memory of somebody else is a danger only to who
// appends to what gRPC calls read-only.
type FramePool struct {
	rest Pool

	mu    sync.Mutex
	slabs []*slab
	next  position // behind the slot that was taken last
	full  bool     // what was asked for last is a full frame
}

var _ mem.BufferPool = (*FramePool)(nil)

// position is a slot's place.
type position struct{ slab, slot int }

// slab is slots of memory, one behind the other.
type slab struct {
	memory []byte
	free   uint64             // a bit for each slot
	slots  [slabFrames][]byte // what is handed out points here
}

// Get returns a buffer of that length, whose content is anything.
func (p *FramePool) Get(length int) *[]byte {
	if length <= frameSize {
		if buffer := p.take(length); buffer != nil {
			return buffer
		}
	}
	return p.rest.Get(length)
}

// take returns nil if there is no room, and for what is unlikely to be a part of
// something longer: it is no full frame, and neither is what came before it.
func (p *FramePool) take(length int) *[]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	follows := p.full
	p.full = length == frameSize
	if !p.full && !follows || !p.find() {
		return nil
	}
	slab, slot := p.slabs[p.next.slab], p.next.slot
	p.next.slot++
	return slab.take(slot, length)
}

// find moves next to a free slot, if it isn't at one.
func (p *FramePool) find() bool {
	if p.next.slab < len(p.slabs) && p.slabs[p.next.slab].free>>p.next.slot&1 != 0 {
		return true
	}
	if p.findRun(worthwhileRun) {
		return true
	}
	if len(p.slabs) == maxSlabs {
		return p.findRun(1)
	}
	p.next = position{slab: len(p.slabs)}
	p.slabs = append(p.slabs, &slab{memory: make([]byte, slabSize), free: 1<<slabFrames - 1})
	return true
}

// findRun moves next to the first n free slots in a row, n being a power of two.
func (p *FramePool) findRun(n int) bool {
	for i, slab := range p.slabs {
		if slot := firstRun(slab.free, n); slot < slabFrames {
			p.next = position{i, slot}
			return true
		}
	}
	return false
}

// firstRun returns where n bits in a row are set, n being a power of two, or 64
// if they are nowhere.
func firstRun(set uint64, n int) int {
	for shift := 1; shift < n; shift *= 2 {
		set &= set >> shift
	}
	return bits.TrailingZeros64(set)
}

// Put takes a buffer of Get's back.
func (p *FramePool) Put(buffer *[]byte) {
	if !p.giveBack(buffer) {
		p.rest.Put(buffer)
	}
}

// giveBack answers false if the buffer is no slot. Where a slot begins is told
// by its capacity, and which slab it is in by where that ends.
func (p *FramePool) giveBack(buffer *[]byte) bool {
	size := cap(*buffer)
	if size == 0 || size%frameSize != 0 || size > slabSize {
		return false
	}
	end := &(*buffer)[:size][size-1]
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slab := range p.slabs {
		if end == &slab.memory[slabSize-1] {
			slab.free |= 1 << ((slabSize - size) / frameSize)
			return true
		}
	}
	return false
}

func (s *slab) take(slot, length int) *[]byte {
	s.free &^= 1 << slot
	buffer := &s.slots[slot]
	*buffer = s.memory[slot*frameSize:][:length]
	return buffer
}
