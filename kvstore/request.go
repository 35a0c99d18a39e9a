package kvstore

import (
	"errors"
	"fmt"
	"time"
)

// ErrTryAgain is wrapped by the error of a request that found no leader or got
// no answer in time. The text says whether a write may still happen.
var ErrTryAgain = errors.New("TRYAGAIN")

// answer is how a request ended.
type answer struct {
	// value is what a read found, nil if there is nothing.
	value []byte
	// existed says whether the key of a write was there before.
	existed bool
	// peer is the one that a membership change was about.
	peer uint64
	err  error
}

// request is one write or linearizable read of one key, or one change of a
// region, from the moment that somebody hands it to a worker until done gets its
// answer.
type request struct {
	op       operation // 0 for a read
	region   uint64
	key      []byte
	value    []byte
	change   peerChange // of opChange
	deadline time.Time
	// done has room for the one answer, so that the worker never waits.
	done chan answer

	// What follows is the worker's.

	sequence uint64    // of a write
	retryAt  time.Time // when it is sent once more
	backoff  time.Duration
	proposed bool // whether a write was ever handed to Raft
	finished bool
}

// finish answers the request, the first time that it is called.
func (r *request) finish(a answer) {
	if !r.finished {
		r.finished = true
		r.done <- a
	}
}

// expired is the answer to a request that is out of time.
func (r *request) expired() error {
	switch {
	case r.op == 0:
		return fmt.Errorf("%w region %d did not answer in time", ErrTryAgain, r.region)
	case r.op == opChange:
		return fmt.Errorf("%w region %d did not carry out the change in time, it may still do so", ErrTryAgain, r.region)
	case r.proposed:
		return fmt.Errorf("%w region %d did not answer in time, the outcome of the write is unknown", ErrTryAgain, r.region)
	default:
		return fmt.Errorf("%w region %d has no leader, nothing was written", ErrTryAgain, r.region)
	}
}
