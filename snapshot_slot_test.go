package raftmux_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

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
