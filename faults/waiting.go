package faults

import (
	"container/heap"
	"sync"
	"time"

	"github.com/raftmux/raftmux"
)

// held is a message that waits. Its bytes are its own.
type held struct {
	due      time.Time
	number   uint64 // breaks ties: what is equally due comes in order
	envelope raftmux.Envelope
	message  []byte // nil if this is only a date on which to call flush
	copies   int    // that come besides it
	outlet   outlet
}

// outlet is where a message goes when it has waited long enough. Its methods run
// on the one goroutine of a waiting, and don't block.
type outlet interface {
	// take takes the next message that is due. Its bytes stay valid until flush
	// has returned.
	take(h held)
	// lose takes a message that will not be delivered.
	lose(h held)
	// flush is called when no more comes for the moment; at last, no more for ever.
	flush(last bool)
}

// waiting is where messages wait. Room for each is reserved first, and then the
// message is added, or its room released. One lock guards it all, taken for
// messages that wait and no others. Its goroutine is there only while they are.
type waiting struct {
	maxMessages, maxBytes int64
	stats                 *counters
	wake                  chan struct{} // has room for one
	running               sync.WaitGroup

	mu              sync.Mutex
	closed          bool
	runs            bool // the goroutine is there
	queue           dueQueue
	number          uint64
	messages, bytes int64 // reserved
}

func newWaiting(maxMessages, maxBytes int, stats *counters) *waiting {
	return &waiting{
		maxMessages: int64(maxMessages), maxBytes: int64(maxBytes),
		stats: stats,
		wake:  make(chan struct{}, 1),
	}
}

// reserve makes room for a message, if there is any.
func (w *waiting) reserve(size int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.messages >= w.maxMessages || w.bytes+int64(size) > w.maxBytes {
		w.stats.passed.Add(1)
		return false
	}
	w.charge(1, int64(size))
	return true
}

// unreserve gives back what was reserved for a message that there isn't.
func (w *waiting) unreserve(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.charge(-1, -int64(size))
}

// release gives back what was reserved for messages that don't wait any more,
// or never did.
func (w *waiting) release(list []held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uncharge(list)
}

func (w *waiting) uncharge(list []held) {
	for i := range list {
		if list[i].message != nil {
			w.charge(-1, -int64(len(list[i].message)))
		}
	}
}

func (w *waiting) charge(messages, bytes int64) {
	w.messages += messages
	w.bytes += bytes
	w.stats.waitingMessages.Store(w.messages)
	w.stats.waitingBytes.Store(w.bytes)
}

// add lets messages wait for which room was reserved. The memory of their bytes
// is the waiting's from here on, that of the list stays the caller's. It returns
// false, and gives the room back, if the waiting has been closed.
func (w *waiting) add(list ...held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		w.uncharge(list)
		return false
	}
	for _, h := range list {
		w.stats.waited.Add(1)
		w.push(h)
	}
	if len(w.queue) == 0 {
		return true
	}
	if !w.runs {
		w.runs = true
		w.running.Add(1)
		go w.run()
		return true
	}
	w.nudge()
	return true
}

// later makes flush of an outlet be called at a time. It is for outlets, in their
// own flush.
func (w *waiting) later(o outlet, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.push(held{due: due, outlet: o})
}

func (w *waiting) push(h held) {
	w.number++
	h.number = w.number
	heap.Push(&w.queue, h)
}

func (w *waiting) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// close loses what waits and lets nothing wait any more. It waits for the goroutine.
func (w *waiting) close() {
	w.mu.Lock()
	w.closed = true
	w.nudge()
	w.mu.Unlock()
	w.running.Wait()
}

// run hands over what is due until nothing waits.
func (w *waiting) run() {
	defer w.running.Done()
	for {
		due, next, closed := w.due()
		switch {
		case len(due) > 0:
			w.hand(due, closed)
		case next < 0:
			return
		default:
			w.sleep(next)
		}
	}
}

// due takes what is due, everything if the waiting is closed. If nothing is, it
// returns the time until something will be, or a negative one if nothing waits;
// then the goroutine counts as gone.
func (w *waiting) due() (due []held, next time.Duration, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for len(w.queue) > 0 && (w.closed || !w.queue[0].due.After(now)) {
		due = append(due, heap.Pop(&w.queue).(held))
	}
	switch {
	case len(due) > 0:
	case len(w.queue) == 0:
		w.runs = false
		w.queue = nil // what a flood needed goes back
		next = -1
	default:
		next = w.queue[0].due.Sub(now)
	}
	return due, next, w.closed
}

func (w *waiting) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.wake:
	}
}

// hand gives messages to their outlets, or loses them.
func (w *waiting) hand(list []held, lose bool) {
	var touched []outlet
	for _, h := range list {
		touched = appendNew(touched, h.outlet)
		switch {
		case h.message == nil:
		case lose:
			w.stats.lost.Add(1)
			h.outlet.lose(h)
		default:
			h.outlet.take(h)
		}
	}
	for _, o := range touched {
		o.flush(lose)
	}
	w.release(list)
}

func appendNew(list []outlet, o outlet) []outlet {
	for _, one := range list {
		if one == o {
			return list
		}
	}
	return append(list, o)
}

// dueQueue is a heap, the message that is due first in front.
type dueQueue []held

func (q dueQueue) Len() int { return len(q) }

func (q dueQueue) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].number < q[j].number
	}
	return q[i].due.Before(q[j].due)
}

func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *dueQueue) Push(h any) { *q = append(*q, h.(held)) }

// Pop implements heap.Interface.
func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	h := (*q)[last]
	(*q)[last] = held{}
	*q = (*q)[:last]
	return h
}
