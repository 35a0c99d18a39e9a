package faults

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
)

// C7, C8: with workers that send, rules that change and a Close in the middle,
// each message for which Send returned nil was accepted by the Client in the end,
// or refused, or lost; and who lost one was told. For the race detector.
func TestSenderAccounts(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	s := newStore(t, 1)
	s.resolver.Set(2, peer.Addr())
	var accepted atomic.Uint64
	var workers, changes sync.WaitGroup
	stop := make(chan struct{})
	for worker := range uint64(3) {
		workers.Go(func() {
			sender := s.rules.NewSender(s.client, s.router)
			defer sender.Close()
			for range 500 {
				if sender.Send(rig.Append(worker, 2, 100+worker, 1, 10)) == nil {
					accepted.Add(1)
				}
				sender.Flush()
				time.Sleep(10 * time.Microsecond)
			}
		})
	}
	changes.Go(func() {
		for i := 0; ; i++ {
			texts := [][]string{{"reorder 50% 2ms"}, {"delay 1ms", "drop 10%"}, {"delay 1h 1%", "isolate 2 5%"}, nil}
			if err := s.rules.Set(texts[i%len(texts)]...); err != nil {
				t.Error(err)
			}
			if i == 30 {
				s.rules.Close()
			}
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	})
	workers.Wait()
	close(stop)
	changes.Wait()
	s.close(t)
	stats := s.rules.Stats()
	if stats.Waiting != 0 || stats.WaitingBytes != 0 || stats.Waited != stats.Delivered+stats.Refused+stats.Lost {
		t.Errorf("%+v", stats)
	}
	var reached uint64
	for _, store := range s.client.Stores() {
		for _, c := range store.Connections {
			reached += c.Ledger.Accepted
		}
	}
	if want := accepted.Load() - stats.Waited + stats.Delivered; reached != want {
		t.Errorf("the Client accepted %d, not %d; %+v", reached, want, stats)
	}
	if told := s.router.Events().Total(rig.Unreachable); stats.Refused+stats.Lost > 0 && told == 0 {
		t.Errorf("nobody was told: %+v", stats)
	}
}
