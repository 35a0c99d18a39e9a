package peer

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stream is what a watchdog looks at.
type fakeStream struct {
	mu       sync.Mutex
	bytes    int
	returned uint64
}

func (s *fakeStream) Lent() (bytes int, returned uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes, s.returned
}

func (s *fakeStream) set(bytes int, returned uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes, s.returned = bytes, returned
}

const stallTimeout = 8 * time.Second

// watched runs f with a watchdog, in a time of its own, and says when the
// watchdog barked, 0 for never.
func watched(t *testing.T, f func(*fakeStream)) (barked time.Duration) {
	synctest.Test(t, func(*testing.T) {
		stream, start := new(fakeStream), time.Now()
		w := watch(stream, stallTimeout, func() { barked = time.Since(start) })
		f(stream)
		w.stop()
		synctest.Wait()
		if (w.stalled() != nil) != (barked > 0) {
			t.Errorf("barked after %v, and says %v", barked, w.stalled())
		}
	})
	return barked
}

// C15: a stream that lets go of nothing is found within the time allowed and two
// looks, and never earlier.
func TestC15WatchdogBarks(t *testing.T) {
	barked := watched(t, func(stream *fakeStream) {
		stream.set(1<<10, 0)
		time.Sleep(time.Minute)
	})
	if barked < stallTimeout || barked > stallTimeout+2*stallTimeout/checks {
		t.Errorf("barked after %v, want about %v", barked, stallTimeout)
	}
}

// C15: the time allowed grows by a second for each MiB outstanding.
func TestC15WatchdogAllowsForSize(t *testing.T) {
	barked := watched(t, func(stream *fakeStream) {
		stream.set(60<<20, 0)
		time.Sleep(2 * time.Minute)
	})
	if want := stallTimeout + time.Minute; barked < want || barked > want+2*stallTimeout/checks {
		t.Errorf("barked after %v, want about %v", barked, want)
	}
}

// C15: an idle stream, and one that makes progress, are left alone, and an end
// is an end.
func TestC15WatchdogIsPatient(t *testing.T) {
	for name, f := range map[string]func(*fakeStream){
		"idle": func(*fakeStream) { time.Sleep(time.Hour) },
		"slow": func(stream *fakeStream) {
			for i := range uint64(100) {
				stream.set(1<<10, i)
				time.Sleep(stallTimeout - time.Second)
			}
		},
		"in bursts": func(stream *fakeStream) {
			for i := range uint64(100) {
				stream.set(1<<10, 2*i)
				time.Sleep(stallTimeout / 2)
				stream.set(0, 2*i+1)
				time.Sleep(10 * stallTimeout)
			}
		},
		"stopped": func(stream *fakeStream) {
			stream.set(1<<10, 0)
			time.Sleep(stallTimeout - time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if barked := watched(t, f); barked != 0 {
				t.Errorf("barked after %v", barked)
			}
		})
	}
}
