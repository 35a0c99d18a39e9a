package faults

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// Copies of messages that never come don't count: of a batch that is discarded, of
// what is lost when the Rules close, and of what the Client refuses in the end.
func TestDuplicatesThatDontCome(t *testing.T) {
	for name, end := range map[string]func(*Rules, raftmux.Receiver){
		"discarded": func(_ *Rules, r raftmux.Receiver) { r.Discard() },
		"lost": func(rules *Rules, r raftmux.Receiver) {
			r.Deliver()
			rules.Close()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var host arrivals
			rules := setRules(t, Options{}, "duplicate", "delay 1h MsgAppend")
			r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
			messages := appends(1)
			if name == "discarded" {
				messages = append(messages, rig.Heartbeat(7, 2, 72)) // doesn't wait
			}
			for _, m := range messages {
				body, _ := m.Marshal()
				if _, err := r.Decode(body); err != nil {
					t.Error(err)
				}
			}
			end(rules, r)
			if s := rules.Stats(); s.Duplicated != 0 {
				t.Errorf("%s: %+v", name, s)
			}
		})
	}
	s := newStore(t, 1, "duplicate", "delay 1ms", "drop")
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	sendAll(t, sender, appends(1)...)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return s.rules.Stats().Refused == 1 }, "it is refused")
	if stats := s.rules.Stats(); stats.Duplicated != 0 {
		t.Errorf("refused: %+v", stats)
	}
}

// Delays that add up to more than a Duration are its longest.
func TestDelaysDontOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host arrivals
		rules := setRules(t, Options{}, "delay 2000000h", "delay 2000000h", "reorder 2000000h")
		defer rules.Close()
		r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
		receiveBatch(t, r, appends(1)...)
		time.Sleep(time.Hour)
		synctest.Wait()
		host.want(t, "after an hour")
		if n := rules.Stats().Waiting; n != 1 {
			t.Errorf("%d wait", n)
		}
	})
}
