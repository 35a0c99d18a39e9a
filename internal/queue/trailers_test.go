package queue

import (
	"testing"
	"time"
)

// A queue has much memory for trailers only while it uses that up.
func TestTrailersByRate(t *testing.T) {
	for _, test := range []struct {
		perSecond int
		large     bool
	}{{1, false}, {5, false}, {50, false}, {150, false}, {300, true}, {5000, true}} {
		var trailers trailers
		now, large := time.Now(), 0
		const batches = 9_000
		for range batches {
			trailers.next(now).Free()
			if cap(trailers.data) == trailersSize {
				large++
			}
			now = now.Add(time.Second / time.Duration(test.perSecond))
		}
		if want := map[bool]int{true: batches - 10}[test.large]; large < want || large > 0 && !test.large {
			t.Errorf("%d batches a second: the large memory for %d of %d", test.perSecond, large, batches)
		}
		now = now.Add(2 * trailersTime)
		trailers.next(now).Free()
		if cap(trailers.data) != rareTrailersSize {
			t.Errorf("%d batches a second, and then a pause: memory of %d bytes", test.perSecond, cap(trailers.data))
		}
	}
}

// Trailers that are still on their way keep their bytes.
func TestTrailersKeep(t *testing.T) {
	var trailers trailers
	now := time.Now()
	type kept struct {
		bytes []byte
		copy  string
	}
	var all []kept
	for i := range 2000 {
		buffer := trailers.next(now.Add(time.Duration(i) * time.Millisecond))
		all = append(all, kept{buffer.ReadOnlyData(), string(buffer.ReadOnlyData())})
	}
	for i, k := range all {
		if string(k.bytes) != k.copy {
			t.Fatalf("trailer %d is %x, was %x", i, k.bytes, k.copy)
		}
	}
}
