package load

import (
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// KV returns the message as kvproto has it.
func (m Message) KV() *raft_serverpb.RaftMessage {
	body := &eraftpb.Message{From: FromPeer, To: ToPeer, Term: Term, Commit: Commit}
	switch m.Kind {
	case Heartbeat:
		body.MsgType = eraftpb.MessageType_MsgHeartbeat
	case HeartbeatResponse:
		body.MsgType = eraftpb.MessageType_MsgHeartbeatResponse
	case AppendResponse:
		body.MsgType, body.Index = eraftpb.MessageType_MsgAppendResponse, m.Index
	case Append:
		body.MsgType, body.LogTerm, body.Index = eraftpb.MessageType_MsgAppend, Term, m.Index-1
		body.Entries = []*eraftpb.Entry{{Term: Term, Index: m.Index, Data: m.Data}}
	}
	return &raft_serverpb.RaftMessage{
		RegionId:    m.Region,
		FromPeer:    &metapb.Peer{Id: FromPeer, StoreId: FromStore},
		ToPeer:      &metapb.Peer{Id: ToPeer, StoreId: m.Store},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 3, Version: 7},
		Message:     body,
	}
}

// Etcd returns the message as go.etcd.io/raft has it.
func (m Message) Etcd() *raftpb.Message {
	body := &raftpb.Message{From: ref(uint64(FromPeer)), To: ref(uint64(ToPeer)), Term: ref(uint64(Term)), Commit: ref(uint64(Commit))}
	switch m.Kind {
	case Heartbeat:
		body.Type = ref(raftpb.MsgHeartbeat)
	case HeartbeatResponse:
		body.Type = ref(raftpb.MsgHeartbeatResp)
	case AppendResponse:
		body.Type, body.Index = ref(raftpb.MsgAppResp), ref(m.Index)
	case Append:
		body.Type, body.LogTerm, body.Index = ref(raftpb.MsgApp), ref(uint64(Term)), ref(m.Index-1)
		body.Entries = []*raftpb.Entry{{Term: ref(uint64(Term)), Index: ref(m.Index), Data: m.Data}}
	}
	return body
}

// Header returns what goes around the message in etcdraft.
func (m Message) Header() etcdraft.Header {
	return etcdraft.Header{
		RegionID: m.Region,
		From:     etcdraft.Peer{ID: FromPeer, StoreID: FromStore},
		To:       etcdraft.Peer{ID: ToPeer, StoreID: m.Store},
		Epoch:    etcdraft.Epoch{ConfVer: 3, Version: 7},
	}
}

func ref[T any](value T) *T { return &value }
