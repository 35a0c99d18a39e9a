package etcdraft

import (
	"testing"

	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// restorable says whether Raft restores a ConfState, and finds it to be the same.
func restorable(state *raftpb.ConfState) bool {
	progress := tracker.MakeProgressTracker(1, 0)
	config, _, err := confchange.Restore(confchange.Changer{Tracker: progress, LastIndex: 9}, proto.CloneOf(state))
	if err != nil {
		return false
	}
	progress.Config = config
	return proto.CloneOf(state).Equivalent(progress.ConfState()) == nil
}

// C20: a snapshot's members are refused exactly if Raft would not take them.
func TestMembersAsRaftSeesThem(t *testing.T) {
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		list := func(name string) []uint64 {
			return rapid.SliceOfN(rapid.Uint64Range(0, 6), 0, 4).Draw(t, name)
		}
		state := &raftpb.ConfState{Voters: list("voters"), Learners: list("learners")}
		if rapid.Bool().Draw(t, "joint") {
			state.VotersOutgoing, state.LearnersNext = list("outgoing"), list("next")
		}
		if rapid.Bool().Draw(t, "says") {
			state.AutoLeave = proto.Bool(rapid.Bool().Draw(t, "autoLeave"))
		}
		want := restorable(state)
		if want {
			taken++
		}
		if problem := checkMembers(state); (problem == "") != want {
			t.Fatalf("%v: %q, and Raft restores it: %v", state, problem, want)
		}
	})
	if taken == 0 {
		t.Error("none was restorable")
	}
}
