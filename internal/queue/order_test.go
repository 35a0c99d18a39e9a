package queue

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/rig"
)

// C5: what a stage accepted leaves in that order: across flushes, full queues,
// chunks of all sizes, cuts of both kinds of batches and lost volatile
// messages, while other stages push too.
func TestC5OrderPerStage(t *testing.T) {
	const workers, each = 4, 3000
	q, _ := newQueue(300, 4<<20, referTo(4<<10))
	var producers sync.WaitGroup
	for w := range uint64(workers) {
		producers.Go(func() {
			s := q.NewStage()
			defer s.Close()
			for i := uint64(1); i <= each; i++ {
				m := rig.Heartbeat(w, 2, i)
				if i%2 == 0 {
					m = appendOf(w, i, rand.IntN(1<<rand.IntN(16)))
				}
				for push(t, s, m) != nil {
					runtime.Gosched()
				}
				if rand.IntN(8) == 0 {
					s.Flush()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		producers.Wait()
		close(done)
	}()
	last := make([]uint64, workers)
	take := func() bool {
		cut := Limits{Messages: 1 + rand.IntN(20), Bytes: rand.IntN(40_000), Age: time.Hour, Bare: rand.IntN(4) == 0}
		batch, ok := q.Take(cut)
		if !ok {
			return false
		}
		for _, m := range decode(t, batch, cut.Bare) {
			if m.ToPeer.Id <= last[m.RegionId] {
				t.Fatalf("worker %d: message %d after %d", m.RegionId, m.ToPeer.Id, last[m.RegionId])
			}
			last[m.RegionId] = m.ToPeer.Id
		}
		return true
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-q.Wake():
		}
		for take() {
			if rand.IntN(100) == 0 {
				q.DropVolatile()
			}
		}
	}
	for w, n := range last {
		if n != each {
			t.Errorf("worker %d: the last message is %d", w, n)
		}
	}
	if l := balanced(t, q); l.Accepted != workers*each || l.Queued != 0 || l.Dropped[ReasonVolatile] == 0 {
		t.Errorf("%+v", l)
	}
}

// C7: the ledger balances at any time, not only when it is quiet, whatever is being
// dropped.
func TestC7BalancesWhileBusy(t *testing.T) {
	q, d := newQueue(200, 1<<20)
	var workers sync.WaitGroup
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	for w := range uint64(3) {
		workers.Go(func() {
			for s := q.NewStage(); !stopped(); {
				err := push(t, s, rig.Heartbeat(w, 2, 1))
				switch n := rand.IntN(50); {
				case errors.Is(err, ErrFull):
					runtime.Gosched()
				case n == 0:
					s.Close()
					s = q.NewStage()
				case n < 10:
					s.Flush()
				}
			}
		})
	}
	workers.Go(func() {
		for !stopped() {
			if batch, ok := q.Take(limits); ok {
				batch.Buffers.Free()
			}
		}
	})
	rig.Eventually(t, rig.WaitTimeout, func() bool { return q.Ledger().Sent > 1000 }, "messages are sent")
	workers.Go(func() {
		for !t.Failed() && !stopped() {
			if l := q.Ledger(); l.Accepted != l.Sent+l.DroppedTotal()+l.Queued {
				t.Errorf("accepted %d, sent %d, dropped %d, queued %d", l.Accepted, l.Sent, l.DroppedTotal(), l.Queued)
			}
		}
	})
	for range 500 {
		switch rand.IntN(3) {
		case 0:
			q.Clear(ReasonConnect)
		case 1:
			q.DropVolatile()
		case 2:
			q.DropStaged(ReasonRemoved)
		}
		runtime.Gosched()
	}
	close(stop)
	workers.Wait()
	q.Disconnect(ReasonClosing)
	messages := 0
	for _, call := range d.take() {
		messages += call.messages
	}
	if l := balanced(t, q); l.Queued != 0 || l.DroppedTotal() != uint64(messages) || l.Sent == 0 {
		t.Errorf("%d messages reported, %+v", messages, l)
	}
}
