package snapshot

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// How far a transfer is, how fast, and how long it will take at that rate, of
// which what an earlier one had moved is no part.
func TestProgressOfATransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transfer := newTransfer(description{size: unknownSize}, Sending, nil)
		if p := transfer.progress(); p.Phase != Starting || p.Total != -1 || p.Rate != 0 || p.Left >= 0 {
			t.Errorf("at the start: %+v", p)
		}
		transfer.total.Store(1000)
		transfer.resume(300)
		transfer.enter(Moving)
		time.Sleep(4 * time.Second)
		transfer.done.Add(200)
		p := transfer.progress()
		if p.Phase != Moving || p.Resumed != 300 || p.Done != 500 || p.Total != 1000 || p.Rate != 50 || p.Left != 10*time.Second {
			t.Errorf("half-way: %+v", p)
		}
		if still := transfer.still(); still != 4*time.Second {
			t.Errorf("nothing has moved for %v", still)
		}
	})
}

// C9: how long a transfer may take grows with its size.
func TestC9AllowanceGrowsWithSize(t *testing.T) {
	for size, want := range map[int64]time.Duration{
		0:          time.Minute,
		1 << 20:    time.Minute + time.Second,
		1 << 30:    time.Minute + 1024*time.Second,
		300 << 30:  time.Minute + 300*1024*time.Second,
		1<<20 + 50: time.Minute + time.Second + 50*time.Second/(1<<20),
	} {
		o := &outgoing{
			sender:   &Sender{options: SenderOptions{MinRate: DefaultMinRate, Grace: DefaultGrace}},
			transfer: newTransfer(description{size: size}, Sending, nil),
		}
		if got := o.allowance(); (got - want).Abs() > time.Millisecond {
			t.Errorf("%d bytes may take %v, want %v", size, got, want)
		}
	}
}

// What would be more years than a time.Duration has is the most of them, and not
// none: neither is a transfer cut for it, nor is it said to be over soon.
func TestTimesDontOverflow(t *testing.T) {
	const century = 100 * 365 * 24 * time.Hour
	for _, size := range []int64{10 << 30, 1 << 50, math.MaxInt64} {
		o := &outgoing{
			sender:   &Sender{options: SenderOptions{MinRate: 1, Grace: 24 * time.Hour}},
			transfer: newTransfer(description{size: size}, Sending, nil),
		}
		if got := o.allowance(); got < century {
			t.Errorf("%d bytes may take %v", size, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		transfer := newTransfer(description{size: math.MaxInt64}, Sending, nil)
		time.Sleep(time.Second)
		transfer.done.Add(1)
		if left := transfer.progress().Left; left < century {
			t.Errorf("at a byte in a second %v are left", left)
		}
	})
}
