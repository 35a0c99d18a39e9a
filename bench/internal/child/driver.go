package child

import (
	"sync/atomic"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/load"
)

// A worker waits for that long when there is no room for a message, and for twice
// as long each time that there still is none: to try costs something, and no
// transport's queue runs dry in the longest wait.
const (
	firstWait = 50 * time.Microsecond
	lastWait  = 400 * time.Microsecond
)

// driver is one sending goroutine. A round of it is what is sent between two
// flushes.
type driver struct {
	worker   arm.Worker
	alarm    *alarm
	plan     load.Plan
	next     int // message of the ring
	accepted uint64
	refused  uint64
}

// flood runs rounds as fast as there is room for them.
func (d *driver) flood(stop *atomic.Bool) {
	for !stop.Load() {
		d.round(stop, nil, time.Time{})
	}
}

// pace begins a round per interval, with the time in its messages. What a late
// round missed is caught up, and its messages have the time at which they were due:
// they waited for those before them, and a transport that holds its worker up would
// else be timed less often.
func (d *driver) pace(stop *atomic.Bool, interval time.Duration) {
	stamper, _ := d.worker.(arm.Stamper)
	for due := time.Now(); !stop.Load(); due = due.Add(interval) {
		began := due
		if early := time.Until(due); early > 0 {
			d.alarm.sleep(early)
			began = time.Now() // how exactly the alarm wakes is no transport's doing
		}
		d.round(stop, stamper, began)
	}
}

// round has a stamper, which may be nil, put the time into messages.
func (d *driver) round(stop *atomic.Bool, stamper arm.Stamper, began time.Time) {
	wait := firstWait
	for sent := 0; sent < d.plan.PerFlush*d.plan.Stores; {
		if stamper != nil {
			stamper.Stamp(d.next, began.UnixNano())
		}
		if d.worker.Send(d.next) {
			d.next = (d.next + 1) % d.plan.Ring
			d.accepted++
			sent++
			wait = firstWait
			continue
		}
		d.refused++
		d.flush()
		if stop.Load() {
			return
		}
		d.alarm.sleep(wait)
		wait = min(2*wait, lastWait)
	}
	if d.flush() > 0 && !stop.Load() {
		d.alarm.sleep(lastWait / 2)
	}
}

func (d *driver) flush() (refused int) {
	refused = d.worker.Flush()
	d.accepted -= uint64(refused)
	d.refused += uint64(refused)
	return refused
}

// close ends the worker.
func (d *driver) close() error {
	d.worker.Close()
	return d.alarm.Close()
}
