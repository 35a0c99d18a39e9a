package queue

import (
	"errors"
	"slices"
	"testing"

	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/rig"
)

// S7, C8: clearing reports each (region, peer) once, with the number of all
// messages, flushed and staged, of whatever stage.
func TestS7ReportsEachPeerOnce(t *testing.T) {
	q, d := newQueue(1000, 1<<20)
	one, two := q.NewStage(), q.NewStage()
	for i := range uint64(100) {
		mustPush(t, one, rig.Heartbeat(i%3, 2, 7), rig.Heartbeat(1, 2, i%2))
		mustPush(t, two, appendOf(1, 7, 10))
		if i == 60 {
			one.Flush()
			two.Flush()
		}
	}
	if n := q.Clear(ReasonConnect); n != 300 {
		t.Errorf("%d messages dropped", n)
	}
	calls := d.take()
	if len(calls) != 1 || calls[0].reason != ReasonConnect || calls[0].messages != 300 {
		t.Fatalf("reports %v", calls)
	}
	want := []report.Peer{{RegionID: 0, PeerID: 7}, {RegionID: 1, PeerID: 0}, {RegionID: 1, PeerID: 1}, {RegionID: 1, PeerID: 7}, {RegionID: 2, PeerID: 7}}
	got := calls[0].peers
	slices.SortFunc(got, func(a, b report.Peer) int { return int(10*a.RegionID+a.PeerID) - int(10*b.RegionID+b.PeerID) })
	if !slices.Equal(got, want) {
		t.Errorf("peers %v", got)
	}
	if l := balanced(t, q); l.Dropped[ReasonConnect] != 300 || l.Queued != 0 {
		t.Errorf("%+v", l)
	}
	if q.Clear(ReasonConnect) != 0 || len(d.take()) != 0 {
		t.Error("nothing was reported")
	}
	mustPush(t, one, rig.Heartbeat(1, 2, 7))
	if q.Clear(ReasonResolve) != 1 || len(d.take()) != 1 {
		t.Error("the next clearing reports again")
	}
}

// C4: what is staged is seized, and counted as queued until then. After that
// the stage goes on, unless the queue was disconnected.
func TestC4StagedIsSeized(t *testing.T) {
	for name, test := range map[string]struct {
		seize func(*Queue) int
		taken int // of the flushed message
		ends  bool
	}{
		"clear":       {func(q *Queue) int { return q.Clear(ReasonConnect) }, 0, false},
		"disconnect":  {func(q *Queue) int { return q.Disconnect(ReasonConnect) }, 0, true},
		"drop staged": {func(q *Queue) int { return q.DropStaged(ReasonConnect) }, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			q, d := newQueue(6, 1<<20)
			s := q.NewStage()
			mustPush(t, s, rig.Heartbeat(1, 2, 1))
			s.Flush()
			for range 5 {
				mustPush(t, s, rig.Heartbeat(1, 2, 2))
			}
			if l := balanced(t, q); l.Queued != 6 || l.Accepted != 6 {
				t.Errorf("%+v", l)
			}
			if n := test.seize(q); n != 6-test.taken {
				t.Errorf("%d messages dropped", n)
			}
			if calls := d.take(); len(calls) != 1 || calls[0].messages != 6-test.taken || calls[0].reason != ReasonConnect {
				t.Errorf("reports %v", calls)
			}
			s.Flush()
			if n := len(slices.Concat(takeAll(t, q, limits)...)); n != test.taken {
				t.Errorf("%d messages sent", n)
			}
			balanced(t, q)
			for range 6 { // no room is lost
				if err := push(t, s, rig.Heartbeat(1, 2, 3)); errors.Is(err, ErrDisconnected) != test.ends {
					t.Errorf("push: %v", err)
				}
			}
			s.Close()
			if n := len(slices.Concat(takeAll(t, q, limits)...)); (n == 0) != test.ends {
				t.Errorf("%d messages sent", n)
			}
			balanced(t, q)
		})
	}
}

// C4: nothing leaves before the flush.
func TestC4LeavesAfterFlush(t *testing.T) {
	q, _ := newQueue(100, 1<<20)
	s, other := q.NewStage(), q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 1))
	mustPush(t, other, rig.Heartbeat(1, 2, 2))
	other.Flush()
	if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{2}) {
		t.Errorf("sent %v", got)
	}
	s.Flush()
	if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{1}) {
		t.Errorf("sent %v", got)
	}
}

// C24, C4: a sealed queue takes no more, and keeps what waits, staged messages
// included, for the consumer.
func TestC24SealKeeps(t *testing.T) {
	q, d := newQueue(100, 1<<20)
	s, idle := q.NewStage(), q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 1))
	s.Flush()
	mustPush(t, s, rig.Heartbeat(1, 2, 2))
	q.Seal()
	q.Seal()
	for _, stage := range []*Stage{s, idle, q.NewStage()} {
		if err := push(t, stage, rig.Heartbeat(1, 2, 3)); !errors.Is(err, ErrDisconnected) {
			t.Errorf("push: %v", err)
		}
	}
	if l := balanced(t, q); l.Queued != 2 || l.Accepted != 2 || !q.Disconnected() {
		t.Errorf("%+v", l)
	}
	if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{1, 2}) || len(d.take()) > 0 {
		t.Errorf("sent %v", got)
	}
}

// C6: messages of volatile kinds, staged ones included, don't survive a broken
// stream; the others do, in order, and a message is dropped once.
func TestC6DropVolatile(t *testing.T) {
	q, d := newQueue(40, 1<<20)
	s := q.NewStage()
	for i := range uint64(20) {
		mustPush(t, s, appendOf(1, i, 10), rig.Heartbeat(2, 2, i%4))
		if i%6 == 0 {
			s.Flush()
		}
	}
	batch, _ := q.Take(Limits{Messages: 5, Bytes: 1 << 20, Age: limits.Age})
	if got := peersOf(decode(t, batch, false)); !slices.Equal(got, []uint64{0, 0, 1, 1, 2}) {
		t.Fatalf("sent %v", got)
	}
	if n := q.DropVolatile(); n != 18 {
		t.Errorf("%d messages dropped", n)
	}
	calls := d.take()
	if len(calls) != 1 || calls[0].reason != ReasonVolatile || calls[0].messages != 18 || len(calls[0].peers) != 4 {
		t.Errorf("reports %v", calls)
	}
	if n := q.DropVolatile(); n != 0 || len(d.take()) > 0 {
		t.Errorf("%d messages dropped twice", n)
	}
	if l := balanced(t, q); l.Queued != 17 || l.Dropped[ReasonVolatile] != 18 {
		t.Errorf("%+v", l)
	}
	for i := range uint64(18 + 5) { // the room is there again
		mustPush(t, s, appendOf(1, 20+i, 10))
	}
	s.Flush()
	var want []uint64
	for i := uint64(3); i < 20+18+5; i++ {
		want = append(want, i)
	}
	if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, want) {
		t.Errorf("sent %v", got)
	}
	balanced(t, q)
}

// C6, C7: a clearing after DropVolatile reports what is left, and nothing twice.
func TestC6DropVolatileThenClear(t *testing.T) {
	q, d := newQueue(100, 1<<20)
	s := q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 1), appendOf(1, 2, 10), rig.Heartbeat(1, 2, 3))
	q.DropVolatile()
	d.take()
	if n := q.Clear(ReasonUnreachable); n != 1 {
		t.Errorf("%d messages dropped", n)
	}
	if calls := d.take(); len(calls) != 1 || !slices.Equal(calls[0].peers, []report.Peer{{RegionID: 1, PeerID: 2}}) {
		t.Errorf("reports %v", calls)
	}
	balanced(t, q)
}
