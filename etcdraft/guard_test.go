package etcdraft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/race"
)

// msg returns a message of term 3, which change completes.
func msg(kind raftpb.MessageType, from, to uint64, change func(m *raftpb.Message)) *raftpb.Message {
	m := &raftpb.Message{Type: &kind, From: &from, To: &to, Term: proto.Uint64(3)}
	if change != nil {
		change(m)
	}
	return m
}

// The Guard refuses each of these, and without it Step panics.
func TestGuard(t *testing.T) {
	read := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	cut := msg(raftpb.MsgApp, 3, 1, func(m *raftpb.Message) {
		m.Index, m.LogTerm = proto.Uint64(8), proto.Uint64(2)
		m.Entries = []*raftpb.Entry{{Index: proto.Uint64(9), Term: proto.Uint64(3)}}
	})
	for name, test := range map[string]struct {
		leads  bool
		before []*raftpb.Message // pass
		last   *raftpb.Message   // doesn't
		why    error
	}{
		"a commit past the log": {last: msg(raftpb.MsgHeartbeat, 3, 1, func(m *raftpb.Message) {
			m.Commit = proto.Uint64(11)
		})},
		"an acknowledgement past the log": {leads: true, last: msg(raftpb.MsgAppResp, 2, 1, func(m *raftpb.Message) {
			m.Index = proto.Uint64(12)
		})},
		"a commit past the log once it is cut off": {
			before: []*raftpb.Message{cut},
			last: msg(raftpb.MsgHeartbeat, 3, 1, func(m *raftpb.Message) {
				m.Commit = proto.Uint64(10)
			}),
			why: ErrReadyFirst,
		},
		"a commit past the log once a snapshot replaces it": {
			before: []*raftpb.Message{msg(raftpb.MsgSnap, 3, 1, func(m *raftpb.Message) {
				m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
					Index: proto.Uint64(9), Term: proto.Uint64(3), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
				}}
			})},
			last: msg(raftpb.MsgHeartbeat, 3, 1, func(m *raftpb.Message) {
				m.Commit = proto.Uint64(10)
			}),
			why: ErrReadyFirst,
		},
		"a transfer asked of a follower": {
			before: []*raftpb.Message{msg(raftpb.MsgHeartbeat, 3, 1, nil)},
			last:   msg(raftpb.MsgTransferLeader, 2, 1, nil),
		},
		"a message to another peer": {last: msg(raftpb.MsgHeartbeat, 1, 2, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(1, false)
			if test.leads {
				n.lead()
			}
			for _, m := range test.before {
				if err := n.take(m); err != nil {
					t.Fatal(err)
				}
			}
			if err := Check(test.last); err != nil {
				t.Fatalf("Check refuses it already: %v", err)
			}
			if test.why == nil {
				test.why = raftmux.ErrInvalid
			}
			if err := n.take(test.last); !errors.Is(err, test.why) {
				t.Errorf("error is %v", err)
			}
			if test.why == ErrReadyFirst {
				n.ready()
				if err := n.take(test.last); !errors.Is(err, raftmux.ErrInvalid) {
					t.Errorf("after Ready the error is %v", err)
				}
			}
			if !panics(func() { _ = n.Step(test.last) }) {
				t.Error("Step does not panic")
			}
		})
	}

	// Reads are confirmed by a majority, so it takes two to lie.
	lie := func(from, term uint64) *raftpb.Message {
		return msg(raftpb.MsgHeartbeatResp, from, 1, func(m *raftpb.Message) {
			m.Term, m.Context = &term, read(1000)
		})
	}
	for name, reads := range map[string]int{"with reads": 3, "without reads": 0} {
		t.Run("confirmed reads "+name, func(t *testing.T) {
			n := newNode(1, false).lead()
			if err := n.take(msg(raftpb.MsgAppResp, 2, 1, func(m *raftpb.Message) { m.Index = proto.Uint64(11) })); err != nil {
				t.Fatal(err)
			}
			for range reads {
				n.ReadIndex([]byte("read"))
				n.ready()
			}
			for _, from := range []uint64{2, 3} {
				if err := n.take(lie(from, 3)); !errors.Is(err, raftmux.ErrInvalid) {
					t.Errorf("error is %v", err)
				}
			}
			if reads == 0 {
				return
			}
			honest := msg(raftpb.MsgHeartbeatResp, 2, 1, func(m *raftpb.Message) { m.Context = read(3) })
			if err := n.take(honest); err != nil {
				t.Error(err)
			}
			if n.ready(); n.reads != reads {
				t.Errorf("%d reads are confirmed, want %d", n.reads, reads)
			}
			if !panics(func() { _ = n.Step(lie(2, 3)); _ = n.Step(lie(3, 3)) }) {
				t.Error("Step does not panic")
			}
		})
	}
}

// What a peer asked before it came back, with its disk, may be answered after: that is
// late, and no fault.
func TestGuardLateAnswer(t *testing.T) {
	n := newNode(1, false).lead()
	must(n.take(msg(raftpb.MsgAppResp, 2, 1, func(m *raftpb.Message) { m.Index = proto.Uint64(11) })))
	n.ready()
	n.ReadIndex([]byte("read"))
	var answers []*raftpb.Message
	for _, m := range n.ready() {
		if m.GetType() == raftpb.MsgHeartbeat {
			answers = append(answers, msg(raftpb.MsgHeartbeatResp, m.GetTo(), 1, func(answer *raftpb.Message) {
				answer.Term, answer.Context = m.Term, m.Context
			}))
		}
	}
	n.start(false)
	for _, answer := range answers {
		if err := n.take(answer); err != nil {
			t.Errorf("refused: %v", err)
		}
	}
	if len(answers) != 2 || len(answers[0].GetContext()) != 8 {
		t.Fatalf("answers are %v", answers)
	}
}

// A node with a log and no term is not what a host should make, but it must not
// panic.
func TestGuardWithoutTerm(t *testing.T) {
	n := newNode(1, false)
	must(n.storage.SetHardState(&raftpb.HardState{Commit: proto.Uint64(8)}))
	n.start(false)
	m := msg(raftpb.MsgPreVote, 2, 1, nil)
	if err := n.take(m); !errors.Is(err, raftmux.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
	if !panics(func() { _ = n.Step(m) }) {
		t.Error("Step does not panic")
	}
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// A group that works is never refused anything, whatever its network does: no
// message at Send, none at the receiver, none by the Guard, except that it may
// want to see Ready first.
func TestNothingHonestIsRefused(t *testing.T) {
	seeds := uint64(20)
	if race.Enabled {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runGroup(t, seed) })
	}
}

func runGroup(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	nodes := make(map[uint64]*node)
	for id := uint64(1); id <= 4; id++ {
		nodes[id] = newNode(id, true)
		nodes[id].applies = true
		nodes[id].guard = NewGuard(id, 10)
	}
	var (
		decoder decoder
		network [][]byte
		later   int
		passed  = make(map[raftpb.MessageType]int)
		applied = func() uint64 { return nodes[1].BasicStatus().Applied }
	)
	send := func(n *node) {
		for _, m := range n.ready() {
			if err := Check(m); err != nil {
				t.Fatalf("at Send: %v: %v", err, m)
			}
			header := Header{RegionID: 1, From: Peer{n.id, n.id}, To: Peer{m.GetTo(), m.GetTo()}}
			network = append(network, encode(header, m))
		}
	}
	for round := range 3000 {
		for id := uint64(1); id <= 4; id++ {
			n := nodes[id]
			if random.IntN(3) > 0 {
				n.Tick()
			}
			act(random, n)
			send(n)
		}
		// Lose a tenth, delay and reorder the rest.
		for range len(network) {
			i := random.IntN(len(network))
			data := network[i]
			if random.IntN(4) == 0 {
				continue
			}
			network[i] = network[len(network)-1]
			network = network[:len(network)-1]
			if random.IntN(10) == 0 {
				continue
			}
			header, m, _, err := decodeBy(&decoder, data)
			if err != nil {
				t.Fatalf("round %d: at the receiver: %v", round, err)
			}
			n := nodes[header.To.ID]
			err = n.take(m)
			if err == ErrReadyFirst {
				later++
				send(n)
				err = n.take(m)
			}
			if err != nil {
				t.Fatalf("round %d: by the guard: %v: %v", round, err, m)
			}
			passed[m.GetType()]++
			if m.GetType() == raftpb.MsgSnap {
				nodes[header.From.ID].ReportSnapshot(header.To.ID, raft.SnapshotFinish)
			}
		}
	}
	t.Logf("%d entries applied, %d messages wanted Ready first, %v", applied(), later, passed)
	if applied() < 100 {
		t.Errorf("only %d entries were applied", applied())
	}
	for _, kind := range kinds {
		if passed[kind] == 0 && kind != raftpb.MsgSnap {
			t.Errorf("no %v was sent", kind)
		}
	}
}

// act does what a host may do at any time.
func act(random *rand.Rand, n *node) {
	// Refusals are Raft's right: there may be no leader.
	switch random.IntN(40) {
	case 0, 1, 2, 3, 4, 5:
		_ = n.Propose(make([]byte, random.IntN(100)))
	case 6:
		n.ReadIndex([]byte{1, 2, 3})
	case 7:
		n.TransferLeader(1 + random.Uint64N(3))
	case 8:
		kind := []raftpb.ConfChangeType{raftpb.ConfChangeAddLearnerNode, raftpb.ConfChangeAddNode}[random.IntN(2)]
		_ = n.ProposeConfChange(&raftpb.ConfChange{Type: &kind, NodeId: proto.Uint64(4)})
	case 9:
		_ = n.ProposeConfChange(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(3)},
			{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(4)},
		}})
	case 10:
		n.ReportUnreachable(1 + random.Uint64N(4))
	}
}

// A heartbeat that may have overtaken appends commits nothing new; the next one
// does, and so does one that overtakes nothing.
func TestGuardHoldsCommitBack(t *testing.T) {
	heartbeat := func(commit uint64) *raftpb.Message {
		return msg(raftpb.MsgHeartbeat, 2, 1, func(m *raftpb.Message) { m.Commit = proto.Uint64(commit) })
	}
	n := newNode(1, false) // it has 10 entries and knows that 8 are committed
	for i, step := range []struct {
		message *raftpb.Message
		commit  uint64
	}{
		{heartbeat(9), 9},
		{msg(raftpb.MsgApp, 2, 1, func(m *raftpb.Message) {
			m.Index, m.LogTerm, m.Commit = proto.Uint64(10), proto.Uint64(2), proto.Uint64(9)
			m.Entries = []*raftpb.Entry{{Index: proto.Uint64(11), Term: proto.Uint64(2)}}
		}), 9},
		{heartbeat(10), 9},
		{heartbeat(10), 10},
	} {
		if err := n.take(step.message); err != nil {
			t.Fatal(err)
		}
		if commit := n.BasicStatus().GetCommit(); commit != step.commit {
			t.Errorf("step %d: committed %d, want %d", i, commit, step.commit)
		}
	}
}
