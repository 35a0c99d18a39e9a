package etcdraft

import (
	"fmt"
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// quiet is a raft.Logger that only panics.
type quiet struct{}

func (quiet) Debug(...any)            {}
func (quiet) Debugf(string, ...any)   {}
func (quiet) Info(...any)             {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warning(...any)          {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Error(...any)            {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Fatal(v ...any)          { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) {
	panic(fmt.Sprintf(f, v...))
}
func (quiet) Panic(v ...any) { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) {
	panic(fmt.Sprintf(f, v...))
}

// node is a RawNode as a host has it.
type node struct {
	*raft.RawNode
	id      uint64
	storage *raft.MemoryStorage
	guard   Guard
	applies bool // conf changes, and compacts
	reads   int
	state   *raftpb.ConfState
}

// whole is a storage that was never compacted and has no snapshot, but members.
type whole struct{ *raft.MemoryStorage }

func (s whole) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hard, _, err := s.MemoryStorage.InitialState()
	return hard, &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, err
}

// newNode returns a member of the group of peers 1, 2 and 3, whose log ends at
// 10. That of a careful one, with pre-votes and quorum checks, was compacted up
// to 5.
func newNode(id uint64, careful bool) *node {
	n := &node{id: id, storage: raft.NewMemoryStorage(), state: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}
	first := uint64(1)
	if careful {
		first = 6
		must(n.storage.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(5), Term: proto.Uint64(1), ConfState: n.state,
		}}))
	}
	for index := first; index <= 10; index++ {
		must(n.storage.Append([]*raftpb.Entry{{Term: proto.Uint64(1 + index/8), Index: proto.Uint64(index)}}))
	}
	must(n.storage.SetHardState(&raftpb.HardState{Term: proto.Uint64(2), Commit: proto.Uint64(8)}))
	n.start(careful)
	return n
}

func (n *node) start(careful bool) {
	storage := raft.Storage(n.storage)
	if !careful {
		storage = whole{n.storage}
	}
	var err error
	n.RawNode, err = raft.NewRawNode(&raft.Config{
		ID: n.id, ElectionTick: 10, HeartbeatTick: 1, Storage: storage, MaxSizePerMsg: 1 << 20,
		MaxInflightMsgs: 4, Logger: quiet{}, CheckQuorum: careful, PreVote: careful,
	})
	must(err)
	last, err := n.storage.LastIndex()
	must(err)
	n.guard = NewGuard(n.id, last)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// lead makes the node the leader of term 3, with 2 following.
func (n *node) lead() *node {
	must(n.Campaign())
	n.ready()
	grant := &raftpb.Message{Term: proto.Uint64(n.BasicStatus().GetTerm()), From: proto.Uint64(2), To: proto.Uint64(n.id)}
	if n.BasicStatus().RaftState == raft.StatePreCandidate {
		grant.Type, grant.Term = raftpb.MsgPreVoteResp.Enum(), proto.Uint64(grant.GetTerm()+1)
		must(n.Step(grant))
		n.ready()
		grant = proto.CloneOf(grant)
	}
	grant.Type = raftpb.MsgVoteResp.Enum()
	must(n.Step(grant))
	n.ready()
	if n.BasicStatus().RaftState != raft.StateLeader {
		panic("is not the leader")
	}
	return n
}

// ready handles what is ready and returns the messages.
func (n *node) ready() (messages []*raftpb.Message) {
	for n.HasReady() {
		ready := n.Ready()
		n.guard.Observe(ready)
		if !raft.IsEmptySnap(ready.Snapshot) {
			must(n.storage.ApplySnapshot(ready.Snapshot))
			n.state = ready.Snapshot.GetMetadata().GetConfState()
		}
		if !raft.IsEmptyHardState(ready.HardState) {
			must(n.storage.SetHardState(ready.HardState))
		}
		must(n.storage.Append(ready.Entries))
		n.reads += len(ready.ReadStates)
		messages = append(messages, ready.Messages...)
		if n.applies {
			n.apply(ready.CommittedEntries)
		}
		n.Advance(ready)
	}
	return messages
}

func (n *node) apply(entries []*raftpb.Entry) {
	for _, e := range entries {
		switch e.GetType() {
		case raftpb.EntryConfChange:
			change := new(raftpb.ConfChange)
			must(proto.Unmarshal(e.GetData(), change))
			n.state = n.ApplyConfChange(change)
		case raftpb.EntryConfChangeV2:
			change := new(raftpb.ConfChangeV2)
			must(proto.Unmarshal(e.GetData(), change))
			n.state = n.ApplyConfChange(change)
		}
		if e.GetIndex()%16 == 0 {
			_, err := n.storage.CreateSnapshot(e.GetIndex(), n.state, []byte("data"))
			must(err)
			must(n.storage.Compact(e.GetIndex() - 3))
		}
	}
}

// take steps a message that the checks let through, and says whether they did.
func (n *node) take(m *raftpb.Message) error {
	if err := Check(m); err != nil {
		return err
	}
	if err := n.guard.Check(n, m); err != nil {
		return err
	}
	// What Step answers doesn't matter.
	_ = n.Step(m)
	return nil
}

// hugeCounters are those that overflow, or nearly.
var hugeCounters = []uint64{math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64 - 1, math.MaxUint64}
