package queue

import "sync"

// lent is what gRPC was handed and has not let go of. A chunk's bytes come back
// when its last reference goes; those of a stream that is gone may never, so the
// end of a generation takes back whatever is left, and what comes later counts
// for nothing. So each byte comes back once.
type lent struct {
	mu         sync.Mutex
	generation uint64
	bytes      int
	returned   uint64 // bytes that gRPC has let go of, ever
}

// lend notes that bytes of a chunk are handed over.
func (l *lent) lend(c *chunk, bytes int) {
	if bytes == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.generation != l.generation {
		c.generation, c.lent = l.generation, 0
	}
	c.lent += bytes
	l.bytes += bytes
}

// takeBack returns how many bytes come back with a chunk.
func (l *lent) takeBack(c *chunk) (bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.generation == l.generation {
		bytes = c.lent
	}
	c.lent = 0
	l.bytes -= bytes
	l.returned += uint64(bytes)
	return bytes
}

// end returns how many bytes come back with the end of the generation.
func (l *lent) end() (bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	bytes, l.bytes = l.bytes, 0
	return bytes
}

func (l *lent) read() (bytes int, returned uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes, l.returned
}

// EndGeneration takes back the bytes that the ended stream held, which gRPC may
// never let go of. The consumer calls it between two streams.
func (q *Queue) EndGeneration() {
	q.mu.Lock()
	// A part of the first chunk may be among those. What the next stream is handed
	// must come back without it.
	if len(q.chunks) > 0 && q.chunks[0].whole != nil {
		q.chunks[0] = q.chunks[0].takeRest()
	}
	q.mu.Unlock()
	q.load.release(0, q.lent.end())
}

// Lent returns the bytes that gRPC holds of this queue now, and those that it
// has ever let go of: while the first is not zero, the growth of the second is
// the stream's progress.
func (q *Queue) Lent() (bytes int, returned uint64) { return q.lent.read() }
