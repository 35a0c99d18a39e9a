package raftmux_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C8: a clearing reports each peer once, however many messages it had, and again
// when the host says "not now".
func TestC8OncePerClearing(t *testing.T) {
	t.Run("taken", func(t *testing.T) { testC8OncePerClearing(t, 0) })
	t.Run("not now", func(t *testing.T) { testC8OncePerClearing(t, 3) })
}

func testC8OncePerClearing(t *testing.T, refused int) {
	c := newPropClient(t, "", propConnections(1))
	release := c.resolver.Block(2)
	c.resolver.FailOnce(2, errors.New("the resolver is away"))
	c.router.Refuse(rig.Unreachable, refused)
	for range 10 {
		c.mustSend(t, rig.Append(1, 2, 3, 1, 10), rig.Ack(1, 2, 3), rig.Ack(1, 2, 4))
	}
	c.sender.Flush()
	c.mustSend(t, rig.Ack(2, 2, 3))
	release()
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Total(rig.Unreachable) == 3 }, "three reports")
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	e := c.router.Events()
	if e.Unreachable(1, 3) != 1 || e.Unreachable(1, 4) != 1 || e.Unreachable(2, 3) != 1 || e.Refused(rig.Unreachable) != refused {
		t.Errorf("%+v", e)
	}
	if ledger := c.ledger(); ledger.Dropped["resolve"] != 31 {
		t.Errorf("%+v", ledger)
	}
}

// C8: what nobody takes is asked for once more at Close, and returned by it.
func TestC8UntakenReportsAreReturned(t *testing.T) {
	c := newPropClient(t, rig.DeadAddress(t))
	c.router.Refuse(rig.Unreachable, math.MaxInt)
	c.sendFlush(t, rig.Ack(1, 2, 3), rig.Ack(1, 2, 4))
	rig.Eventually(t, rig.WaitTimeout, func() bool { return c.router.Events().Refused(rig.Unreachable) >= 4 }, "it is asked again")
	var untaken *raftmux.UntakenError
	if err := c.close(rig.WaitTimeout); !errors.As(err, &untaken) || len(untaken.Unreachable) != 2 || len(untaken.Snapshots) != 0 {
		t.Errorf("Close: %v", err)
	}
}

// propSnapshotSender is a SnapshotSender from a function.
type propSnapshotSender func(ctx context.Context) error

func (f propSnapshotSender) SendSnapshot(ctx context.Context, _ string, _ *raft_serverpb.RaftMessage) error {
	return f(ctx)
}

// C9: whatever becomes of a snapshot, it ends in one status.
func TestC9EveryEndOfASnapshot(t *testing.T) {
	const finish, failure = raftmux.SnapshotFinish, raftmux.SnapshotFailure
	untilCancelled := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	for name, test := range map[string]struct {
		send    func(ctx context.Context) error // nil for no sender
		resolve error
		block   bool                          // the look-up
		before  func(*propClient, *testing.T) // after the send
		want    []raftmux.SnapshotStatus
	}{
		"sent":            {send: func(context.Context) error { return nil }, want: []raftmux.SnapshotStatus{finish}},
		"broken":          {send: func(context.Context) error { return errPropBroken }, want: []raftmux.SnapshotStatus{failure}},
		"no sender":       {want: []raftmux.SnapshotStatus{failure}},
		"no address":      {send: untilCancelled, resolve: errPropBroken, want: []raftmux.SnapshotStatus{failure}},
		"tombstone":       {send: untilCancelled, resolve: raftmux.ErrTombstone, want: []raftmux.SnapshotStatus{failure}},
		"not found":       {send: untilCancelled, resolve: raftmux.ErrStoreNotFound, want: []raftmux.SnapshotStatus{failure}},
		"stalled, closed": {send: untilCancelled, want: []raftmux.SnapshotStatus{failure}},
		"stalled, removed": {
			send:   untilCancelled,
			before: func(c *propClient, _ *testing.T) { c.RemoveStore(2) },
			want:   []raftmux.SnapshotStatus{failure},
		},
		"busy": {
			send: untilCancelled,
			before: func(c *propClient, t *testing.T) {
				c.mustSend(t, rig.Snapshot(1, 2, 3, 10))
				c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return len(e.Snapshots(1, 3)) == 1 }, "the second is refused")
			},
			want: []raftmux.SnapshotStatus{failure, failure},
		},
		"resolving, closed": {send: untilCancelled, block: true, want: []raftmux.SnapshotStatus{failure}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPropClient(t, rig.DeadAddress(t), func(o *raftmux.ClientOptions) {
				o.MaxSnapshots = 1
				if test.send != nil {
					o.SnapshotSender = propSnapshotSender(test.send)
				}
			})
			if test.resolve != nil {
				c.resolver.SetError(2, test.resolve)
			}
			if test.block {
				t.Cleanup(c.resolver.Block(2))
			}
			c.router.Refuse(rig.SnapshotStatus, 1)
			c.mustSend(t, rig.Snapshot(1, 2, 3, 10))
			if test.before != nil {
				test.before(c, t)
			}
			if name == "stalled, closed" || name == "resolving, closed" || name == "busy" {
				_ = c.close(10 * time.Millisecond)
			}
			c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return len(e.Snapshots(1, 3)) >= len(test.want) }, "the status")
			if err := c.close(rig.WaitTimeout); err != nil {
				t.Errorf("Close: %v", err)
			}
			e := c.router.Events()
			if got := e.Snapshots(1, 3); !slices.Equal(got, test.want) || e.Refused(rig.SnapshotStatus) != 1 {
				t.Errorf("statuses %v after %d refused", got, e.Refused(rig.SnapshotStatus))
			}
			if e.Unreachable(1, 3) != 0 {
				t.Error("a snapshot was reported as unreachable")
			}
			if status, known := c.Store(2); known {
				if l := status.Snapshots; l.Queued != 0 || l.Accepted != l.Sent+l.DroppedTotal() {
					t.Errorf("ledger %+v", l)
				}
			}
		})
	}
}

// C9: a status that nobody takes is returned by Close, which asks once more.
func TestC9UntakenStatusesAreReturned(t *testing.T) {
	c := newPropClient(t, rig.DeadAddress(t))
	c.router.Refuse(rig.SnapshotStatus, math.MaxInt)
	c.mustSend(t, rig.Snapshot(1, 2, 3, 10), rig.Snapshot(1, 2, 3, 10), rig.Snapshot(4, 2, 5, 10))
	var untaken *raftmux.UntakenError
	if err := c.close(rig.WaitTimeout); !errors.As(err, &untaken) || len(untaken.Snapshots) != 3 {
		t.Fatalf("Close: %v", err)
	}
	if outcome := untaken.Snapshots[0]; outcome.RegionID != 1 || outcome.PeerID != 3 || outcome.Status != raftmux.SnapshotFailure {
		t.Errorf("%+v", outcome)
	}
}

// C8, C9, C11: senders that race with Close and RemoveStore lose no report: what
// is accepted is sent, or reported before Close returns; nothing comes after.
func TestC11NothingIsReportedAfterClose(t *testing.T) {
	for round := range 30 {
		c := newPropClient(t, rig.DeadAddress(t), propStep(time.Millisecond), propConnections(2))
		type count struct{ messages, snapshots int }
		counts := make(chan count)
		const workers = 4
		for worker := range uint64(workers) {
			go func() {
				var n count
				defer func() { counts <- n }()
				sender := c.NewSender()
				defer sender.Close()
				for peer := uint64(1); ; peer++ {
					errMessage := sender.Send(rig.Ack(worker+1, 2, peer))
					errSnapshot := sender.Send(rig.Snapshot(worker+100, 2, peer, 1))
					if errMessage == nil {
						n.messages++
					}
					if errSnapshot == nil {
						n.snapshots++
					}
					if peer%10 == 0 {
						sender.Flush()
						if worker == 0 {
							c.RemoveStore(2)
						}
					}
					if errors.Is(errMessage, raftmux.ErrDisconnected) && errors.Is(errSnapshot, raftmux.ErrDisconnected) {
						return
					}
				}
			}()
		}
		c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Total(rig.Unreachable) >= 10*round }, "some reports")
		if err := c.close(time.Duration(round%2) * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		var all count
		for range workers {
			n := <-counts
			all.messages += n.messages
			all.snapshots += n.snapshots
		}
		e := c.router.Events()
		if e.Total(rig.Unreachable) != all.messages || e.Total(rig.SnapshotStatus) != all.snapshots || len(e.Late()) != 0 {
			t.Fatalf("round %d: %+v were accepted, %d and %d reported, %d late", round, all,
				e.Total(rig.Unreachable), e.Total(rig.SnapshotStatus), len(e.Late()))
		}
	}
}
