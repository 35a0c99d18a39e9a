package queue

import (
	"sync"
	"sync/atomic"

	"github.com/raftmux/raftmux/internal/mutant"
)

// grain is how much a queue takes from the Budget at a time, so that most
// messages don't touch what all queues share.
const grain = 64 << 10

// Budget is the memory that all queues of a Client share. A store may hold at
// most half of what is free, so one that is dead ends up with a third of it,
// however many connections it has, and several leave the rest for the living: the
// dynamic threshold of Choudhury and Hahne (1998). It is safe for concurrent use.
type Budget struct {
	free atomic.Int64
}

// NewBudget returns a budget of that many bytes.
func NewBudget(bytes int) *Budget {
	b := new(Budget)
	b.free.Store(int64(bytes))
	return b
}

// Free returns the bytes that no queue has taken.
func (b *Budget) Free() int { return int(b.free.Load()) }

// take takes more bytes for a store that has held of them, unless it would then
// hold more than half of what is free.
func (b *Budget) take(held, more int64) bool {
	for {
		free := b.free.Load()
		if more > free || held+more > free/2 {
			return false
		}
		if b.free.CompareAndSwap(free, free-more) {
			return true
		}
	}
}

func (b *Budget) give(bytes int64) { b.free.Add(bytes) }

// Share is what one store has of a Budget, for all its queues. It is safe for
// concurrent use.
type Share struct {
	budget *Budget
	most   int64
	mu     sync.Mutex
	held   int64 // guarded by mu
}

// NewShare returns the share of a store whose queues, of which each has a minimum
// besides, hold at most so many bytes together, but of which any may hold one
// message of largest bytes.
func (b *Budget) NewShare(bytes, queues, minimum, largest int) *Share {
	most := int64(bytes-queues*minimum) / grain * grain
	return &Share{budget: b, most: max(most, ceil(int64(largest-minimum)))}
}

func (s *Share) take(more int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held+more > s.most || !s.budget.take(s.held, more) {
		return false
	}
	s.held += more
	return true
}

func (s *Share) give(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= bytes
	s.budget.give(bytes)
}

// ceil rounds up to grains.
func ceil(bytes int64) int64 { return (bytes + grain - 1) / grain * grain }

// load counts what a queue holds: messages that wait, and the bytes of those and
// of the messages that gRPC has not let go of. Both are in one word, 24 bits of
// messages above 40 bits of bytes, so that neither bound is ever overshot.
type load struct {
	word    atomic.Uint64
	shallow shallow

	// What is above minimum is taken from the store's share, if there is one.
	share   *Share
	minimum int64
	spare   int64        // of the bytes, what only urgent messages may use
	granted atomic.Int64 // bytes taken
	mu      sync.Mutex   // held while granted changes
}

const (
	loadBytes   = 40
	maxBytes    = 1<<loadBytes - 1
	maxMessages = 1<<(64-loadBytes) - 1
)

// reserve takes room for one message of size bytes, unless that would exceed a
// bound or the store's share, or the queue is shallow and has enough. A message
// that isn't urgent leaves spare bytes of both.
func (l *load) reserve(size, mostMessages, mostBytes int, urgent bool) bool {
	spare := l.spare
	if urgent {
		spare = 0
	}
	for {
		old := l.word.Load()
		messages, bytes := int(old>>loadBytes), int(old&maxBytes)
		if messages+1 > mostMessages || bytes+size > mostBytes-int(spare) {
			l.shallow.noRoom(bytes)
			return false
		}
		if l.shallow.refuses(bytes, size) {
			return false
		}
		if !l.word.CompareAndSwap(old, old+1<<loadBytes+uint64(size)) {
			continue
		}
		above := int64(bytes+size) + spare - l.minimum
		if l.share == nil || above <= 0 || above <= l.granted.Load() || mutant.Active == mutant.C17 || l.grow(spare) {
			return true
		}
		l.shallow.noRoom(bytes)
		l.release(1, size)
		return false
	}
}

// release gives room back, and to the share what is no longer needed.
func (l *load) release(messages, bytes int) {
	if messages == 0 && bytes == 0 { // an empty queue doesn't run empty once more
		return
	}
	if l.word.Add(-(uint64(messages)<<loadBytes + uint64(bytes))) == 0 {
		l.shallow.ranEmpty()
	}
	granted := l.granted.Load()
	if granted == 0 {
		return
	}
	if need := l.need(l.spare); need == 0 || granted-need >= 2*grain {
		l.shrink()
	}
}

func (l *load) read() (messages, bytes int) {
	word := l.word.Load()
	return int(word >> loadBytes), int(word & maxBytes)
}

// need returns the bytes above the minimum, and spare ones, rounded up to grains.
func (l *load) need(spare int64) int64 {
	_, bytes := l.read()
	above := int64(bytes) + spare - l.minimum
	if above <= 0 {
		return 0
	}
	return ceil(above)
}

// grow takes from the share what is needed now.
func (l *load) grow(spare int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	granted := l.granted.Load()
	more := l.need(spare) - granted
	if more <= 0 {
		return true
	}
	if !l.share.take(more) {
		return false
	}
	l.granted.Add(more)
	return true
}

// shrink gives the share back what isn't needed. All of it goes when the queue
// is back below its minimum.
func (l *load) shrink() {
	l.mu.Lock()
	defer l.mu.Unlock()
	granted, keep := l.granted.Load(), l.need(l.spare)
	if keep >= granted {
		return
	}
	l.granted.Store(keep)
	// A reservation that still found the old value is in the word by now; one that
	// isn't finds the new value, and waits in grow.
	keep = min(max(keep, l.need(l.spare)), granted)
	l.granted.Store(keep)
	l.share.give(granted - keep)
}
