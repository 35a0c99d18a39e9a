package snapshot

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

const (
	// chunkSize is the size of a data chunk, TiKV's.
	chunkSize = 1 << 20
	// minChunkSize is that of a sender that is held back to a low rate: its
	// receiver should still see something move.
	minChunkSize = 64 << 10
	// plainPerSecond is how many chunks a second a limited sender aims at, at
	// least.
	plainPerSecond = 32
	// evenPerSecond is the same if the receiver is a raftmux store. It takes both
	// stores' processors little by little, for others wait while a chunk is copied
	// and summed: with 100 chunks of 1 MiB a second the p99 of heartbeats is more than
	// three times what it is without a snapshot, with 800 smaller ones less than twice.
	evenPerSecond = 800
)

// Limiter bounds the bytes per second of all Senders that share it, so give one
// to all of a process. It may change at any time, and is safe for concurrent use.
type Limiter struct{ rate *rate.Limiter }

// NewLimiter returns a Limiter of so many bytes per second; 0 is without a limit.
func NewLimiter(bytesPerSecond int64) *Limiter {
	return &Limiter{rate: rate.NewLimiter(toLimit(bytesPerSecond), chunkSize)}
}

// SetRate changes the limit, also for transfers under way; 0 lifts it.
func (l *Limiter) SetRate(bytesPerSecond int64) { l.rate.SetLimit(toLimit(bytesPerSecond)) }

func toLimit(bytesPerSecond int64) rate.Limit {
	if bytesPerSecond <= 0 {
		return rate.Inf
	}
	return rate.Limit(bytesPerSecond)
}

// chunk returns how much to send at once, if it is to be so many times a second.
func (l *Limiter) chunk(perSecond rate.Limit) int {
	size := l.rate.Limit() / perSecond // may be infinite
	return int(min(chunkSize, max(minChunkSize, size)))
}

// stepsPerSecond is how often, about, a transfer that waits looks for a new limit.
const stepsPerSecond = 10

// wait waits until n bytes may leave, and returns how long that took. It waits
// in steps of a tenth of a second, so that a new limit is soon felt. It fails only
// when the context has ended, with its cause: a limit that leaves no hope before
// the deadline may be lifted.
func (l *Limiter) wait(ctx context.Context, n int) (time.Duration, error) {
	if l.rate.Limit() == rate.Inf {
		return 0, context.Cause(ctx)
	}
	start := time.Now()
	for n > 0 {
		step := int(min(rate.Limit(n), max(1, l.rate.Limit()/stepsPerSecond)))
		if l.rate.WaitN(ctx, step) == nil {
			n -= step
			continue
		}
		// Either it is over, or WaitN foresees that it will be, and hasn't waited.
		select {
		case <-ctx.Done():
			return time.Since(start), context.Cause(ctx)
		case <-time.After(time.Second / stepsPerSecond):
		}
	}
	return time.Since(start), nil
}
