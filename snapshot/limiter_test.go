package snapshot_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// The rate may be changed while a transfer waits for it.
func TestLimiterChanges(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 4 << 20
	want := random(1, size)
	limiter := snapshot.NewLimiter(1000) // after a burst of 1 MiB: more than an hour
	sender := newSender(t, memory{7: want}, func(o *snapshot.SenderOptions) {
		o.Limiter = limiter
		// Time spent waiting for the limiter is not held against the transfer.
		o.StallTimeout, o.Grace, o.MinRate = 2*time.Second, 2*time.Second, 1<<30
	})
	result := make(chan error, 1)
	go func() { result <- sender.SendSnapshot(context.Background(), s.address, message(7, size)) }()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		list := sender.Transfers()
		return len(list) == 1 && list[0].Done >= 1<<20-64<<10
	}, "the burst has moved")
	limiter.SetRate(0)
	if err := <-result; err != nil {
		t.Error(err)
	}
	s.expect(t, 7, want)
}

// A transfer that waits for the limiter notices all the same that its receiver has
// ended the stream.
func TestLimitedSenderNoticesTheEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 4 << 20
	sender := newSender(t, memory{7: random(1, size)}, func(o *snapshot.SenderOptions) {
		o.Limiter = snapshot.NewLimiter(1) // after a burst of 1 MiB: weeks
	})
	result := make(chan error, 1)
	go func() { result <- sender.SendSnapshot(context.Background(), s.address, message(7, size)) }()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		list := s.Transfers()
		return len(list) == 1 && list[0].Done > 0
	}, "the burst has come")
	s.Cancel(7)
	select {
	case err := <-result:
		if err == nil || !strings.Contains(err.Error(), "cancelled") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(rig.WaitTimeout):
		t.Fatal("it still waits for the limiter")
	}
}

// A deadline doesn't lift the limit: a transfer that it is too short for ends with it.
func TestLimiterAndDeadline(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 4 << 20
	sender := newSender(t, memory{7: random(1, size)}, func(o *snapshot.SenderOptions) {
		o.Limiter = snapshot.NewLimiter(1) // after a burst of 1 MiB: weeks
	})
	// Behind the burst the next byte would take a second.
	ctx, cancel := context.WithTimeout(context.Background(), 900*time.Millisecond)
	defer cancel()
	if err := sender.SendSnapshot(ctx, s.address, message(7, size)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	s.quiet(t)
	if len(s.host.of(7)) != 0 {
		t.Error("it was sent faster than it may be")
	}
}
