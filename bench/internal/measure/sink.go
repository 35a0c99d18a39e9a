package measure

import (
	"sync"
	"sync/atomic"
	"time"
)

// Sink is the host at the receiving end: it counts messages and keeps none.
type Sink struct {
	stamped atomic.Bool

	mu       sync.Mutex
	counters []*Counter
}

// Counter is one stream's part of a Sink, so that streams don't meet at one
// number. It is safe for concurrent use all the same.
type Counter struct {
	sink      *Sink
	n         atomic.Uint64
	latencies Histogram
}

// Counter returns a new one.
func (s *Sink) Counter() *Counter {
	c := &Counter{sink: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters = append(s.counters, c)
	return c
}

// Take counts one message. The stamp is when it was sent, by time.Time.UnixNano;
// it is looked at only while the Sink is told that there are stamps.
func (c *Counter) Take(stamp uint64) {
	c.n.Add(1)
	if c.sink.stamped.Load() {
		c.latencies.Add(time.Duration(time.Now().UnixNano() - int64(stamp)))
	}
}

// TakeMany counts messages that have no stamps.
func (c *Counter) TakeMany(n int) { c.n.Add(uint64(n)) }

// Stamped says from now on whether messages have stamps, and forgets latencies.
func (s *Sink) Stamped(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.counters {
		c.latencies.Reset()
	}
	s.stamped.Store(yes)
}

// Count returns the number of messages taken.
func (s *Sink) Count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n uint64
	for _, c := range s.counters {
		n += c.n.Load()
	}
	return n
}

// Latencies returns the quantiles of all latencies.
func (s *Sink) Latencies(quantiles ...float64) []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sums []uint64
	for _, c := range s.counters {
		sums = c.latencies.AddTo(sums)
	}
	found := make([]time.Duration, len(quantiles))
	for i, p := range quantiles {
		found[i] = Quantile(sums, p)
	}
	return found
}

// stallAfter is how long no message may come before the rest counts as lost.
const stallAfter = 500 * time.Millisecond

// Await waits until as many messages were taken in all, or none come any more,
// and returns how many they are and when the last of them was seen.
func (s *Sink) Await(want uint64) (count uint64, at time.Time) {
	at = time.Now()
	for {
		n := s.Count()
		now := time.Now()
		if n != count {
			count, at = n, now
		}
		idle := now.Sub(at)
		if n >= want || idle > stallAfter {
			return count, at
		}
		// The CPU time of this process is being measured: it looks the less often the
		// longer nothing has come, or who loses messages would pay for that.
		time.Sleep(max(200*time.Microsecond, idle/8))
	}
}
