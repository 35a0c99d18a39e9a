package queue

import (
	"sync"
	"sync/atomic"

	"github.com/raftmux/raftmux/internal/mutant"
)

// grain is how much a queue takes from the Budget at a time, so that most
// messages don't touch what all queues share.
const grain = 64 << 10

// Budget is the memory that all queues of a Client share. A queue may hold at
// most half of what is free, so one whose peer is dead ends up with a third of
// it, and several leave the rest for the living: the dynamic threshold of
// Choudhury and Hahne (1998). It is safe for concurrent use.
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

// take takes more bytes for a queue that has held of them, unless it would then
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

// load counts what a queue holds: messages that wait, and the bytes of those and
// of the messages that gRPC has not let go of. Both are in one word, 24 bits of
// messages above 40 bits of bytes, so that neither bound is ever overshot.
type load struct {
	word atomic.Uint64

	// What is above minimum is taken from the budget, if there is one.
	budget  *Budget
	minimum int64
	granted atomic.Int64 // bytes taken
	mu      sync.Mutex   // held while granted changes
}

const (
	loadBytes   = 40
	maxBytes    = 1<<loadBytes - 1
	maxMessages = 1<<(64-loadBytes) - 1
)

// reserve takes room for one message of size bytes, unless that would exceed a
// bound or the budget.
func (l *load) reserve(size, mostMessages, mostBytes int) bool {
	for {
		old := l.word.Load()
		messages, bytes := int(old>>loadBytes), int(old&maxBytes)
		if messages+1 > mostMessages || bytes+size > mostBytes {
			return false
		}
		if !l.word.CompareAndSwap(old, old+1<<loadBytes+uint64(size)) {
			continue
		}
		if l.budget == nil || l.covered() || mutant.Active == mutant.C17 || l.grow() {
			return true
		}
		l.release(1, size)
		return false
	}
}

// release gives room back, and to the budget what is no longer needed.
func (l *load) release(messages, bytes int) {
	l.word.Add(-(uint64(messages)<<loadBytes + uint64(bytes)))
	granted := l.granted.Load()
	if granted == 0 {
		return
	}
	if need := l.need(); need == 0 || granted-need >= 2*grain {
		l.shrink()
	}
}

func (l *load) read() (messages, bytes int) {
	word := l.word.Load()
	return int(word >> loadBytes), int(word & maxBytes)
}

// need returns the bytes above the minimum, rounded up to grains.
func (l *load) need() int64 {
	_, bytes := l.read()
	above := int64(bytes) - l.minimum
	if above <= 0 {
		return 0
	}
	return (above + grain - 1) / grain * grain
}

func (l *load) covered() bool { return l.need() <= l.granted.Load() }

// grow takes from the budget what is needed now.
func (l *load) grow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	granted := l.granted.Load()
	more := l.need() - granted
	if more <= 0 {
		return true
	}
	if !l.budget.take(granted, more) {
		return false
	}
	l.granted.Add(more)
	return true
}

// shrink gives the budget back what isn't needed. All of it goes when the queue
// is back below its minimum.
func (l *load) shrink() {
	l.mu.Lock()
	defer l.mu.Unlock()
	spare := l.granted.Load() - l.need()
	if spare <= 0 {
		return
	}
	l.granted.Add(-spare)
	l.budget.give(spare)
}
