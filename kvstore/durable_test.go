package kvstore

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// lostAfterCrash writes from many goroutines, kills all stores at once while
// they write, starts them again and returns how many acknowledged writes are gone.
func lostAfterCrash(t *testing.T, options Options) (acked, lost int) {
	t.Helper()
	c := newCluster(t, 3, options)
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	var mu sync.Mutex
	var keys []string
	var running sync.WaitGroup
	for writer := range 12 {
		store := c.stores[uint64(writer%3)+1]
		running.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("%d-%d", writer, n)
				if store.Set([]byte(key), []byte(key)) != nil {
					return // killed
				}
				mu.Lock()
				keys = append(keys, key)
				mu.Unlock()
			}
		})
	}
	eventually(t, 30*time.Second, "writes", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(keys) > 1000
	})
	c.killAll()
	running.Wait()
	for id := uint64(1); id <= 3; id++ {
		c.start(id)
	}
	for _, key := range keys {
		if string(mustGet(t, c.stores[1], key)) != key {
			lost++
		}
	}
	return len(keys), lost
}

func TestAcknowledgedWritesSurviveACrashOfAllStores(t *testing.T) {
	if acked, lost := lostAfterCrash(t, Options{Regions: 30}); lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, acked)
	}
}

// The proof that the test above can fail.
func TestAcknowledgingBeforeSyncLosesWrites(t *testing.T) {
	acked, lost := lostAfterCrash(t, Options{Regions: 30, unsafeNoSync: true})
	if lost == 0 {
		t.Errorf("none of %d writes is lost, though none was synced", acked)
	}
}
