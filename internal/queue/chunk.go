package queue

import (
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/wire"
)

// Chunk capacities double from smallChunk to largeChunk, so that a chunk with
// one message is at least half full if the message is not mergeable and the flush
// before was no larger. All are above the 1 KiB up to which gRPC ignores a buffer's
// pool.
const (
	smallChunk = 4 << 10
	largeChunk = 256 << 10
	// A message that is larger begins a chunk of its own size, up to hugeChunk from
	// the pool: the next power of two and slack, for payloads have round sizes and a
	// message has a little more. What is left is for those behind it.
	hugeChunk = 2<<20 + slack
	slack     = 8 << 10
	classes   = 11
	// mergeable is the content up to which a chunk is copied into the one before
	// it, so that a queue that fills up by small flushes holds little more
	// memory than its messages have bytes.
	mergeable = 2 << 10
)

// record is what the queue knows of one encoded message of a chunk.
type record struct {
	regionID, peerID uint64
	end              uint32 // where its frame ends in the chunk's content
	body             uint32 // the size of the frame without tag and length
	later            int32  // milliseconds from chunk.since to the flush's first message, rounded down
	volatile         bool
	dropped          bool
}

// recordSize is what a record takes, in bytes.
const recordSize = 32

// chunk is a run of encoded messages, frame after frame, in the order in which
// they were accepted. Its content is its data with the payloads put in where they
// belong, and all that counts bytes counts those. It has one owner at a time:
// first a Stage, which appends; then the Queue, which may merge others into it until
// it hands parts of it to gRPC, whose bytes stay as they are from there on; when the
// Queue and gRPC have let go of it, its Pool.
type chunk struct {
	data    []byte // what was copied
	records []record

	payloads    []payload // what is referred to, in the order of the content
	referred    int       // their bytes
	passed      int       // those that parts has gone past
	passedBytes int       // of those

	next  int       // the first record that was not handed over yet
	since time.Time // when the first message was accepted; all of one flush count as that old
	whole mem.Buffer
	pool  *Pool
	class int // index of the pool's class, -1 for memory that is not pooled

	lender *Queue // who handed parts of it to gRPC; nil if nobody did
	// lent bytes were handed over in that generation. Guarded by lender.lent.mu.
	lent       int
	generation uint64
}

// memory is what an empty chunk takes.
func (c *chunk) memory() int { return cap(c.data) + cap(c.records)*recordSize }

// start returns where the frame of record i begins.
func (c *chunk) start(i int) int {
	if i == 0 {
		return 0
	}
	return int(c.records[i-1].end)
}

// room says whether a frame fits, of which so many bytes are copied and so many
// referred to. A chunk comes back as a whole, so it must not refer to too much.
func (c *chunk) room(copied, referred int) bool {
	return len(c.data)+copied <= cap(c.data) && (referred == 0 || c.length()+copied+referred <= largeChunk)
}

// note appends the record of a message whose frame is the end of the content. It
// writes field by field: a record that is put together elsewhere and copied has to
// wait for its smaller parts, which is a good part of what a heartbeat costs.
func (c *chunk) note(message *Message) {
	n := len(c.records)
	if n == cap(c.records) {
		c.records = slices.Grow(c.records, c.expected())
	}
	c.records = c.records[:n+1]
	r := &c.records[n]
	r.regionID, r.peerID = message.RegionID, message.PeerID
	r.end, r.body = uint32(c.length()), uint32(message.Size)
	r.later, r.volatile, r.dropped = 0, message.Volatile, false
}

// expected returns how many records to make room for: that of the message at the end
// of the data, and those of more like it that the chunk may hold, or some of them. So
// a chunk of large messages grows its records once, and one that may be sent after
// a single heartbeat has no room for a hundred.
func (c *chunk) expected() int {
	const atMost = 16
	alike := (cap(c.data) - len(c.data)) * (len(c.records) + 1) / len(c.data)
	return min(1+alike, atMost)
}

// accepted returns when the flush of record i began, to the millisecond.
func (c *chunk) accepted(i int) time.Time {
	return c.since.Add(c.records[i].since())
}

// since returns how long after chunk.since the flush of the record began.
func (r *record) since() time.Duration { return time.Duration(r.later) * time.Millisecond }

// merge appends the content of a small chunk that was flushed later, and
// returns false if it can't.
func (c *chunk) merge(small *chunk) bool {
	if c.whole != nil || len(small.data) > mergeable || !c.room(len(small.data), small.referred) {
		return false
	}
	later := small.since.Sub(c.since).Milliseconds()
	if small.since.Before(c.since) { // another worker's, accepted earlier
		later--
	}
	if later < math.MinInt32 || later > math.MaxInt32 {
		return false
	}
	shift := c.length()
	c.data = append(c.data, small.data...)
	for _, p := range small.payloads {
		p.start, p.chunk = p.start+shift, c
		c.payloads = append(c.payloads, p)
	}
	c.referred += small.referred
	for _, r := range small.records {
		r.end += uint32(shift)
		r.later = int32(later)
		c.records = append(c.records, r)
	}
	return true
}

// takeRest moves what was not handed over to another chunk, which it returns, and
// gives up the queue's reference to this one.
func (c *chunk) takeRest() *chunk {
	from, before := c.start(c.next), 0
	kept := c.payloads
	for len(kept) > 0 && kept[0].start < from {
		before += len(kept[0].bytes)
		kept = kept[1:]
	}
	data := c.data[from-before:]
	rest := c.pool.get(len(data))
	rest.since = c.since
	rest.data = append(rest.data, data...)
	for _, p := range kept {
		p.start, p.chunk = p.start-from, rest
		rest.payloads = append(rest.payloads, p)
		rest.referred += len(p.bytes)
	}
	for _, r := range c.records[c.next:] {
		r.end -= uint32(from)
		rest.records = append(rest.records, r)
	}
	c.free()
	return rest
}

// part returns the bytes [from, to) of the data of a chunk that the queue owns. The
// caller gets a reference of its own.
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
	if q := c.lender; q != nil {
		q.load.release(0, q.lent.takeBack(c))
		c.lender = nil
	}
	c.dropPayloads()
	wire.Poison(c.data[:cap(c.data)])
	if c.class < 0 {
		return
	}
	c.data = c.data[:0]
	c.records = c.records[:0]
	c.next = 0
	c.whole = nil
	c.pool.put(c)
}
