package queue

import (
	"sync/atomic"
	"time"
)

// shallowRest is how long a queue must have been empty to be deep again. Less
// may be no more than workers that all waited for room.
const shallowRest = time.Millisecond

// shallow keeps a queue that was full from standing. A deep queue is there for
// bursts. Where messages come faster than they leave it would stay deep, and all
// that it could still do is to make each message as old as the queue is long, and
// to have it written to memory that no cache holds any more. So from the first
// message that finds no room until the queue has come to rest, a message is taken
// only while less than most bytes are there. Nothing is lost by that: as many
// messages leave, for if they ever are too few to keep the connection busy, the
// queue comes to rest and is deep again.
//
// What a queue that stands does, and how to tell it from one that takes up a burst,
// is from "Controlling Queue Delay" (Nichols and Jacobson, 2012); to go by when the
// queue last was empty, from "Fail at Scale" (Maurer, 2015).
//
// It is safe for concurrent use.
type shallow struct {
	most    int // bytes; 0 for a queue that is always deep
	began   time.Time
	on      atomic.Bool
	emptied atomic.Int64 // when the queue was last seen to run empty, since began
}

// begin is called when there was no room for a message.
func (s *shallow) begin() {
	if s.most > 0 && !s.on.Load() {
		s.on.Store(true)
	}
}

// refuses says whether a queue with so many bytes takes nothing more.
func (s *shallow) refuses(bytes int) bool { return s.on.Load() && bytes >= s.most }

// end is called when a message finds the queue empty.
func (s *shallow) end() {
	if s.on.Load() && time.Since(s.began)-time.Duration(s.emptied.Load()) >= shallowRest {
		s.on.Store(false)
	}
}

// ranEmpty is called when the last bytes have left.
func (s *shallow) ranEmpty() {
	if s.on.Load() {
		s.emptied.Store(int64(time.Since(s.began)))
	}
}
