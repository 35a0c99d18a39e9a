package queue

import (
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/wire"
)

// Chunk capacities. A chunk keeps slack at its end because gRPC's memory pools
// ignore buffers with a capacity of 1 KiB or less: with the slack every part of
// a chunk is above that, and the chunk comes back when gRPC lets go of it.
const (
	smallChunk  = 4 << 10
	mediumChunk = 32 << 10
	largeChunk  = 256 << 10
	slack       = 1<<10 + 1
	// mergeable is the content up to which a chunk is copied into the one before
	// it, so that a queue that fills up by small flushes holds little more
	// memory than its messages have bytes.
	mergeable = 2 << 10
)

// record is what the queue knows of one encoded message of a chunk.
type record struct {
	regionID, peerID uint64
	end              uint32 // where its frame ends in the chunk
	body             uint32 // the size of the frame without tag and length
	later            uint32 // milliseconds that it was accepted after chunk.since, rounded down
	volatile         bool
	dropped          bool
}

// chunk is a run of encoded messages, frame after frame, in the order in which
// they were accepted. It has one owner at a time: first a Stage, which appends;
// then, unchanged from there on, the Queue, which hands parts of it to gRPC;
// when the Queue and gRPC have let go of it, its Pool.
type chunk struct {
	data    []byte
	records []record
	next    int       // the first record that was not handed over yet
	since   time.Time // when the first message was accepted
	whole   mem.Buffer
	pool    *Pool
	class   int // index of the pool's class, -1 for memory that is not pooled
}

// start returns where the frame of record i begins.
func (c *chunk) start(i int) int {
	if i == 0 {
		return 0
	}
	return int(c.records[i-1].end)
}

// room says whether a frame fits.
func (c *chunk) room(frame int) bool {
	return len(c.data)+frame+slack <= cap(c.data)
}

// before says whether record i was accepted before t.
func (c *chunk) before(i int, t time.Time) bool {
	return c.since.Add(time.Duration(c.records[i].later) * time.Millisecond).Before(t)
}

// merge appends the content of a small chunk that was accepted later, and
// returns false if it can't.
func (c *chunk) merge(small *chunk) bool {
	later := small.since.Sub(c.since).Milliseconds()
	if c.whole != nil || len(small.data) > mergeable || !c.room(len(small.data)) || later < 0 || later > math.MaxUint32 {
		return false
	}
	shift := uint32(len(c.data))
	c.data = append(c.data, small.data...)
	for _, r := range small.records {
		r.end += shift
		r.later += uint32(later)
		c.records = append(c.records, r)
	}
	return true
}

// part returns the bytes [from, to) of a chunk that the queue owns. The caller
// gets a reference of its own.
func (c *chunk) part(from, to int) mem.Buffer {
	if c.whole == nil {
		c.whole = mem.NewBuffer(&c.data, c)
	}
	return c.whole.Slice(from, to)
}

// free gives up the queue's reference. The chunk must not be touched afterwards.
func (c *chunk) free() {
	if c.whole == nil {
		c.Put(&c.data)
		return
	}
	c.whole.Free()
}

// Get is there for mem.BufferPool, of which gRPC only uses Put here.
func (c *chunk) Get(length int) *[]byte {
	buffer := make([]byte, length)
	return &buffer
}

// Put takes the chunk back. It is called once, when the last reference goes.
func (c *chunk) Put(*[]byte) {
	wire.Poison(c.data[:cap(c.data)])
	if c.class < 0 {
		return
	}
	c.data = c.data[:0]
	c.records = c.records[:0]
	c.next = 0
	c.whole = nil
	c.pool.classes[c.class].Put(c)
}

// Pool keeps chunks for use again. It is safe for concurrent use and shared by
// all queues of a Client.
type Pool struct {
	classes [3]sync.Pool
}

// get returns an empty chunk with room for at least size bytes.
func (p *Pool) get(size int) *chunk {
	for class, capacity := range [...]int{smallChunk, mediumChunk, largeChunk} {
		if size+slack > capacity {
			continue
		}
		if c, ok := p.classes[class].Get().(*chunk); ok {
			return c
		}
		return &chunk{data: make([]byte, 0, capacity), pool: p, class: class}
	}
	return &chunk{data: make([]byte, 0, size+slack), pool: p, class: -1}
}
