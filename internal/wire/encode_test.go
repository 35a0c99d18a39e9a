package wire

import (
	"bytes"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"pgregory.net/rapid"
)

// usualMessage generates messages that a MessageEncoder takes, mostly.
var usualMessage = rapid.Custom(func(t *rapid.T) *raft_serverpb.RaftMessage {
	m := plainMessage.Draw(t, "message")
	if rapid.IntRange(0, 3).Draw(t, "as it is") == 0 {
		return m
	}
	peer := func(name string) *metapb.Peer {
		return &metapb.Peer{Id: number.Draw(t, name), StoreId: number.Draw(t, name+" store")}
	}
	usual := &raft_serverpb.RaftMessage{
		RegionId: m.RegionId, FromPeer: peer("from"), ToPeer: peer("to"),
		RegionEpoch: &metapb.RegionEpoch{ConfVer: number.Draw(t, "conf"), Version: number.Draw(t, "version")},
		Message:     &eraftpb.Message{},
	}
	if raft := m.Message; raft != nil {
		usual.Message = &eraftpb.Message{
			MsgType: raft.MsgType, To: raft.To, From: raft.From, Term: raft.Term, LogTerm: raft.LogTerm,
			Index: raft.Index, Commit: raft.Commit, Reject: raft.Reject, RejectHint: raft.RejectHint, Context: raft.Context,
		}
		for _, entry := range raft.Entries {
			usual.Message.Entries = append(usual.Message.Entries, &eraftpb.Entry{
				EntryType: entry.EntryType, Term: entry.Term, Index: entry.Index, Data: entry.Data, Context: entry.Context,
			})
		}
	}
	return usual
})

// A MessageEncoder writes what the generated code writes, to the byte, or says
// that it doesn't.
func TestMessageEncoder(t *testing.T) {
	var encoder MessageEncoder
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		m := usualMessage.Draw(t, "message")
		size, ok := encoder.Measure(m)
		if !ok {
			return
		}
		taken++
		want, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		before := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		got := encoder.AppendTo(bytes.Clone(before))
		if size != len(want) || !bytes.Equal(got, append(before, want...)) {
			t.Fatalf("%d bytes\n%x, want %d\n%x", size, got, len(want), want)
		}
		encoder.Reset()
	})
	if taken < 10 {
		t.Errorf("only %d messages were of its kind", taken)
	}
}

// What is rare is left to the generated code.
func TestMessageEncoderLeaves(t *testing.T) {
	for name, change := range map[string]func(*raft_serverpb.RaftMessage){
		"no from peer":     func(m *raft_serverpb.RaftMessage) { m.FromPeer = nil },
		"a learner":        func(m *raft_serverpb.RaftMessage) { m.ToPeer.Role = metapb.PeerRole_Learner },
		"a witness":        func(m *raft_serverpb.RaftMessage) { m.FromPeer.IsWitness = true },
		"no epoch":         func(m *raft_serverpb.RaftMessage) { m.RegionEpoch = nil },
		"no Raft message":  func(m *raft_serverpb.RaftMessage) { m.Message = nil },
		"a tombstone":      func(m *raft_serverpb.RaftMessage) { m.IsTombstone = true },
		"keys":             func(m *raft_serverpb.RaftMessage) { m.StartKey = []byte{1} },
		"a merge":          func(m *raft_serverpb.RaftMessage) { m.MergeTarget = &metapb.Region{} },
		"an extra message": func(m *raft_serverpb.RaftMessage) { m.ExtraMsg = &raft_serverpb.ExtraMessage{} },
		"an extra context": func(m *raft_serverpb.RaftMessage) { m.ExtraCtx = []byte{1} },
		"disk usage":       func(m *raft_serverpb.RaftMessage) { m.DiskUsage = 1 },
		"unknown fields":   func(m *raft_serverpb.RaftMessage) { m.XXX_unrecognized = []byte{0x98, 6, 1} },
		"of a peer":        func(m *raft_serverpb.RaftMessage) { m.ToPeer.XXX_unrecognized = []byte{0x98, 6, 1} },
		"of the epoch":     func(m *raft_serverpb.RaftMessage) { m.RegionEpoch.XXX_unrecognized = []byte{0x98, 6, 1} },
		"of the Raft message": func(m *raft_serverpb.RaftMessage) {
			m.Message.XXX_unrecognized = []byte{0x98, 6, 1}
		},
		"of an entry":  func(m *raft_serverpb.RaftMessage) { m.Message.Entries[0].XXX_unrecognized = []byte{0x98, 6, 1} },
		"a nil entry":  func(m *raft_serverpb.RaftMessage) { m.Message.Entries[0] = nil },
		"sync_log":     func(m *raft_serverpb.RaftMessage) { m.Message.Entries[0].SyncLog = true },
		"a snapshot":   func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot = &eraftpb.Snapshot{} },
		"a priority":   func(m *raft_serverpb.RaftMessage) { m.Message.Priority = -1 },
		"no such type": func(m *raft_serverpb.RaftMessage) { m.Message.MsgType = -1 },
	} {
		m := &raft_serverpb.RaftMessage{
			RegionId: 1, FromPeer: &metapb.Peer{Id: 2, StoreId: 1}, ToPeer: &metapb.Peer{Id: 3, StoreId: 2},
			RegionEpoch: &metapb.RegionEpoch{Version: 1},
			Message:     &eraftpb.Message{MsgType: eraftpb.MessageType_MsgAppend, Entries: []*eraftpb.Entry{{Term: 1, Index: 1}}},
		}
		var encoder MessageEncoder
		if _, ok := encoder.Measure(m); !ok {
			t.Fatal("a usual message is left")
		}
		change(m)
		if _, ok := encoder.Measure(m); ok {
			t.Errorf("%s: it is taken", name)
		}
	}
}
