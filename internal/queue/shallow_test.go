package queue

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A message that is flushed by itself has a chunk of its own if it isn't mergeable,
// and so comes back by itself.
const (
	shallowMessage = mergeable + 1000
	shallowDeep    = 100 * shallowMessage
	shallowEnough  = 10 * shallowMessage
)

// fillTo fills the queue, which must take so many bytes.
func fillTo(t *testing.T, s *Stage, want int) {
	t.Helper()
	bytes := 0
	for ; pushZeros(s, shallowMessage) == nil; bytes += shallowMessage {
		s.Flush()
	}
	wantFull(t, s, shallowMessage)
	if bytes != want {
		t.Fatalf("%d bytes were taken, not %d", bytes, want)
	}
}

// filled returns a queue that is full of appends, and the stage that they came by.
func filled(t *testing.T) (*Queue, *Stage) {
	t.Helper()
	q, _ := newQueue(maxMessages, shallowDeep, shallowAt(shallowEnough))
	s := q.NewStage()
	fillTo(t, s, shallowDeep)
	return q, s
}

// leave takes n messages and lets go of them.
func leave(t *testing.T, q *Queue, n int) {
	t.Helper()
	for range n {
		one := limits
		one.Messages = 1
		batch, ok := q.Take(one)
		if !ok {
			t.Fatal("nothing waits")
		}
		batch.Buffers.Free()
	}
}

func wantFull(t *testing.T, s *Stage, size int) {
	t.Helper()
	if err := pushZeros(s, size); !errors.Is(err, ErrFull) {
		t.Fatalf("push: %v, not %v", err, ErrFull)
	}
}

func wantShallow(t *testing.T, q *Queue, want bool) {
	t.Helper()
	if got := q.Ledger().Shallow; got != want {
		t.Fatalf("the ledger says %v of a queue that is shallow: %v", got, want)
	}
}

// C17: a queue that was full takes nothing more until it is shallow, and stays so
// while more comes than leaves. After a rest it takes a burst again.
func TestC17ShallowAfterFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, s := filled(t)
		for range (shallowDeep - shallowEnough) / shallowMessage {
			wantFull(t, s, smallMessage+1)
			leave(t, q, 1)
		}
		for range 50 { // it stands
			wantFull(t, s, smallMessage+1)
			time.Sleep(shallowPeace / 10)
			leave(t, q, 1)
			fillTo(t, s, shallowMessage)
		}
		leave(t, q, shallowEnough/shallowMessage)
		fillTo(t, s, shallowEnough) // there was no rest
		leave(t, q, shallowEnough/shallowMessage)
		time.Sleep(shallowRest - 1)
		fillTo(t, s, shallowEnough) // nor now
		leave(t, q, shallowEnough/shallowMessage)
		wantShallow(t, q, true)
		time.Sleep(shallowRest)
		wantShallow(t, q, false)
		q.EndGeneration() // gives nothing back
		fillTo(t, s, shallowDeep)
	})
}

// C17: a queue that was full is deep again when it kept up for a while, however
// seldom it is empty.
func TestC17ShallowUntilItKeepsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q, s := filled(t)
		wantShallow(t, q, true)
		leave(t, q, (shallowDeep-shallowMessage)/shallowMessage)
		const pause = shallowRest / 2
		for range shallowPeace / pause { // never empty, and a message now and then
			time.Sleep(pause)
			if err := pushZeros(s, shallowMessage); err != nil {
				t.Fatal(err)
			}
			s.Flush()
			leave(t, q, 1)
		}
		wantShallow(t, q, false)
		fillTo(t, s, shallowDeep-shallowMessage)
		leave(t, q, 1)
		wantFull(t, s, smallMessage+1) // it stands again
	})
}

// C17: answers find room beside the appends that a queue is full of; and a queue that
// is full of answers isn't one that stands.
func TestC17ShallowTakesSmallMessages(t *testing.T) {
	t.Parallel()
	q, _ := newQueue(100, shallowDeep, shallowAt(shallowEnough))
	s := q.NewStage()
	for pushZeros(s, shallowMessage) == nil {
		s.Flush()
	}
	leave(t, q, 50)
	wantFull(t, s, smallMessage+1)
	for range 50 {
		if err := pushZeros(s, smallMessage); err != nil {
			t.Fatal(err)
		}
	}
	wantFull(t, s, smallMessage)

	q, _ = newQueue(100, shallowDeep, shallowAt(shallowEnough))
	s = q.NewStage()
	for pushZeros(s, 10) == nil {
		s.Flush()
	}
	leave(t, q, 90)
	for range 20 {
		if err := pushZeros(s, shallowMessage); err != nil {
			t.Fatal(err)
		}
	}
}

// C17: what counts is what waits before a message, so a large one isn't kept out
// by small ones while a shallow queue has less than enough.
func TestC17ShallowTakesLargeMessages(t *testing.T) {
	t.Parallel()
	q, s := filled(t)
	leave(t, q, (shallowDeep-shallowEnough)/shallowMessage+1)
	if err := pushZeros(s, 5*shallowEnough); err != nil {
		t.Fatal(err)
	}
	wantFull(t, s, smallMessage+1)
}

// C17: a queue that has no more because its store, or the whole Client, has no more
// isn't to stand either; and what was cleared leaves a queue that takes a burst.
func TestC17ShallowByBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(budgetTotal)
		q, _ := newQueue(maxMessages, maxBytes, shallowAt(shallowEnough), func(o *Options) {
			o.Share, o.Minimum = budget.NewShare(maxBytes, 1, budgetMinimum, 0), budgetMinimum
		})
		s := q.NewStage()
		burst := fill(t, s, shallowMessage)
		leave(t, q, burst/shallowMessage/2)
		wantFull(t, s, smallMessage+1)
		q.Clear(ReasonConnect)
		time.Sleep(shallowRest)
		if again := fill(t, s, shallowMessage); again != burst {
			t.Errorf("%d bytes were taken, not %d", again, burst)
		}
	})
}
