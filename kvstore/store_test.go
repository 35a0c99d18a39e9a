package kvstore

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestClusterServesAndSurvivesRestarts(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d stores", n), func(t *testing.T) {
			c := newCluster(t, n, Options{Regions: 20})
			start := time.Now()
			for i := range 100 {
				store := c.stores[uint64(i%n)+1]
				mustSet(t, store, fmt.Sprint("key", i), fmt.Sprint("value", i))
			}
			t.Logf("100 writes after %v", time.Since(start))
			for i := range 100 {
				store := c.stores[uint64((i+1)%n)+1]
				if got := mustGet(t, store, fmt.Sprint("key", i)); string(got) != fmt.Sprint("value", i) {
					t.Fatalf("key%d is %q", i, got)
				}
			}
			if got := mustGet(t, c.stores[1], "none"); got != nil {
				t.Errorf("a key that was never written is %q", got)
			}
			c.killAll()
			for id := uint64(1); id <= uint64(n); id++ {
				c.start(id)
			}
			for i := range 100 {
				if got := mustGet(t, c.stores[1], fmt.Sprint("key", i)); string(got) != fmt.Sprint("value", i) {
					t.Fatalf("key%d is %q after the crash", i, got)
				}
			}
			existed, err := c.stores[1].Delete([]byte("key1"))
			if err != nil || !existed {
				t.Errorf("delete: %v, %v", existed, err)
			}
			if existed, err = c.stores[1].Delete([]byte("key1")); err != nil || existed {
				t.Errorf("delete again: %v, %v", existed, err)
			}
			c.checkEqual()
		})
	}
}

// A write that is too large is refused before it is in the log: no message would hold
// its entry, and the region would commit nothing more. The largest that is taken is small
// here: under race 8 MiB take seconds.
func TestTooLargeWritesDontEnterTheLog(t *testing.T) {
	const largest = 256 << 10
	c := newCluster(t, 3, Options{Regions: 1, MaxValueSize: largest, RequestTimeout: 30 * time.Second})
	mustSet(t, c.stores[1], "key", "before")
	leader := c.leaderOf(1)
	if err := leader.Set([]byte("large"), make([]byte, largest-len("large")+1)); !errors.Is(err, errTooLarge) {
		t.Errorf("one byte more than the largest value: %v", err)
	}
	if _, err := leader.Delete(make([]byte, largest+1)); !errors.Is(err, errTooLarge) {
		t.Errorf("one byte more than the largest key: %v", err)
	}
	if err := leader.Set([]byte("large"), make([]byte, largest-len("large"))); err != nil {
		t.Errorf("the largest value: %v", err)
	}
	if limit := leader.client.MaxMessageSize(); limit <= maxMaxValueSize {
		t.Errorf("MaxValueSize may be %d, and a message has %d bytes", maxMaxValueSize, limit)
	}
	mustSet(t, leader, "key", "after")
	c.checkEqual()
}
