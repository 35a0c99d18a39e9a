package peer

import (
	"testing"
	"time"
)

// S16, C12: attempt n waits for step x min(n, 5), give or take a fifth, and not
// always the same; after one that lived for longer it waits for a fifth at most.
func TestS16Waits(t *testing.T) {
	const step = time.Second
	spread := make(map[time.Duration]bool)
	for range 200 {
		r := retry{step: step}
		for n := 1; n <= 8; n++ {
			if first := r.failed(time.Millisecond); first != (n == 1) {
				t.Fatalf("failure %d is the first one in a row: %v", n, first)
			}
			wait := step * time.Duration(min(n, 5))
			if r.pause < wait*4/5 || r.pause > wait*6/5 {
				t.Fatalf("failure %d: %v, should be around %v", n, r.pause, wait)
			}
			if n == 1 {
				spread[r.pause] = true
			}
		}
		if !r.failed(6*step) || r.pause > step/5 {
			t.Fatalf("after one that lived for long: %v", r.pause)
		}
		if r.failed(time.Millisecond); r.pause > step*6/5 {
			t.Fatalf("what was before is not forgiven: %v", r.pause)
		}
	}
	if len(spread) < 100 {
		t.Errorf("only %d different waits of 200", len(spread))
	}
}
