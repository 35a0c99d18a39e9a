package report

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// C9: Close asks once more for everything that the host refused.
func TestC9CloseAsksOnceMore(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(refuseAll)
		r.Snapshot(finish(1, 2))
		r.Unreachable([]Peer{peer(1, 2)})
		r.StoreUnreachable(4)
		synctest.Wait()
		h.take()
		h.refuses(nil)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		h.expect(t, "down 4", "finish 1/2", "unreachable 1/2")
	})
}

// C9: and then returns what nobody took, in the order in which it came, with
// what came too late to be asked for.
func TestC9CloseReturnsUntaken(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		late := false
		h.refuses(func(call string) bool {
			if late {
				late = false
				r.Snapshot(failure(9, 9))
				r.Unreachable([]Peer{peer(3, 3)})
			}
			return !strings.HasSuffix(call, "/5")
		})
		r.Snapshot(finish(1, 2))
		r.Snapshot(finish(2, 5))
		r.Unreachable([]Peer{peer(3, 3), peer(4, 4), peer(5, 5)})
		synctest.Wait()
		r.Snapshot(failure(1, 2))
		r.Snapshot(failure(1, 3))
		synctest.Wait()
		h.take()
		late = true
		err := r.Close()
		took, asked := h.take()
		slices.Sort(asked)
		// The second status of peer 1/2 has to wait for the first.
		if want := []string{"failure 1/3", "finish 1/2", "unreachable 3/3", "unreachable 4/4"}; !slices.Equal(asked, want) || len(took) > 0 {
			t.Errorf("asked %q", asked)
		}
		var untaken *UntakenError
		if !errors.As(err, &untaken) {
			t.Fatalf("close: %v", err)
		}
		if want := []Outcome{finish(1, 2), failure(1, 2), failure(1, 3), failure(9, 9)}; !slices.Equal(untaken.Snapshots, want) {
			t.Errorf("snapshots %v, not %v", untaken.Snapshots, want)
		}
		if want := []Peer{peer(3, 3), peer(4, 4)}; !slices.Equal(untaken.Unreachable, want) {
			t.Errorf("unreachable %v, not %v", untaken.Unreachable, want)
		}
		if !strings.Contains(err.Error(), "4 snapshot statuses and 2 unreachable reports") {
			t.Error(err)
		}
	})
}

// C9: Close tells what was never asked, though it comes right behind the report.
func TestC9ReportThenClose(t *testing.T) {
	for range 200 {
		h := new(host)
		r := New(h)
		r.Snapshot(finish(1, 2))
		r.Unreachable([]Peer{peer(3, 4)})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if took, _ := h.take(); !slices.Equal(took, []string{"finish 1/2", "unreachable 3/4"}) {
			t.Fatalf("the host took %q", took)
		}
	}
}

// C11: no callback runs once Close has returned, whatever waits or comes.
func TestC11NothingAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(refuseAll)
		r.Snapshot(finish(1, 2))
		r.StoreUp(3)
		if err := r.Close(); err == nil {
			t.Error("all was taken")
		}
		h.take()
		r.Snapshot(finish(1, 2))
		r.Unreachable([]Peer{peer(1, 2)})
		r.StoreUnreachable(3)
		time.Sleep(time.Minute)
		if _, asked := h.take(); len(asked) > 0 {
			t.Errorf("asked %q", asked)
		}
	})
}

// C11: Close waits for the callback that runs.
func TestC11CloseWaits(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		var over atomic.Bool
		h.refuses(func(string) bool {
			time.Sleep(time.Second)
			over.Store(true)
			return false
		})
		r.StoreUp(1)
		synctest.Wait()
		if err := r.Close(); err != nil || !over.Load() {
			t.Errorf("closed with %v, the callback is over: %v", err, over.Load())
		}
	})
}

// C11, C24: Close from ten goroutines at once, while others report: all return
// the same, and none before the last callback.
func TestC11ConcurrentClose(t *testing.T) {
	for round := range 100 {
		var closed atomic.Bool
		h := new(host)
		h.refuses(func(call string) bool {
			if closed.Load() {
				t.Errorf("%s after close", call)
			}
			return round%2 == 0
		})
		r := New(h)
		r.Snapshot(failure(7, 7))
		var reporters, closers sync.WaitGroup
		for id := range uint64(4) {
			reporters.Go(func() {
				for range 20 {
					r.Unreachable([]Peer{peer(id, 1)})
					r.Snapshot(finish(id, 1))
					r.StoreUp(id)
				}
			})
		}
		errs := make([]error, 10)
		for i := range errs {
			closers.Go(func() {
				errs[i] = r.Close()
				closed.Store(true)
			})
		}
		closers.Wait()
		reporters.Wait()
		for _, err := range append(errs, r.Close()) {
			if err != errs[0] {
				t.Errorf("round %d: close: %v and %v", round, err, errs[0])
			}
		}
		if round%2 == 0 && errs[0] == nil {
			t.Errorf("round %d: all was taken", round)
		}
	}
}
