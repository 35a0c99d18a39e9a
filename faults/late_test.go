package faults

import (
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
)

// C8: a host that said "not now" is left alone for a while, whatever else comes late.
func TestBusyHostIsNotFlooded(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, "delay 1ms", "drop region=7")
	s.router.Refuse(rig.Unreachable, 1<<30)
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	began := time.Now()
	sendAll(t, sender, appends(1)...)
	for i := range uint64(100) {
		sendAll(t, sender, rig.Heartbeat(8, 2, 82))
		rig.Eventually(t, rig.WaitTimeout, func() bool { return s.rules.Stats().Delivered == i+1 }, "a heartbeat")
	}
	asked := 0
	for _, event := range s.router.Events() {
		if event.Region == 7 { // the Client has reports of its own, of the other
			asked++
		}
	}
	if most := 2 + int(time.Since(began)/reportPause); asked == 0 || asked > most {
		t.Errorf("asked %d times, not %d", asked, most)
	}
	s.router.Refuse(rig.Unreachable, 0)
}

// A Sender without a Router tells nobody.
func TestSenderWithoutRouter(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, "delay 1ms region=7", "delay 1h region=8", "drop region=7")
	sender := s.rules.NewSender(s.client, nil)
	defer sender.Close()
	sendAll(t, sender, appends(1)...)
	sendAll(t, sender, rig.Heartbeat(8, 2, 82))
	rig.Eventually(t, rig.WaitTimeout, func() bool { return s.rules.Stats().Refused == 1 }, "the append")
	s.rules.Close()
	if stats := s.rules.Stats(); stats != (Stats{Dropped: 1, Waited: 2, Refused: 1, Lost: 1}) {
		t.Errorf("%+v", stats)
	}
}
