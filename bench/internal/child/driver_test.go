package child

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux/bench/internal/load"
)

// slowWorker is held up by its first message, and keeps the stamps.
type slowWorker struct {
	hold   time.Duration
	stamps []int64
	stop   *atomic.Bool // set behind so many messages
	after  int
}

func (w *slowWorker) Send(int) bool {
	time.Sleep(w.hold)
	w.hold = 0
	if len(w.stamps) == w.after {
		w.stop.Store(true)
	}
	return true
}

func (*slowWorker) Flush() int { return 0 }

func (*slowWorker) Close() {}

func (w *slowWorker) Stamp(_ int, unixNano int64) { w.stamps = append(w.stamps, unixNano) }

// Messages that are sent late, since the transport took its time for those before
// them, have the time at which they were due.
func TestLateMessagesHaveTheTimeTheyWereDue(t *testing.T) {
	const interval, hold = time.Millisecond, 30 * time.Millisecond
	alarm, err := newAlarm()
	must(t, err)
	var stop atomic.Bool
	worker := &slowWorker{hold: hold, stop: &stop, after: 20}
	d := &driver{worker: worker, alarm: alarm, plan: load.Plan{Stores: 1, Ring: 8, PerFlush: 1}}
	began := time.Now().UnixNano()
	d.pace(&stop, interval)
	must(t, d.close())
	for i := 1; i < len(worker.stamps)-1; i++ {
		if apart := time.Duration(worker.stamps[i+1] - worker.stamps[i]); apart != interval {
			t.Errorf("stamps %d and %d are %v apart, want %v", i, i+1, apart, interval)
		}
	}
	if first := time.Duration(worker.stamps[1] - began); first >= hold {
		t.Errorf("the message behind the slow one has a time %v after the beginning", first)
	}
}
