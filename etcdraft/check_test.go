package etcdraft

import (
	"errors"
	"math"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
)

func TestCheck(t *testing.T) {
	entries := func(es ...*raftpb.Entry) func(*raftpb.Message) {
		return func(m *raftpb.Message) { m.Entries = es }
	}
	at := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: &index, Term: &term} }
	// prop and the like are complete; the test changes one thing.
	prop := func(e *raftpb.Entry) *raftpb.Message {
		return msg(raftpb.MsgProp, 2, 1, func(m *raftpb.Message) { m.Term, m.Entries = nil, []*raftpb.Entry{e} })
	}
	change := func(kind raftpb.EntryType, data []byte) *raftpb.Entry {
		return &raftpb.Entry{Type: &kind, Data: data}
	}
	marshal := func(m proto.Message) []byte { data, err := proto.Marshal(m); must(err); return data }
	snap := func(index, term uint64, state *raftpb.ConfState) *raftpb.Message {
		return msg(raftpb.MsgSnap, 2, 1, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: state}}
		})
	}
	members := &raftpb.ConfState{Voters: []uint64{1, 2}}
	many := new(raftpb.ConfState)
	for id := range uint64(maxMembers + 1) {
		many.Voters = append(many.Voters, id+1)
	}
	tests := map[string]struct {
		m       *raftpb.Message
		problem string // part of it; "" passes
	}{
		"nil":                      {nil, "nil"},
		"nothing in it":            {&raftpb.Message{}, "must stay local"},
		"forgotten leader":         {msg(raftpb.MsgForgetLeader, 2, 1, nil), "must stay local"},
		"from nobody":              {msg(raftpb.MsgHeartbeat, 0, 1, nil), "peer id"},
		"to nobody":                {msg(raftpb.MsgHeartbeat, 2, 0, nil), "peer id"},
		"from a thread":            {msg(raftpb.MsgHeartbeat, raft.LocalAppendThread, 1, nil), "local thread"},
		"to a thread":              {msg(raftpb.MsgHeartbeat, 1, raft.LocalApplyThread, nil), "local thread"},
		"from itself":              {msg(raftpb.MsgHeartbeat, 1, 1, nil), "from the peer"},
		"a transfer to the leader": {msg(raftpb.MsgTransferLeader, 1, 1, nil), ""},
		"no term": {msg(raftpb.MsgVote, 2, 1, func(m *raftpb.Message) {
			m.Term = nil
		}), "no term"},
		"a transfer without a term": {msg(raftpb.MsgTransferLeader, 2, 1, func(m *raftpb.Message) { m.Term = nil }), ""},
		"a term too many":           {msg(raftpb.MsgProp, 2, 1, entries(at(0, 0))), "has a term"},
		"a read with a term":        {msg(raftpb.MsgReadIndex, 2, 1, entries(at(0, 0))), "has a term"},
		"a read of nothing":         {msg(raftpb.MsgReadIndex, 2, 1, func(m *raftpb.Message) { m.Term = nil }), "no entries"},
		"a huge term": {msg(raftpb.MsgVote, 2, 1, func(m *raftpb.Message) {
			m.Term = proto.Uint64(math.MaxInt64 + 1)
		}), "beyond reach"},
		"the last index": {msg(raftpb.MsgApp, 2, 1, func(m *raftpb.Message) {
			m.Index, m.Entries = proto.Uint64(math.MaxInt64), []*raftpb.Entry{at(math.MaxInt64+1, 1)}
		}), "beyond reach"},
		"responses": {msg(raftpb.MsgApp, 2, 1, func(m *raftpb.Message) {
			m.Responses = []*raftpb.Message{{}}
		}), "responses"},
		"a vote":      {msg(raftpb.MsgApp, 2, 1, func(m *raftpb.Message) { m.Vote = proto.Uint64(1) }), "responses"},
		"a nil entry": {msg(raftpb.MsgApp, 2, 1, entries(nil)), "nil entry"},
		"too many entries": {msg(raftpb.MsgApp, 2, 1, func(m *raftpb.Message) {
			m.Entries = make([]*raftpb.Entry, 4_000_001)
		}), "4000001 entries"},
		"a gap":          {msg(raftpb.MsgApp, 2, 1, entries(at(1, 1), at(3, 1))), "follow each other"},
		"a term back":    {msg(raftpb.MsgApp, 2, 1, entries(at(1, 2), at(2, 1))), "go back"},
		"a term of 0":    {msg(raftpb.MsgApp, 2, 1, entries(at(1, 0))), "go back"},
		"a newer entry":  {msg(raftpb.MsgApp, 2, 1, entries(at(1, 4))), "newer"},
		"good entries":   {msg(raftpb.MsgApp, 2, 1, entries(at(1, 1), at(2, 3))), ""},
		"a short answer": {msg(raftpb.MsgHeartbeatResp, 2, 1, func(m *raftpb.Message) { m.Context = make([]byte, 7) }), "8 bytes"},
		"no proposal":    {msg(raftpb.MsgProp, 2, 1, func(m *raftpb.Message) { m.Term = nil }), "no entries"},
		"a proposal":     {prop(&raftpb.Entry{Data: []byte("x")}), ""},
		"leave joint":    {prop(change(raftpb.EntryConfChangeV2, nil)), ""},
		"bad change":     {prop(change(raftpb.EntryConfChange, []byte{0xff})), "unmarshal"},
		"bad change V2":  {prop(change(raftpb.EntryConfChangeV2, []byte{0xff})), "unmarshal"},
		"odd entry":      {prop(change(7, nil)), "unknown type"},
		"odd change": {prop(change(raftpb.EntryConfChange, marshal(&raftpb.ConfChange{
			Type: raftpb.ConfChangeType(9).Enum(),
		}))), "unknown type"},
		"odd change V2": {prop(change(raftpb.EntryConfChangeV2, marshal(&raftpb.ConfChangeV2{
			Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeType(9).Enum()}},
		}))), "unknown type"},
		"odd transition": {prop(change(raftpb.EntryConfChangeV2, marshal(&raftpb.ConfChangeV2{
			Transition: raftpb.ConfChangeTransition(9).Enum(),
		}))), "transition"},
		"no snapshot":          {msg(raftpb.MsgSnap, 2, 1, nil), "no snapshot"},
		"no metadata":          {msg(raftpb.MsgSnap, 2, 1, func(m *raftpb.Message) { m.Snapshot = new(raftpb.Snapshot) }), "no snapshot"},
		"no members":           {snap(5, 3, nil), "no snapshot"},
		"a snapshot":           {snap(5, 3, members), ""},
		"an empty snapshot":    {snap(0, 3, members), "without an index"},
		"a snapshot of term 0": {snap(5, 0, members), "without an index"},
		"a newer snapshot":     {snap(5, 4, members), "newer"},
		"a snapshot too far":   {snap(math.MaxInt64, 3, members), "beyond reach"},
		"too many members":     {snap(5, 3, many), "too many"},
		"no voters":            {snap(5, 3, &raftpb.ConfState{Learners: []uint64{1}}), "restored"},
		"twice a voter":        {snap(5, 3, &raftpb.ConfState{Voters: []uint64{1, 1}}), "contradicts"},
		"a voter and learner":  {snap(5, 3, &raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{2}}), "contradicts"},
		"member 0":             {snap(5, 3, &raftpb.ConfState{Voters: []uint64{1, 0}}), "contradicts"},
	}
	for kind := range int32(30) {
		if m := msg(raftpb.MessageType(kind), 2, 1, nil); !travels(m.GetType()) {
			tests[m.GetType().String()] = struct {
				m       *raftpb.Message
				problem string
			}{m, "must stay local"}
		}
	}
	for name, test := range tests {
		err := Check(test.m)
		var refusal *CheckError
		switch {
		case test.problem == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.problem == "":
		case !errors.As(err, &refusal) || !errors.Is(err, raftmux.ErrInvalid):
			t.Errorf("%s: error is %v", name, err)
		case !strings.Contains(refusal.Problem, test.problem) || !strings.Contains(err.Error(), refusal.Problem):
			t.Errorf("%s: error is %v, want %q in it", name, err, test.problem)
		}
	}
	if raftmux.ReasonLabel(Check(nil)) != "invalid" {
		t.Error("the metrics don't know the reason")
	}
}
