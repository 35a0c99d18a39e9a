// Package queue is the bounded queue of one connection: many workers stage
// encoded messages, one goroutine takes them in batches.
//
// A worker has a Stage for each queue that it uses and appends to memory that
// only it writes to; Flush hands that memory over whole. So the price of a
// message is an encoding and an uncontended lock, and the queue's own lock is
// taken once per flush and once per batch.
package queue

import (
	"errors"
	"sync"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/report"
)

// The answers of Push to a message that it does not take.
var (
	ErrFull         = errors.New("queue: full")
	ErrDisconnected = errors.New("queue: disconnected")
	// ErrEncoder means that an encoder did not write as many bytes as it announced.
	ErrEncoder = errors.New("queue: the encoder wrote another size than it announced")
)

// Options configures a Queue. Messages, Bytes, Pool and Dropped are mandatory, and
// Minimum if there is a Share.
type Options struct {
	// Messages bounds the messages that wait, staged ones included. Bytes bounds
	// their bodies and those that gRPC has not let go of.
	Messages, Bytes int
	// Shallow is a bound on the bytes of a queue that was full: once it has refused a
	// message, it takes only small messages while it has that many bytes, until it has
	// come to rest. Default 0: no such bound.
	Shallow int
	// Reserve is the part of Messages that only urgent messages may use, and
	// ReserveBytes that of Bytes, which is at most Minimum. Default 0.
	Reserve, ReserveBytes int
	// Share is that of the queue's store, nil if there is none. What a queue holds
	// above Minimum bytes is taken from it.
	Share   *Share
	Minimum int
	// ReferTo is the size from which on payloads are referred to and not copied, if
	// the encoder is a Referrer. It is above the 1 KiB up to which gRPC doesn't tell
	// when it has let go of a buffer. Default 0: all are copied.
	ReferTo int
	// Pool provides the memory.
	Pool *Pool
	// Dropped is told of the peers, each once per clearing, whose accepted
	// messages were dropped, and of how many messages that were. It is called
	// without any lock of the queue held.
	Dropped func(reason Reason, peers []report.Peer, messages int)
	// Woken is called after Wake was given a token. It must not block, nor call
	// the queue.
	Woken func()
}

// Queue is safe for concurrent use, but Take has one caller at a time.
//
// Locks are taken in the order Queue.all, Stage.mu, Queue.mu. Those of load, lent,
// Share and Pool come last.
type Queue struct {
	options Options
	load    load
	lent    lent
	wake    chan struct{} // capacity 1; a token means "look again"

	trailers trailers // belongs to the caller of Take

	all sync.Mutex // held by whoever locks several stages, or adds one

	mu     sync.Mutex
	chunks []*chunk // oldest first; all of them have records left that were not dropped
	stages map[*Stage]struct{}
	closed bool
	ledger Ledger // without what the stages hold
}

// New returns an empty queue.
func New(options Options) *Queue {
	options.Messages = min(options.Messages, maxMessages)
	options.Bytes = min(options.Bytes, maxBytes)
	return &Queue{
		options: options,
		load: load{
			shallow: shallow{enough: options.Shallow, began: time.Now()},
			share:   options.Share,
			minimum: int64(options.Minimum),
			spare:   int64(options.ReserveBytes),
		},
		wake:   make(chan struct{}, 1),
		stages: make(map[*Stage]struct{}),
	}
}

// Wake gives a token after messages were flushed. The consumer must call Take
// after it received one, until Take has nothing more: a push that comes between
// leaves a new token, so no wake-up is lost.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

// Disconnected says whether Disconnect was called.
func (q *Queue) Disconnected() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// Ledger returns the accounts, staged messages included.
func (q *Queue) Ledger() Ledger {
	// What moves from a stage to the queue between two locks would be counted
	// twice or not at all, so all stages are held while the queue is read.
	q.all.Lock()
	defer q.all.Unlock()
	stages := q.listStages()
	for _, s := range stages {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	ledger := q.ledger
	lent, _ := q.lent.read()
	ledger.LentBytes = uint64(lent)
	_, bytes := q.load.read()
	ledger.Shallow = q.load.shallow.lasts(bytes)
	for _, c := range q.chunks {
		ledger.count(c)
	}
	for _, s := range stages {
		ledger.Accepted += s.accepted
		ledger.AcceptedBytes += s.acceptedBytes
		if s.chunk != nil {
			ledger.count(s.chunk)
		}
	}
	return ledger
}

func (l *Ledger) count(c *chunk) {
	if since := c.accepted(c.next); l.Oldest.IsZero() || since.Before(l.Oldest) {
		l.Oldest = since
	}
	for i := c.next; i < len(c.records); i++ {
		if !c.records[i].dropped {
			l.Queued++
			l.QueuedBytes += uint64(c.records[i].body)
		}
	}
}

// eachStage calls f for every stage, with its lock held.
func (q *Queue) eachStage(f func(*Stage)) {
	q.all.Lock()
	defer q.all.Unlock()
	for _, s := range q.listStages() {
		s.mu.Lock()
		f(s)
		s.mu.Unlock()
	}
}

func (q *Queue) listStages() []*Stage {
	q.mu.Lock()
	defer q.mu.Unlock()
	stages := make([]*Stage, 0, len(q.stages))
	for s := range q.stages {
		stages = append(stages, s)
	}
	return stages
}

// push appends a chunk whose records are all reserved. The caller holds the
// lock of the stage that it comes from.
func (q *Queue) push(c *chunk, wake bool) {
	q.mu.Lock()
	merged := false
	if c != nil {
		if n := len(q.chunks); n > 0 {
			merged = q.chunks[n-1].merge(c)
		}
		if !merged {
			q.chunks = append(q.chunks, c)
		}
		if mutant.Active == mutant.C5 && !merged { // what comes last leaves first
			q.chunks = append([]*chunk{c}, q.chunks[:len(q.chunks)-1]...)
		}
	}
	if wake {
		q.ledger.Wakes++
	}
	q.mu.Unlock()
	if merged {
		c.free()
	}
	if wake {
		q.notify()
	}
}

// woken says whether a token waits for the consumer.
func (q *Queue) woken() bool { return len(q.wake) > 0 }

func (q *Queue) notify() {
	if mutant.Active == mutant.C19 { // each flush looks again when its messages are old
		go time.Sleep(3 * time.Second)
	}
	select {
	case q.wake <- struct{}{}:
		if q.options.Woken != nil {
			q.options.Woken()
		}
	default:
	}
}
