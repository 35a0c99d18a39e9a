package queue

import (
	"sync"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/wire"
)

// Message is what Push has to know of a message.
type Message struct {
	RegionID, PeerID uint64
	// Volatile messages don't survive a broken stream; see Queue.DropVolatile.
	Volatile bool
	// Urgent messages may use the queue's Reserve.
	Urgent bool
	// Size is the exact size of the encoded message.
	Size int
}

// Encoder appends an encoded message to a buffer with room for it.
type Encoder interface {
	AppendTo(buffer []byte) []byte
}

// Stage is one worker's way into a queue. Push, Flush and Close belong to that
// worker; the lock is there for the clearing of the queue, which may seize what
// is staged at any time.
type Stage struct {
	queue *Queue

	mu            sync.Mutex
	payloads      Payloads // of the message that Push is at
	chunk         *chunk   // what was pushed since the last flush; nil if nothing was
	passed        int      // bytes handed over since the last flush, in chunks that were full
	capacity      int      // of the next chunk, going by the last flush
	disconnected  bool
	accepted      uint64
	acceptedBytes uint64
}

// NewStage attaches a stage to the queue. On a disconnected queue the stage is
// disconnected too.
func (q *Queue) NewStage() *Stage {
	s := &Stage{queue: q, payloads: Payloads{atLeast: q.options.ReferTo}}
	q.all.Lock() // whoever has all stages has this one too
	defer q.all.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	s.disconnected = q.closed
	if !q.closed {
		q.stages[s] = struct{}{}
	}
	return s
}

// Push encodes a message into the stage. The encoder is not used after Push has
// returned; payloads that are referred to are, until the message is dropped or gRPC
// has let go of it. On nil the message is accounted for from here on: sent, or dropped
// and reported. It answers ErrFull (what is staged is flushed then, and the
// consumer woken), ErrDisconnected or ErrEncoder.
func (s *Stage) Push(message Message, encoder Encoder) error {
	q := s.queue
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disconnected {
		return ErrDisconnected
	}
	most := q.options.Messages
	if !message.Urgent {
		most -= q.options.Reserve
	}
	if !q.load.reserve(message.Size, most, q.options.Bytes, message.Urgent) {
		if s.chunk != nil || !q.woken() { // lest each refusal meets the queue's lock
			s.flush()
		}
		if mutant.Active == mutant.C1 { // back-pressure: the consumer is given time to make room
			time.Sleep(100 * time.Millisecond)
		}
		return ErrFull
	}
	// The chunk learns of the message only when it is whole, so an encoder that
	// fails or panics leaves nothing behind.
	accepted := false
	defer func() {
		if !accepted {
			q.load.release(1, message.Size)
			s.payloads.reset()
			s.dropEmpty()
		}
	}()
	referred := s.payloads.ask(encoder, message.Size)
	copied := wire.FrameSize(message.Size) - referred
	if s.chunk == nil || !s.chunk.room(copied, referred) {
		s.nextChunk(copied)
	}
	c := s.chunk
	data := wire.AppendFrameHeader(c.data, message.Size)
	if referred == 0 {
		data = encoder.AppendTo(data)
	} else {
		data = s.payloads.encode(data, encoder, referred)
	}
	if len(data) != len(c.data)+copied {
		return ErrEncoder
	}
	if mutant.Active != mutant.C3 && &data[0] != &c.data[:1][0] { // it went to memory of its own
		data = append(c.data, data[len(c.data):]...)
	}
	if referred > 0 {
		c.refer(&s.payloads)
	}
	c.data = data
	c.note(&message)
	s.accepted++
	s.acceptedBytes += uint64(message.Size)
	accepted = true
	return nil
}

// nextChunk hands over the chunk that is full, if there is one, and begins another
// with room for so many bytes. The caller holds s.mu.
func (s *Stage) nextChunk(copied int) {
	if c := s.chunk; c != nil {
		if len(c.data)+copied > cap(c.data) {
			s.passed += len(c.data)
			s.capacity = min(2*cap(c.data), largeChunk)
		} else { // it refers to as much as it may, for which this was enough
			s.capacity = len(c.data)
		}
		s.handOver(false)
	}
	s.chunk = s.queue.options.Pool.get(max(copied, s.capacity))
	s.chunk.since = time.Now()
}

// dropEmpty gives back a chunk that no message made it into. The caller holds s.mu.
func (s *Stage) dropEmpty() {
	if c := s.chunk; c != nil && len(c.records) == 0 {
		s.chunk = nil
		c.free()
	}
}

// Flush hands over what is staged and wakes the consumer.
func (s *Stage) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disconnected {
		return
	}
	s.flush()
}

// flush is Flush for who holds s.mu. A stage that is refused again and again, with a
// message or two in between, must come down to small chunks, too.
func (s *Stage) flush() {
	if s.chunk != nil {
		s.capacity = min(s.passed+len(s.chunk.data), largeChunk)
		s.passed = 0
	}
	s.handOver(true)
}

// Close flushes and detaches the stage. A second call does nothing.
func (s *Stage) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disconnected {
		return
	}
	s.handOver(true)
	s.detach()
}

// handOver moves what is staged to the queue. The caller holds s.mu.
func (s *Stage) handOver(wake bool) {
	c := s.chunk
	s.chunk = nil
	if c != nil || wake {
		s.queue.push(c, wake)
	}
}

// detach takes the stage out of the queue, which inherits its accounts. The
// caller holds s.mu and has handed over what was staged.
func (s *Stage) detach() {
	q := s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	s.disconnected = true
	delete(q.stages, s)
	q.ledger.Accepted += s.accepted
	q.ledger.AcceptedBytes += s.acceptedBytes
	s.accepted, s.acceptedBytes = 0, 0
}
