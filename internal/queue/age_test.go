package queue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/rig"
)

// young has the age of messages that the tests of this file let pass.
var young = Limits{Messages: 128, Bytes: 1 << 20, Age: 100 * time.Millisecond}

// expired returns who was reported as expired, in one call or none.
func expired(t *testing.T, d *drops) (peers []uint64) {
	t.Helper()
	calls := d.take()
	if len(calls) > 1 {
		t.Fatalf("reports %v", calls)
	}
	for _, call := range calls {
		if call.reason != ReasonExpired || call.messages != len(call.peers) {
			t.Fatalf("report %v", call)
		}
		for _, p := range call.peers {
			peers = append(peers, p.PeerID)
		}
	}
	return peers
}

// C6: nothing older than the age is sent; it is reported, and the rest goes.
func TestC6Expires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(100, 1<<20)
		s := q.NewStage()
		mustPush(t, s, rig.Heartbeat(1, 2, 1), rig.Heartbeat(1, 2, 2))
		s.Flush()
		time.Sleep(young.Age)
		mustPush(t, s, rig.Heartbeat(1, 2, 3))
		s.Flush()
		batch, _ := q.Take(Limits{Messages: 1, Bytes: 1 << 20, Age: young.Age})
		if got := peersOf(decode(t, batch, false)); !slices.Equal(got, []uint64{1}) {
			t.Errorf("at the age: sent %v", got)
		}
		time.Sleep(time.Nanosecond)
		if got := peersOf(takeAll(t, q, young)...); !slices.Equal(got, []uint64{3}) {
			t.Errorf("after the age: sent %v", got)
		}
		if got := expired(t, d); !slices.Equal(got, []uint64{2}) {
			t.Errorf("expired %v", got)
		}
		if l := balanced(t, q); l.Dropped[ReasonExpired] != 1 || l.Sent != 2 {
			t.Errorf("%+v", l)
		}
	})
}

// C6: when all has expired there is no batch, and the queue is empty.
func TestC6AllExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(300, 1<<20)
		s := q.NewStage()
		for range 300 {
			mustPush(t, s, rig.Heartbeat(1, 2, 1))
		}
		s.Flush()
		time.Sleep(time.Minute)
		if _, ok := q.Take(young); ok {
			t.Error("a batch")
		}
		calls := d.take()
		if len(calls) != 1 || calls[0].messages != 300 || !slices.Equal(calls[0].peers, []report.Peer{{RegionID: 1, PeerID: 1}}) {
			t.Errorf("reports %v", calls)
		}
		if l := balanced(t, q); l.Batches != 0 || l.Queued != 0 || len(q.chunks) > 0 {
			t.Errorf("%+v", l)
		}
	})
}

// C6: in merged chunks each flush keeps its age, whichever worker was first.
func TestC6MergedChunksKeepAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(100, 1<<20)
		s, slow := q.NewStage(), q.NewStage()
		for i := range uint64(10) { // 1 at 10 ms, ... 10 at 100 ms
			time.Sleep(10 * time.Millisecond)
			mustPush(t, s, rig.Heartbeat(1, 2, i+1))
			s.Flush()
			if i == 1 {
				mustPush(t, slow, rig.Heartbeat(1, 2, 102)) // at 20 ms
			}
		}
		slow.Flush()
		if len(q.chunks) != 1 {
			t.Fatalf("%d chunks", len(q.chunks))
		}
		for _, step := range []struct {
			now           time.Duration
			sent, expired []uint64
		}{
			{135, []uint64{4}, []uint64{1, 2, 3}}, // and 102 waits behind 10
			{155, []uint64{6}, []uint64{5}},
			{160, []uint64{7}, nil},
			{190, []uint64{9}, []uint64{8}},
			{191, []uint64{10}, []uint64{102}},
		} {
			start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
			time.Sleep(time.Until(start.Add(step.now * time.Millisecond)))
			var sent []uint64
			if batch, ok := q.Take(Limits{Messages: 1, Bytes: 1 << 20, Age: young.Age}); ok {
				sent = peersOf(decode(t, batch, false))
			}
			if got := expired(t, d); !slices.Equal(sent, step.sent) || !slices.Equal(got, step.expired) {
				t.Errorf("at %d ms: sent %v, expired %v", step.now, sent, got)
			}
		}
		balanced(t, q)
	})
}

// C6: a chunk merged into a younger one keeps its age too.
func TestC6MergeOfOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(100, 1<<20)
		old, s := q.NewStage(), q.NewStage()
		mustPush(t, old, rig.Heartbeat(1, 2, 1))
		time.Sleep(50 * time.Millisecond)
		mustPush(t, s, rig.Heartbeat(1, 2, 2))
		s.Flush()
		old.Flush()
		time.Sleep(75 * time.Millisecond)
		if len(q.chunks) != 1 {
			t.Errorf("%d chunks", len(q.chunks))
		}
		if got := peersOf(takeAll(t, q, young)...); !slices.Equal(got, []uint64{2}) {
			t.Errorf("sent %v", got)
		}
		if got := expired(t, d); !slices.Equal(got, []uint64{1}) {
			t.Errorf("expired %v", got)
		}
	})
}

// C6: an encoder that failed long ago doesn't make the next message old.
func TestC6FailedEncoderLeavesNoAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := newQueue(100, 1<<20)
		s := q.NewStage()
		if s.Push(Message{Size: 10}, encoded{1}) == nil {
			t.Fatal("accepted")
		}
		time.Sleep(time.Hour)
		mustPush(t, s, rig.Heartbeat(1, 2, 1))
		s.Flush()
		if got := peersOf(takeAll(t, q, young)...); !slices.Equal(got, []uint64{1}) {
			t.Errorf("sent %v", got)
		}
	})
}

// C6: expiry passes over what DropVolatile dropped, and counts nothing twice.
func TestC6ExpiryAfterDropVolatile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(100, 1<<20)
		s := q.NewStage()
		mustPush(t, s, rig.Heartbeat(1, 2, 1), appendOf(1, 2, 9), rig.Heartbeat(1, 2, 3), appendOf(1, 4, 9))
		s.Flush()
		q.DropVolatile()
		d.take()
		time.Sleep(time.Minute)
		mustPush(t, s, appendOf(1, 5, 9))
		s.Flush()
		if got := peersOf(takeAll(t, q, young)...); !slices.Equal(got, []uint64{5}) {
			t.Errorf("sent %v", got)
		}
		if got := expired(t, d); !slices.Equal(got, []uint64{2, 4}) {
			t.Errorf("expired %v", got)
		}
		if l := balanced(t, q); l.Dropped[ReasonExpired] != 2 || l.Dropped[ReasonVolatile] != 2 {
			t.Errorf("%+v", l)
		}
	})
}

// C6: nobody looks at the age of what is staged; it expires when it is flushed, and
// all of one flush with its first message.
func TestC6StagedExpiresWhenFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, d := newQueue(100, 1<<20)
		s := q.NewStage()
		mustPush(t, s, rig.Heartbeat(1, 2, 1))
		time.Sleep(time.Hour)
		mustPush(t, s, rig.Heartbeat(1, 2, 2))
		if _, ok := q.Take(young); ok {
			t.Error("a batch of what is staged")
		}
		if got := expired(t, d); got != nil {
			t.Errorf("before the flush: expired %v", got)
		}
		s.Flush()
		if got := peersOf(takeAll(t, q, young)...); got != nil {
			t.Errorf("sent %v", got)
		}
		if got := expired(t, d); !slices.Equal(got, []uint64{1, 2}) {
			t.Errorf("expired %v", got)
		}
		balanced(t, q)
	})
}

// What comes while Take waits for the lock has not waited for less than no time, or
// the sum of a histogram would go down.
func TestWaitedIsNeverNegative(t *testing.T) {
	q, _ := newQueue(10, 1<<20)
	s := q.NewStage()
	before := time.Now().Add(-time.Millisecond)
	mustPush(t, s, rig.Heartbeat(1, 2, 3))
	s.Flush()
	if batch, _ := q.take(limits, before); batch.Messages != 1 || batch.Waited != 0 {
		t.Errorf("%d messages have waited for %v", batch.Messages, batch.Waited)
	}
}
