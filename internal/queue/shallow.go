package queue

import (
	"sync/atomic"
	"time"
)

const (
	// shallowRest is how long a queue must have been empty to be deep again. It is
	// longer than workers that were refused wait until they try again: a queue that
	// only they keep empty is one that they would fill at once.
	shallowRest = time.Millisecond
	// shallowPeace is for how long no message must have been refused for that. It is
	// longer than Raft waits until it tries again a peer to whom nothing could be
	// sent: a heartbeat's interval, which is 2 s in TiKV.
	shallowPeace = 5 * time.Second
	// smallMessage is the size up to which messages are taken nevertheless: answers,
	// which nobody sends again soon, and which hardly make a queue long.
	smallMessage = 1 << 10
)

// shallow keeps a queue that was full from standing. A deep queue is there for
// bursts. Where messages come faster than they leave it would stay deep, and all
// that it could still do is to make each message as old as the queue is long, and
// to have it written to memory that no cache holds any more. So when a message finds
// no room, and the queue isn't full of small ones, the queue takes only small messages
// while enough bytes are there, until it has come to rest.
//
// It has come to rest when no message was refused for a while, or if it was empty
// for a while, for then enough was not enough to keep the connection busy. What
// tells a queue that stands from one that takes up a burst is from "Controlling Queue
// Delay" (Nichols and Jacobson, 2012); to go by when the queue was last empty, from
// "Fail at Scale" (Maurer, 2015).
//
// It is safe for concurrent use. Calls that overlap may end the state too early or
// begin it once more, which the next refusal or the next rest puts right.
type shallow struct {
	enough  int // bytes; 0 for a queue that is always deep
	began   time.Time
	on      atomic.Bool
	refused atomic.Int64 // when a message was refused last, since began
	emptied atomic.Int64 // when the queue ran empty last, since began
}

// noRoom is called when there was no room for a message beside so many bytes.
func (s *shallow) noRoom(bytes int) {
	if s.enough > 0 && bytes >= s.enough {
		s.refused.Store(s.now())
		s.on.Store(true)
	}
}

// refuses says whether a queue with so many bytes doesn't take a message of size. It
// is a part of every Push, and small enough to be inlined.
func (s *shallow) refuses(bytes, size int) bool {
	return s.on.Load() && s.refusesNow(bytes, size)
}

// refusesNow is refuses while the state is on, which it notes or ends.
func (s *shallow) refusesNow(bytes, size int) bool {
	if bytes == 0 && s.rested() {
		s.on.Store(false)
	}
	if bytes < s.enough || size <= smallMessage {
		return false
	}
	now := s.now()
	if s.peaceful(now) {
		s.on.Store(false)
		return false
	}
	s.refused.Store(now)
	return true
}

// lasts says whether the state is on, for those who only look.
func (s *shallow) lasts(bytes int) bool {
	return s.on.Load() && (bytes > 0 || !s.rested()) && !s.peaceful(s.now())
}

func (s *shallow) rested() bool { return s.now()-s.emptied.Load() >= int64(shallowRest) }

func (s *shallow) peaceful(now int64) bool { return now-s.refused.Load() >= int64(shallowPeace) }

// ranEmpty is called when the last bytes have left.
func (s *shallow) ranEmpty() {
	if s.on.Load() {
		s.emptied.Store(s.now())
	}
}

func (s *shallow) now() int64 { return int64(time.Since(s.began)) }
