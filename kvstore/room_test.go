package kvstore

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/raftmux/raftmux/snapshot"
)

// notedAnswer is a question for room and what was said.
type notedAnswer struct {
	snapshot.PrecheckRequest
	err error
}

// prechecker notes the questions, and answers them if it has a script.
type prechecker struct {
	mu       sync.Mutex
	asked    int
	answered []notedAnswer
	script   precheck
	hold     func(context.Context, snapshot.PrecheckRequest)
}

func (p *prechecker) wrap(inner precheck) precheck {
	return func(ctx context.Context, address string, request snapshot.PrecheckRequest) (snapshot.Admission, error) {
		p.mu.Lock()
		p.asked++
		ask, hold := p.script, p.hold
		p.mu.Unlock()
		if ask == nil {
			ask = inner
		}
		if hold != nil {
			hold(ctx, request)
		}
		admission, err := ask(ctx, address, request)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answered = append(p.answered, notedAnswer{request, err})
		return admission, err
	}
}

func (p *prechecker) play(script precheck) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = script
}

// letThrough has questions wait for what hold waits for.
func (p *prechecker) letThrough(hold func(context.Context, snapshot.PrecheckRequest)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = hold
}

func (p *prechecker) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *prechecker) answers() []notedAnswer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.answered)
}

func busy(context.Context, string, snapshot.PrecheckRequest) (snapshot.Admission, error) {
	return snapshot.Admission{}, snapshot.ErrBusy
}

func yes(context.Context, string, snapshot.PrecheckRequest) (snapshot.Admission, error) {
	return snapshot.Admission{Known: true, Reserved: time.Minute}, nil
}

// newAsking is a handDriven whose stores are asked for room.
func newAsking(t *testing.T, script precheck) (*handDriven, *prechecker) {
	t.Helper()
	d, p := newHandDriven(t, Options{}), &prechecker{script: script}
	d.host.prechecks.ask = p.wrap(nil)
	return d, p
}

// hear lets a peer answer some heartbeats, and the worker hear the answers.
func (d *handDriven) hear(peers ...uint64) {
	d.Helper()
	for range 5 {
		for _, peer := range peers {
			d.answer(peer, raftpb.MsgHeartbeatResp)
		}
		d.host.prechecks.running.Wait()
		d.turn()
		d.host.files.running.Wait()
	}
}

func (d *handDriven) made() uint64 { return d.host.files.made.Load() }

// later makes the worker believe that it is time to ask a peer again.
func (d *handDriven) later(peer uint64) {
	d.region.rooms[peer].again = time.Time{}
}

// No snapshot is made before the receiver has said that there is room, and it isn't
// asked again while it hasn't answered, or before a while after it has said no.
func TestSnapshotIsMadeOnceThereIsRoom(t *testing.T) {
	may := make(chan struct{})
	d, p := newAsking(t, func(ctx context.Context, _ string, _ snapshot.PrecheckRequest) (snapshot.Admission, error) {
		select {
		case <-may:
			return snapshot.Admission{}, snapshot.ErrBusy
		case <-ctx.Done():
			return snapshot.Admission{}, ctx.Err()
		}
	})
	peer := d.addPeer(2)
	d.answer(peer, raftpb.MsgAppResp)
	for range 20 { // nobody waits for the answer
		d.answer(peer, raftpb.MsgHeartbeatResp)
	}
	eventually(t, 10*time.Second, "it was asked", func() bool { return p.count() > 0 })
	if p.count() != 1 || d.made() != 0 {
		t.Errorf("%d questions are out, and %d snapshots made", p.count(), d.made())
	}
	close(may)
	p.play(busy)
	d.hear(peer)
	if p.count() != 1 || d.made() != 0 {
		t.Errorf("after a no there were %d questions, and %d snapshots made", p.count(), d.made())
	}
	last := time.Duration(0)
	for n := 2; n < 8; n++ {
		d.later(peer)
		d.hear(peer)
		if p.count() != n || d.made() != 0 {
			t.Fatalf("there were %d questions, want %d; %d snapshots were made", p.count(), n, d.made())
		}
		pause := d.region.rooms[peer].pause
		if pause < last || pause < roomAgain || pause > roomAgainMax {
			t.Errorf("after %d noes there is a pause of %v, after %v", n, pause, last)
		}
		last = pause
	}
	p.play(yes)
	d.later(peer)
	d.hear(peer)
	if d.made() != 1 || len(d.sent.snapshots) != 1 {
		t.Errorf("there is room, and %d snapshots were made, %d sent", d.made(), len(d.sent.snapshots))
	}
	if asked := p.answers()[0]; asked.RegionID != 1 || asked.PeerID != peer || asked.StoreID != 2 || !asked.ForBalance {
		t.Errorf("asked was %+v", asked)
	}
	if refused := d.worker.counters.prechecksRefused.Load(); refused != 7 {
		t.Errorf("%d noes were counted, want 7", refused)
	}
}

// An answer that gets lost doesn't stop anything for good.
func TestLostAnswerIsAskedForAgain(t *testing.T) {
	may := make(chan struct{})
	d, p := newAsking(t, func(ctx context.Context, address string, request snapshot.PrecheckRequest) (snapshot.Admission, error) {
		<-may
		return yes(ctx, address, request)
	})
	peer := d.addPeer(2)
	d.answer(peer, raftpb.MsgAppResp)
	d.answer(peer, raftpb.MsgHeartbeatResp)
	close(may)
	d.host.prechecks.running.Wait()
	for _, it := range d.worker.inbox.take(nil) {
		if it.kind != itemRoom {
			t.Errorf("an item of kind %d", it.kind)
		}
	}
	d.hear(peer)
	if p.count() != 1 || d.made() != 0 {
		t.Fatalf("%d questions, %d snapshots", p.count(), d.made())
	}
	d.region.rooms[peer].asked = time.Now().Add(-2 * roomLost)
	d.hear(peer)
	if p.count() != 2 || len(d.sent.snapshots) != 1 {
		t.Errorf("%d questions, and %d snapshots were sent", p.count(), len(d.sent.snapshots))
	}
}

// A store that can't be asked is sent the snapshot all the same; one that can't be
// reached isn't.
func TestStoreThatCannotBeAsked(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		sent int
	}{
		"doesn't know the question": {nil, 1},
		"is out of reach":           {io.ErrUnexpectedEOF, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := newAsking(t, func(context.Context, string, snapshot.PrecheckRequest) (snapshot.Admission, error) {
				return snapshot.Admission{}, test.err
			})
			peer := d.addPeer(2)
			d.answer(peer, raftpb.MsgAppResp)
			d.hear(peer)
			if len(d.sent.snapshots) != test.sent || d.made() != uint64(test.sent) {
				t.Errorf("%d snapshots were made, %d sent", d.made(), len(d.sent.snapshots))
			}
		})
	}
}

// A snapshot that is there goes to those who have room, and not to the others.
func TestSnapshotGoesToWhoHasRoom(t *testing.T) {
	d, p := newAsking(t, func(ctx context.Context, address string, request snapshot.PrecheckRequest) (snapshot.Admission, error) {
		if request.StoreID == 3 {
			return busy(ctx, address, request)
		}
		return yes(ctx, address, request)
	})
	first, second := d.addPeer(2), d.addPeer(3)
	for _, peer := range []uint64{second, first} {
		d.answer(peer, raftpb.MsgAppResp)
	}
	d.hear(second, first)
	if !slices.Equal(d.sent.to, []uint64{first}) || d.made() != 1 {
		t.Fatalf("a snapshot went to %v, only %d has room", d.sent.to, first)
	}
	if state := d.region.node.Status().Progress[second].State; state != tracker.StateProbe {
		t.Errorf("Raft has the other one in %v", state)
	}
	if _, err := d.region.snapshot(); err == nil {
		t.Error("Raft gets the snapshot for nobody who has room")
	}
	p.play(yes)
	d.later(second)
	d.hear(second)
	if !slices.Equal(d.sent.to, []uint64{first, second}) || d.made() != 1 {
		t.Errorf("snapshots went to %v, and %d were made", d.sent.to, d.made())
	}
}

// Room is for one transfer: after one that broke there has to be some again. What
// takes long to make keeps its room meanwhile.
func TestRoomIsForOneTransfer(t *testing.T) {
	d, p := newAsking(t, yes)
	peer := d.addPeer(2)
	d.answer(peer, raftpb.MsgAppResp)
	d.hear(peer)
	if len(d.sent.snapshots) != 1 || p.count() != 1 {
		t.Fatalf("%d snapshots were sent after %d questions", len(d.sent.snapshots), p.count())
	}
	p.play(busy)
	d.breakSnapshot(peer)
	d.hear(peer)
	if len(d.sent.snapshots) != 1 || p.count() != 2 {
		t.Errorf("%d snapshots were sent after %d questions", len(d.sent.snapshots), p.count())
	}
	p.play(yes)
	d.later(peer)
	d.hear(peer)
	if len(d.sent.snapshots) != 2 || d.made() != 1 {
		t.Fatalf("%d snapshots were sent, %d made", len(d.sent.snapshots), d.made())
	}

	// As if it were still being made.
	d.breakSnapshot(peer)
	d.region.outgoing.done = make(chan struct{})
	d.region.outgoing.used = time.Time{}
	d.hear(peer)
	before := p.count()
	if room := d.region.rooms[peer]; !room.again.Before(room.until) {
		t.Errorf("the room until %v is asked for again at %v", room.until, room.again)
	}
	d.later(peer)
	d.hear(peer)
	if p.count() != before+1 || d.region.outgoing.used.IsZero() {
		t.Errorf("%d questions while it was made, want one more than %d; it was last of use %v", p.count(), before, d.region.outgoing.used)
	}
	close(d.region.outgoing.done)
	d.hear(peer)
	if len(d.sent.snapshots) != 3 {
		t.Errorf("%d snapshots were sent", len(d.sent.snapshots))
	}
}

// Who is missed comes before who only comes on top.
func TestWhoseSnapshotCanWait(t *testing.T) {
	r := &region{descriptor: &Descriptor{}}
	for _, test := range []struct {
		role  Role
		order *Replacement
		want  bool
	}{
		{Voter, nil, false},
		{Learner, nil, true},
		{Learner, &Replacement{Old: 3, New: 4}, false},
		{Learner, &Replacement{Old: 3, New: 5}, true},
	} {
		r.descriptor.Replacement = test.order
		if got := r.forBalance(&Peer{ID: 7, StoreID: 4, Role: test.role}); got != test.want {
			t.Errorf("that of a %s on store 4 under the order %+v can wait: %v", test.role, test.order, got)
		}
	}
}
