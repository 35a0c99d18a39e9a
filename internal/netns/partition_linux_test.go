package netns

import (
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
)

// C10, C15: a real partition is found in time, reported once, and survived.
func TestPartition(t *testing.T) {
	Needs(t, "ip")
	for _, cut := range []struct {
		name   string
		breaks func(there *Namespace, t testing.TB) (heal func())
	}{
		{"the cable is pulled", (*Namespace).Down},
		{"the answers are lost", func(there *Namespace, t testing.TB) func() { return there.Blackhole(t, HereIP) }},
	} {
		for _, traffic := range []struct {
			name  string
			pause time.Duration // between messages; 0 is without
			bound time.Duration
		}{
			// gRPC pings 10 s after the last sign of life, and waits for 3 s.
			{"while idle", 0, 20 * time.Second},
			// TCP gives up when nothing was acknowledged for 3 s, and a bit on a busy machine.
			{"under traffic", 20 * time.Millisecond, 15 * time.Second},
		} {
			t.Run(cut.name+" "+traffic.name, func(t *testing.T) {
				t.Parallel()
				here, there := NewCable(t)
				s := newStores(t, here, there, ThereIP)
				sender := s.NewSender()
				region := uint64(1)
				goesThrough := func() bool {
					sendBoth(t, sender, region)
					time.Sleep(20 * time.Millisecond)
					return s.host.received(region) >= 2
				}
				rig.Eventually(t, rig.WaitTimeout, goesThrough, "messages flow")

				heal := cut.breaks(there, t)
				began := time.Now()
				down := func() int { return s.router.Events().StoreUnreachable(2) }
				for found := false; !found; found = down() > 0 {
					if time.Since(began) > traffic.bound {
						t.Fatalf("the partition wasn't found within %v", traffic.bound)
					}
					if traffic.pause > 0 {
						sendBoth(t, sender, 2)
					}
					time.Sleep(max(traffic.pause, 5*time.Millisecond))
				}
				t.Logf("found after %v", time.Since(began).Round(time.Millisecond))
				for still := time.Now(); time.Since(still) < 4*time.Second; time.Sleep(20 * time.Millisecond) {
					sendBoth(t, sender, 2) // what doesn't leave is dropped, and reported by region
				}
				if n := down(); n != 1 {
					t.Errorf("reported %d times, want once", n)
				}

				heal()
				began, region = time.Now(), 3
				rig.Eventually(t, rig.WaitTimeout, goesThrough, "messages flow again")
				t.Logf("flows again %v after healing", time.Since(began).Round(time.Millisecond))
				s.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(2) == 2 }, "the store is up again")
				if n := down(); n != 1 {
					t.Errorf("reported %d times in all, want once", n)
				}
			})
		}
	}
}
