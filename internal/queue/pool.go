package queue

import (
	"math/bits"
	"slices"
	"sync"
)

// Pool keeps chunks for use again. It is safe for concurrent use and shared by
// all queues of a Client.
//
// Of large chunks, which one goroutine fills and another lets go of, the one that
// came back last is given out first, while caches still hold it: a sync.Pool gives
// one processor what has lain longest with another. Up to mostWarm bytes of those are
// kept for as long as the Pool is.
type Pool struct {
	classes [classes]sync.Pool

	mu        sync.Mutex
	warm      []*chunk // what came back first is first
	warmBytes int      // of those
}

const (
	// warmClass is that of chunks of 64 KiB, from where on what a cache holds is
	// worth a lock.
	warmClass = 4
	// mostWarm is what a connection that was full still holds, and some more.
	mostWarm = 4 << 20
)

// get returns an empty chunk with room for at least size bytes.
func (p *Pool) get(size int) *chunk {
	if size > hugeChunk {
		return &chunk{data: make([]byte, 0, size), pool: p, class: -1}
	}
	class, capacity := classOf(size)
	if c := p.takeWarm(class); c != nil {
		return c
	}
	if c, ok := p.classes[class].Get().(*chunk); ok {
		return c
	}
	return &chunk{data: make([]byte, 0, capacity), pool: p, class: class}
}

// put takes an empty chunk back, of whatever get returned but the unpooled.
func (p *Pool) put(c *chunk) {
	if c.class < warmClass {
		p.classes[c.class].Put(c)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warm = append(p.warm, c)
	p.warmBytes += c.memory()
	for p.warmBytes > mostWarm {
		cold := p.warm[0]
		p.removeWarm(0)
		p.classes[cold.class].Put(cold)
	}
}

// takeWarm returns nil if there is none.
func (p *Pool) takeWarm(class int) *chunk {
	if class < warmClass {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range slices.Backward(p.warm) {
		if c.class == class {
			p.removeWarm(i)
			return c
		}
	}
	return nil
}

// removeWarm removes one of warm. The caller holds p.mu.
func (p *Pool) removeWarm(i int) {
	p.warmBytes -= p.warm[i].memory()
	p.warm = slices.Delete(p.warm, i, i+1)
}

// classOf returns the class of chunks with room for at least size bytes, and
// how much room they have.
func classOf(size int) (class, capacity int) {
	if size <= largeChunk {
		class = doublings(size)
		return class, smallChunk << class
	}
	class = doublings(size - slack)
	return class + 1, smallChunk<<class + slack
}

// doublings returns how often smallChunk is doubled to hold size bytes.
func doublings(size int) int {
	return bits.Len(uint(max(size, smallChunk)-1)) - bits.Len(smallChunk-1)
}
