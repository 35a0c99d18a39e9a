package queue

import (
	"time"

	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/wire"
)

// Limits cuts batches.
type Limits struct {
	// Messages and Bytes bound a batch; one message alone may exceed Bytes.
	Messages, Bytes int
	// Age is how long a message may have waited.
	Age time.Duration
	// Bare asks for one message without a frame around it, as the legacy stream
	// has it.
	Bare bool
}

// Batch is what a stream is handed. The bytes are references into the queue's
// memory: whoever has the batch must pass it to gRPC, or free it.
type Batch struct {
	Buffers  mem.BufferSlice
	Messages int
	Bytes    int
	// Waited is how long ago the flush of the first message began.
	Waited time.Duration
	// Cut says why the batch holds no more.
	Cut Cut
}

// Cut is why a batch left when it did.
type Cut uint8

// The reasons for which a batch ends.
const (
	// CutDrained: nothing more waited.
	CutDrained Cut = iota
	// CutMessages: it has as many messages as it may.
	CutMessages
	// CutBytes: the next message would have made it too large.
	CutBytes
)

// String returns the metric label.
func (c Cut) String() string {
	switch c {
	case CutMessages:
		return "messages"
	case CutBytes:
		return "bytes"
	default:
		return "drained"
	}
}

// Take removes the next batch and counts it as sent, so the caller must hand it
// to a stream at once. It returns false when nothing waits. Messages that have
// waited for too long are dropped and reported on the way.
func (q *Queue) Take(limits Limits) (Batch, bool) {
	now := time.Now()
	q.mu.Lock()
	batch, expired := q.take(limits, now)
	q.settleLocked(ReasonExpired, &expired)
	q.mu.Unlock()
	q.report(ReasonExpired, &expired)
	if batch.Messages == 0 {
		return Batch{}, false
	}
	if !limits.Bare {
		trailer := q.trailers.next(now)
		batch.Buffers = append(batch.Buffers, trailer)
		batch.Bytes += trailer.Len()
	}
	return batch, true
}

// trailers makes the fields that end batches. Many lie in one piece of memory, for
// one of its own would cost more allocations than the rest of the batch.
type trailers struct {
	data  []byte
	whole mem.Buffer
	since time.Time // when data was made
}

const (
	// trailersSize is for a queue that uses that much up within trailersTime. It is
	// above the 1 KiB up to which gRPC doesn't count references.
	trailersSize = 2 << 10
	trailersTime = time.Second
	// rareTrailersSize is for any other: thousands of those would hold the larger
	// for hours. It is below that KiB on purpose, and left to the garbage collector.
	rareTrailersSize = 4 * wire.MaxObservedTimeSize
)

// next returns last_observed_time, with a reference of its own.
func (t *trailers) next(now time.Time) mem.Buffer {
	stale := cap(t.data) == trailersSize && now.Sub(t.since) > trailersTime
	if stale || cap(t.data)-len(t.data) < wire.MaxObservedTimeSize {
		t.renew(now)
	}
	start := len(t.data)
	t.data = wire.AppendObservedTime(t.data, now.UnixNano())
	return t.whole.Slice(start, len(t.data))
}

func (t *trailers) renew(now time.Time) {
	if t.whole != nil {
		t.whole.Free()
	}
	size := rareTrailersSize
	if now.Sub(t.since) <= trailersTime*time.Duration(cap(t.data))/trailersSize {
		size = trailersSize
	}
	t.data, t.since = make([]byte, size), now
	t.whole = mem.NewBuffer(&t.data, mem.NopBufferPool{})
	t.data = t.data[:0]
}

// take builds a batch from the front of the queue and drops what it meets there
// and has waited for too long. The caller holds q.mu.
func (q *Queue) take(limits Limits, now time.Time) (batch Batch, expired dropping) {
	oldest := now.Add(-limits.Age)
	maxMessages, maxBytes := limits.Messages, limits.Bytes-wire.MaxObservedTimeSize
	if mutant.Active == mutant.C18 { // what Take adds at the end is forgotten
		maxBytes = limits.Bytes
	}
	if limits.Bare {
		maxMessages = 1
	}
	bodies, done := 0, 0
	for full := false; done < len(q.chunks); done++ {
		c := q.chunks[done]
		tooOld := oldest.Sub(c.since)
		from := c.start(c.next)
		to := from
		before := bodies
		for !full && c.next < len(c.records) {
			r := &c.records[c.next]
			if !r.dropped && r.since() < tooOld {
				r.dropped = true
				expired.add(r)
			}
			end := int(r.end)
			switch {
			case r.dropped:
				batch.add(c, from, to)
				from, to = end, end
				c.next++
			case batch.Messages >= maxMessages:
				full, batch.Cut = true, CutMessages
			case batch.Messages > 0 && batch.Bytes+end-from > maxBytes:
				full, batch.Cut = true, CutBytes
			default:
				if batch.Messages == 0 {
					// now is older than what came while Take waited for the lock.
					batch.Waited = max(now.Sub(c.accepted(c.next)), 0)
				}
				if limits.Bare {
					from = end - int(r.body)
				}
				to = end
				bodies += int(r.body)
				batch.Messages++
				c.next++
			}
		}
		batch.add(c, from, to)
		if bodies > before {
			c.lender = q
			q.lent.lend(c, bodies-before)
		}
		if c.next < len(c.records) {
			break
		}
		c.free()
	}
	q.removeFront(done)
	q.load.release(batch.Messages, 0) // the bytes follow when gRPC lets go of them
	if batch.Messages > 0 {
		q.ledger.Sent += uint64(batch.Messages)
		if mutant.Active == mutant.C7 { // a batch counts as one message
			q.ledger.Sent -= uint64(batch.Messages) - 1
		}
		q.ledger.SentBytes += uint64(bodies)
		q.ledger.Batches++
	}
	return batch, expired
}

func (b *Batch) add(c *chunk, from, to int) {
	if from == to {
		return
	}
	if b.Buffers == nil {
		b.Buffers = make(mem.BufferSlice, 0, 4+2*len(c.payloads))
	}
	b.Buffers = c.parts(b.Buffers, from, to)
	b.Bytes += to - from
}

// removeFront takes about as much time as chunks are removed, however many stay.
func (q *Queue) removeFront(n int) {
	if rest := len(q.chunks) - n; rest > n {
		clear(q.chunks[:n])
		q.chunks = q.chunks[n:]
		return
	}
	rest := copy(q.chunks, q.chunks[n:])
	clear(q.chunks[rest:])
	q.chunks = q.chunks[:rest]
	if rest == 0 && cap(q.chunks) > 64 {
		q.chunks = nil
	}
}
