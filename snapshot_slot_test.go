package raftmux_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// turns is a Router that hands on how each snapshot ended, and takes the next only
// then.
type turns struct {
	ended chan raftmux.SnapshotStatus
}

func (turns) ReportUnreachable(uint64, uint64) bool { return true }
func (turns) StoreUnreachable(uint64) bool          { return true }
func (turns) StoreUp(uint64) bool                   { return true }

func (r turns) ReportSnapshotStatus(_, _ uint64, status raftmux.SnapshotStatus) bool {
	r.ended <- status
	return true
}

// C9: a host that waits for the end of one snapshot before it sends the next has
// never two under way, whether they end well or not: none of them is one too many.
func TestC9OneSnapshotAfterAnother(t *testing.T) {
	t.Parallel()
	const rounds = 10_000 // the time between an end and its report is short
	for name, test := range map[string]struct {
		err  error
		want raftmux.SnapshotStatus
	}{
		"they succeed": {nil, raftmux.SnapshotFinish},
		"they fail":    {errors.New("broken"), raftmux.SnapshotFailure},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := turns{ended: make(chan raftmux.SnapshotStatus, 1)}
			sender := propSnapshotSender(func(context.Context) error { return test.err })
			h := newSending(t, withSnapshots(sender), func(o *raftmux.ClientOptions) {
				o.Router, o.MaxSnapshots, o.Logger = host, 1, slog.New(slog.DiscardHandler)
				o.BackoffStep = rig.WaitTimeout // one look-up serves all
			})
			h.resolver.Set(there, "here:1")
			s := h.sender(t)
			for range rounds {
				mustSend(t, s, rig.Snapshot(1, there, 2, 10))
				if got := <-host.ended; got != test.want {
					t.Fatalf("a snapshot ended in %v", got)
				}
			}
			if status, _ := h.Store(there); status.Snapshots.Sent != rounds || status.Snapshots.DroppedTotal() != 0 {
				t.Errorf("not all were handed over: %+v", status.Snapshots)
			}
		})
	}
}

// stuckLog is a slog.Handler that holds up who logs until it is released.
type stuckLog struct {
	slog.Handler
	release chan struct{}
	lines   *atomic.Int64
}

func (stuckLog) Enabled(context.Context, slog.Level) bool { return true }

func (l stuckLog) Handle(context.Context, slog.Record) error {
	l.lines.Add(1)
	<-l.release
	return nil
}

// C1, C9, C11: Send doesn't wait for the log when a snapshot is refused, and the
// refusals end in one status each meanwhile. Close waits for what is logged.
func TestC1RefusedSnapshotsDontWaitForTheLog(t *testing.T) {
	t.Parallel()
	busy := propSnapshotSender(func(ctx context.Context) error { <-ctx.Done(); return nil })
	for name, sender := range map[string]raftmux.SnapshotSender{"nobody sends them": nil, "too many": busy} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := stuckLog{slog.DiscardHandler, make(chan struct{}), new(atomic.Int64)}
			release := sync.OnceFunc(func() { close(log.release) })
			h := newSending(t, withSnapshots(sender), func(o *raftmux.ClientOptions) {
				o.Logger, o.MaxSnapshots = slog.New(log), 1
			})
			t.Cleanup(release)
			h.resolver.Set(there, "here:1")
			s := h.sender(t)
			if sender != nil {
				mustSend(t, s, rig.Snapshot(1, there, 2, 10)) // takes the only place
			}
			const refused = 100
			for region := uint64(2); region < 2+refused; region++ {
				mustSend(t, s, rig.Snapshot(region, there, 2, 10)) // one that waited would wait for ever
			}
			h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Total(rig.SnapshotStatus) >= refused }, "the statuses")
			rig.Eventually(t, rig.WaitTimeout, func() bool { return log.lines.Load() == 1 }, "a line in the log")
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				h.close(t)
			}()
			rig.Never(t, 50*time.Millisecond, func() bool {
				select {
				case <-closed:
					return true
				default:
					return false
				}
			}, "Close has left a goroutine behind")
			release()
			<-closed
			for region := uint64(2); region < 2+refused; region++ {
				if got := h.router.Events().Snapshots(region, 2); len(got) != 1 || got[0] != raftmux.SnapshotFailure {
					t.Errorf("region %d: statuses %v", region, got)
				}
			}
		})
	}
}
