package child

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// CarryArgs are Carry's. A Rate of 0 is as fast as it goes.
type CarryArgs struct {
	Path  string
	Rate  int64 // bytes a second
	Times int   // how often it is sent at once; 0 is once
}

// Carry sends a file, and returns how long it took until it was synced at the
// other end, as often as it was sent.
func (h *Half) Carry(args CarryArgs, took *time.Duration) error {
	carrier, ok := h.sender.(arm.Carrier)
	if !ok {
		return errors.New("child: this sender carries no files")
	}
	began := time.Now()
	all, ctx := errgroup.WithContext(context.Background())
	for range max(args.Times, 1) {
		all.Go(func() error { return carrier.Carry(ctx, args.Path, args.Rate) })
	}
	err := all.Wait()
	*took = time.Since(began)
	return err
}

// beatInterval is how far apart heartbeats are that are timed beside something else.
const beatInterval = time.Millisecond

// BeatsArgs are Beats'.
type BeatsArgs struct {
	Duration time.Duration
	Beside   *CarryArgs // what is sent meanwhile, again and again; nil for nothing
}

// Beats sends a message and waits for the answer, once a millisecond, and returns
// the median, p99 and p99.9 of their round trips.
func (h *Half) Beats(args BeatsArgs, found *[]time.Duration) error {
	if args.Beside == nil {
		trips, err := h.beat(args.Duration)
		if err != nil {
			return err
		}
		*found = quantiles(trips)
		return nil
	}
	carrier, ok := h.sender.(arm.Carrier)
	if !ok {
		return errors.New("child: this sender carries no files")
	}
	ctx, cancel := context.WithCancel(context.Background())
	carried := make(chan error, 1)
	go func() {
		for {
			err := carrier.Carry(ctx, args.Beside.Path, args.Beside.Rate)
			if err != nil && ctx.Err() != nil {
				err = nil // it is over
			}
			if err != nil || ctx.Err() != nil {
				carried <- err
				return
			}
		}
	}()
	trips, err := h.beat(args.Duration)
	cancel()
	if err := errors.Join(err, <-carried); err != nil {
		return err
	}
	*found = quantiles(trips)
	return nil
}

func (h *Half) beat(duration time.Duration) (trips []time.Duration, err error) {
	pinger, ok := h.sender.(arm.Pinger)
	if !ok {
		return nil, errors.New("child: this sender sends no pings")
	}
	alarm, err := newAlarm()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, alarm.Close()) }()
	for end := time.Now().Add(duration); len(trips) == 0 || time.Now().Before(end); {
		began := time.Now()
		if err := pinger.Ping(); err != nil {
			return nil, err
		}
		// The heartbeats of the milliseconds that it took would have waited for the rest.
		for trip := time.Since(began); trip > 0; trip -= beatInterval {
			trips = append(trips, trip)
		}
		alarm.sleep(beatInterval)
	}
	return trips, nil
}

// ResetPeak makes this process's memory of now the peak, and returns it.
func (h *Half) ResetPeak(_ None, now *uint64) (err error) {
	*now, err = measure.ResetPeak()
	return err
}

// Peak returns the most memory that was resident since ResetPeak.
func (h *Half) Peak(_ None, peak *uint64) (err error) {
	*peak, err = measure.Peak()
	return err
}
