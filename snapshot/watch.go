package snapshot

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// watch cancels a sending transfer that doesn't move, or takes too long.
type watch struct {
	running sync.WaitGroup
	// offered is set once something was to be handed to gRPC.
	offered atomic.Bool
	// handed to gRPC, and freed by it.
	handed, freed atomic.Int64
	message       atomic.Int64 // its size
	// held is set while the limiter has the transfer wait; throttled is how long
	// it did, in all.
	held      atomic.Bool
	throttled atomic.Int64
}

// start begins to watch. The function that it returns ends that, and waits.
func (w *watch) start(o *outgoing) (stop func()) {
	stopped := make(chan struct{})
	w.running.Go(func() {
		ticker := time.NewTicker(max(time.Millisecond, min(time.Second, o.sender.options.StallTimeout/8, o.sender.options.Grace/8)))
		defer ticker.Stop()
		for {
			select {
			case <-stopped:
				return
			case <-ticker.C:
			}
			if err := w.verdict(o); err != nil {
				o.cancel(err)
				return
			}
		}
	})
	return func() {
		close(stopped)
		w.running.Wait()
	}
}

func (w *watch) verdict(o *outgoing) error {
	if w.held.Load() {
		return nil
	}
	// The whole's time alone bounds what comes before the first byte, and what the
	// receiver does with all the data.
	idle := !w.offered.Load() || o.is(Committing) && w.freed.Load() >= w.handed.Load()
	if limit := o.sender.options.StallTimeout; !idle && o.still() > limit {
		return fmt.Errorf("%w for %v, at %d of %d bytes", ErrStalled, limit, o.done.Load(), o.total.Load())
	}
	elapsed := time.Since(o.started) - time.Duration(w.throttled.Load())
	if limit := o.allowance(); elapsed > limit {
		return fmt.Errorf("%w: more than %v, %s at %d of %d bytes", ErrTooSlow, limit, o.phase.Load(), o.done.Load(), o.total.Load())
	}
	return nil
}

// allowance is how long a transfer of that size may take. As long as nobody has
// said the size, that is Grace.
func (o *outgoing) allowance() time.Duration {
	options := o.sender.options
	size := float64(max(0, o.total.Load())) + float64(o.watch.message.Load())
	return options.Grace + inSeconds(size/float64(options.MinRate))
}

// longest is where inSeconds stops: 146 years, to which more can be added.
const longest = time.Duration(1 << 62)

// inSeconds returns so many seconds as a Duration, which can't have them all.
func inSeconds(seconds float64) time.Duration {
	return time.Duration(min(seconds*float64(time.Second), float64(longest)))
}
