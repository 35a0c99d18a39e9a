package peer

import (
	"fmt"
	"sync"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
)

const (
	// checks is how often the watchdog looks within the time that it allows.
	checks = 4
	// slowest is the rate, in bytes a second, that still counts as progress.
	slowest = 1 << 20
)

// progress is what a watchdog looks at: a queue.
type progress interface {
	// Lent returns the bytes that are in the stream's hands, and those that it
	// has ever let go of.
	Lent() (bytes int, returned uint64)
}

// watchdog breaks a stream whose peer is alive and has stopped reading, which
// keepalive never notices: the stream holds bytes and lets go of none, for
// longer than timeout and a second for each MiB that it holds.
type watchdog struct {
	queue   progress
	timeout time.Duration
	bark    func()

	mu       sync.Mutex
	timer    *time.Timer
	stopped  bool
	returned uint64
	idle     bool      // the stream held nothing at the last look
	since    time.Time // the look since which there was no progress
	err      error
}

// watch starts a watchdog. It calls bark at most once, on a goroutine of its own.
func watch(queue progress, timeout time.Duration, bark func()) *watchdog {
	_, returned := queue.Lent()
	w := &watchdog{queue: queue, timeout: timeout, bark: bark, returned: returned, idle: true}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(timeout/checks, w.look)
	return w
}

func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	bytes, returned := w.queue.Lent()
	now := time.Now()
	if w.idle || returned != w.returned {
		w.returned, w.since = returned, now
	}
	w.idle = bytes == 0
	if mutant.Active == mutant.C15 { // it never barks
		w.since = now
	}
	allowed := w.timeout + time.Duration(bytes)*time.Second/slowest
	if idle := now.Sub(w.since); !w.idle && idle >= allowed {
		w.stopped = true
		w.err = fmt.Errorf("the peer takes nothing: no progress for %v with %d bytes outstanding",
			idle.Round(time.Millisecond), bytes)
		w.bark()
		return
	}
	w.timer.Reset(w.timeout / checks)
}

// stop ends the watchdog. It doesn't wait for a look under way, which finds
// nothing to do.
func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}

// stalled returns the error of a stream that the watchdog broke, nil otherwise.
func (w *watchdog) stalled() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
