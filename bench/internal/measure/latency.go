// Package measure counts and times what goes through a process.
package measure

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// steps is the number of buckets for each power of two: a histogram is exact to 1 %.
const (
	stepBits = 7
	steps    = 1 << stepBits
	buckets  = (64 - stepBits) * steps
)

// Histogram counts durations. It is safe for concurrent use.
type Histogram struct {
	counts [buckets]atomic.Uint32
}

// Add counts one. Clocks may disagree by a little: less than nothing counts as nothing.
func (h *Histogram) Add(d time.Duration) { h.counts[bucketOf(uint64(max(d, 0)))].Add(1) }

// AddTo adds all counts to a list of as many as there are buckets, and returns
// the list, which may be nil at first.
func (h *Histogram) AddTo(sums []uint64) []uint64 {
	if sums == nil {
		sums = make([]uint64, buckets)
	}
	for i := range h.counts {
		sums[i] += uint64(h.counts[i].Load())
	}
	return sums
}

// Reset forgets all counts.
func (h *Histogram) Reset() {
	for i := range h.counts {
		h.counts[i].Store(0)
	}
}

// Quantile returns the duration below which the share p of all lies.
func Quantile(sums []uint64, p float64) time.Duration {
	var all uint64
	for _, n := range sums {
		all += n
	}
	rank := uint64(p * float64(all))
	for i, n := range sums {
		if rank < n {
			return middleOf(i)
		}
		rank -= n
	}
	return 0
}

// bucketOf counts by ones below steps, and then by steps per power of two.
func bucketOf(value uint64) int {
	if value < steps {
		return int(value)
	}
	shift := bits.Len64(value) - stepBits - 1
	return min(shift*steps+int(value>>shift), buckets-1)
}

// middleOf is the middle of a bucket.
func middleOf(bucket int) time.Duration {
	if bucket < 2*steps {
		return time.Duration(bucket)
	}
	shift := bucket/steps - 1
	low := uint64(bucket-shift*steps) << shift
	return time.Duration(low + uint64(1)<<shift/2)
}
