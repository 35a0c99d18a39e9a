package queue

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/rig"
)

// consume takes and frees until all messages have come, and parks on Wake in
// between. It returns what has come when no wake-up does.
func consume(q *Queue, all int, took func(Batch)) (taken int) {
	deadline := time.NewTimer(rig.WaitTimeout)
	defer deadline.Stop()
	for {
		for batch, ok := q.Take(limits); ok; batch, ok = q.Take(limits) {
			taken += batch.Messages
			took(batch)
			batch.Buffers.Free()
		}
		if taken >= all {
			return taken
		}
		select {
		case <-q.Wake():
		case <-deadline.C:
			return taken
		}
	}
}

// S2: no wake-up is lost: a consumer that parks whenever nothing waits gets
// each message, though the next one comes only when it has taken the last.
func TestS2NoLostWakeUp(t *testing.T) {
	const rounds = 20_000
	q, _ := newQueue(1000, 1<<20)
	taken := make(chan struct{}, 1)
	var producer sync.WaitGroup
	stop := make(chan struct{})
	producer.Go(func() {
		s := q.NewStage()
		defer s.Close()
		for i := range uint64(rounds) {
			mustPush(t, s, rig.Heartbeat(1, 2, i))
			s.Flush()
			if i%3 == 0 {
				runtime.Gosched()
			}
			select {
			case <-taken:
			case <-stop:
				return
			}
		}
	})
	n := consume(q, rounds, func(Batch) { taken <- struct{}{} })
	close(stop)
	producer.Wait()
	if n != rounds {
		t.Fatalf("%d of %d messages came", n, rounds)
	}
}

// S2: nor is one among several workers that flush now and then, some of whom
// meet a full queue.
func TestS2NoLostWakeUpOfMany(t *testing.T) {
	const workers, each = 4, 4000
	q, _ := newQueue(100, 1<<20)
	var producers sync.WaitGroup
	var stop atomic.Bool
	for w := range uint64(workers) {
		producers.Go(func() {
			s := q.NewStage()
			defer s.Close()
			for i := 0; i < each && !stop.Load(); {
				if push(t, s, rig.Heartbeat(w, 2, 1)) != nil {
					runtime.Gosched()
					continue
				}
				i++
				if rand.IntN(4) == 0 {
					s.Flush()
				}
			}
		})
	}
	n := consume(q, workers*each, func(Batch) {})
	stop.Store(true)
	producers.Wait()
	if n != workers*each {
		t.Fatalf("%d of %d messages came", n, workers*each)
	}
	balanced(t, q)
}

// S22, C4: a flush wakes the consumer once, however many messages it hands over;
// a push doesn't.
func TestS22OneWakeUpPerFlush(t *testing.T) {
	q, _ := newQueue(1<<20, 1<<30)
	s := q.NewStage()
	for flush := range uint64(10) {
		for range flush * flush * 20 { // up to several chunks
			mustPush(t, s, rig.Heartbeat(1, 2, 3))
		}
		mustPush(t, s, rig.Heartbeat(1, 2, 3))
		if woken(q) {
			t.Fatal("woken by a push")
		}
		s.Flush()
		if l := q.Ledger(); l.Wakes != flush+1 {
			t.Fatalf("%d wake-ups by %d flushes", l.Wakes, flush+1)
		}
		if !woken(q) || woken(q) {
			t.Fatal("not woken once")
		}
	}
}

// S22: what was handed over before the flush, since its chunk was full, is woken
// for by the flush even if it left nothing else to hand over.
func TestS22FlushWakesForFullChunks(t *testing.T) {
	q, _ := newQueue(100, 1<<20)
	s := q.NewStage()
	mustPush(t, s, appendOf(1, 1, smallChunk-100))
	mustPush(t, s, appendOf(1, 2, smallChunk-100)) // the first one has left the stage
	q.DropStaged(ReasonClosing)
	s.Flush()
	if !woken(q) {
		t.Fatal("not woken")
	}
	if got := peersOf(takeAll(t, q, limits)...); len(got) != 1 || got[0] != 1 {
		t.Errorf("sent %v", got)
	}
}

// S1, C7, C8: while a queue is disconnected under eight workers, every message
// for which Push answered nil is taken or reported, exactly one of them.
func TestS1DisconnectWhilePushing(t *testing.T) {
	const workers = 8
	for round := range 60 {
		q, d := newQueue(1<<20, 1<<30)
		accepted := make([]int, workers)
		var producers sync.WaitGroup
		for w := range workers {
			producers.Go(func() {
				s := q.NewStage()
				for peer := uint64(1); ; peer++ {
					err := push(t, s, rig.Heartbeat(uint64(w), 2, peer))
					if err != nil {
						if !errors.Is(err, ErrDisconnected) {
							t.Error(err)
						}
						break
					}
					accepted[w]++
					if rand.IntN(5) == 0 {
						s.Flush()
					}
				}
				s.Flush()
				s.Close()
			})
		}
		seen := make(map[report.Peer]int)
		note := func(batch Batch, ok bool) {
			if ok {
				for _, m := range decode(t, batch, false) {
					seen[report.Peer{RegionID: m.RegionId, PeerID: m.ToPeer.Id}]++
				}
			}
		}
		for range rand.IntN(200) {
			note(q.Take(limits))
		}
		if round%2 == 0 {
			q.Clear(ReasonConnect)
			q.Seal()
			note(q.Take(limits))
		}
		q.Disconnect(ReasonClosing)
		producers.Wait()
		all := 0
		for _, n := range accepted {
			all += n
		}
		messages := 0
		for _, call := range d.take() {
			messages += call.messages
			for _, p := range call.peers {
				seen[p]++
			}
		}
		for w, n := range accepted {
			for peer := range uint64(n) {
				if p := (report.Peer{RegionID: uint64(w), PeerID: peer + 1}); seen[p] != 1 {
					t.Fatalf("round %d: %v is accounted for %d times", round, p, seen[p])
				}
			}
		}
		l := balanced(t, q)
		if len(seen) != all || l.Accepted != uint64(all) || l.Queued != 0 || l.DroppedTotal() != uint64(messages) {
			t.Fatalf("round %d: accepted %d, seen %d, reported %d, %+v", round, all, len(seen), messages, l)
		}
	}
}
