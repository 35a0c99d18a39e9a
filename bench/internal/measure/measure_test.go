package measure

import (
	"testing"
	"time"
)

func TestQuantilesAreExactToOnePercent(t *testing.T) {
	var h Histogram
	for i := range 100_000 {
		h.Add(time.Duration(i) * time.Microsecond)
	}
	sums := h.AddTo(nil)
	for _, p := range []float64{0.5, 0.99, 0.999} {
		want := p * 100_000
		got := float64(Quantile(sums, p)) / float64(time.Microsecond)
		if got < want*0.99 || got > want*1.01 {
			t.Errorf("quantile %v is %v µs, want %v", p, got, want)
		}
	}
	h.Reset()
	if got := Quantile(h.AddTo(nil), 0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}

// Buckets follow one another without a gap, and each holds its own middle.
func TestBuckets(t *testing.T) {
	last := -1
	for value := uint64(0); value < 1<<20; value++ {
		bucket := bucketOf(value)
		if bucket != last && bucket != last+1 {
			t.Fatalf("%d is in bucket %d, after bucket %d", value, bucket, last)
		}
		if got := bucketOf(uint64(middleOf(bucket))); got != bucket {
			t.Fatalf("the middle of bucket %d, %d, is in bucket %d", bucket, middleOf(bucket), got)
		}
		last = bucket
	}
}

func TestSinkAwaits(t *testing.T) {
	var sink Sink
	first, second := sink.Counter(), sink.Counter()
	sink.Stamped(true)
	first.Take(uint64(time.Now().Add(-time.Second).UnixNano()))
	second.TakeMany(2)
	if count, _ := sink.Await(3); count != 3 {
		t.Errorf("counted %d, want 3", count)
	}
	if got := sink.Latencies(0.5)[0]; got < time.Second || got > time.Minute {
		t.Errorf("the latency is %v, want about 1 s", got)
	}
	if count, _ := sink.Await(4); count != 3 { // it gives up
		t.Errorf("counted %d, want 3", count)
	}
}

func TestUsageGrows(t *testing.T) {
	before, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	kept := make([][]byte, 0, 1000)
	for range 1000 {
		kept = append(kept, make([]byte, 1<<10))
	}
	after, err := Settled()
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 1000 || after.Mallocs < before.Mallocs+1000 || after.CPU < before.CPU || after.RSS == 0 || after.Go == 0 {
		t.Errorf("usage went from %+v to %+v", before, after)
	}
}
