package raftmux_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// C17: heartbeats, votes and the responses to them travel on a connection of
// their own, and nothing else does.
func TestC17Lanes(t *testing.T) {
	t.Parallel()
	control := map[eraftpb.MessageType]bool{
		eraftpb.MessageType_MsgHeartbeat:              true,
		eraftpb.MessageType_MsgHeartbeatResponse:      true,
		eraftpb.MessageType_MsgRequestVote:            true,
		eraftpb.MessageType_MsgRequestVoteResponse:    true,
		eraftpb.MessageType_MsgRequestPreVote:         true,
		eraftpb.MessageType_MsgRequestPreVoteResponse: true,
	}
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 2 })
	sender := h.sender(t)
	messages := []*raft_serverpb.RaftMessage{rig.Extra(1, there, 2), rig.Extra(2, there, 2)}
	for region := range uint64(20) {
		for _, typ := range []eraftpb.MessageType{
			eraftpb.MessageType_MsgPropose, eraftpb.MessageType_MsgAppend, eraftpb.MessageType_MsgAppendResponse,
			eraftpb.MessageType_MsgTransferLeader, eraftpb.MessageType_MsgTimeoutNow,
			eraftpb.MessageType_MsgReadIndex, eraftpb.MessageType_MsgReadIndexResp,
		} {
			messages = append(messages, rig.Message(region+1, there, 2, typ))
		}
		for typ := range control {
			messages = append(messages, rig.Message(region+1, there, 2, typ))
		}
	}
	sendAll(t, sender, messages...)
	peer.WaitMessages(t, len(messages))
	streams := peer.Streams()
	for _, received := range peer.Messages() {
		message := received.Message
		want := "data"
		if message.GetMessage() != nil && control[message.GetMessage().GetMsgType()] {
			want = "control"
		}
		id, err := wire.ParseStreamID(streams[received.Stream-1].Metadata.Get(wire.StreamKey)[0])
		if err != nil {
			t.Fatal(err)
		}
		if id.Lane != want {
			t.Errorf("%v came in the %s lane", message, id.Lane)
		}
	}
	if conns := peer.Conns(); conns != 3 {
		t.Errorf("%d TCP connections, want 2 for data and 1 for control", conns)
	}
}

// fill sends a message until there is no room for it, and returns how many there
// was room for.
func fill(t *testing.T, sender *raftmux.Sender, message *raft_serverpb.RaftMessage) (accepted int) {
	t.Helper()
	for {
		err := sender.Send(message)
		if errors.Is(err, raftmux.ErrFull) {
			return accepted
		}
		if err != nil {
			t.Fatal(err)
		}
		if accepted++; accepted > 1<<16 {
			t.Fatal("the queue has no end")
		}
	}
}

// C17: a data queue that is full keeps no heartbeat and no vote away, and
// heartbeats keep no vote away.
func TestC17ControlReserve(t *testing.T) {
	t.Parallel()
	const capacity = 100
	h := newSending(t, func(o *raftmux.ClientOptions) { o.QueueMessages = capacity })
	h.resolver.Set(there, rig.DeadAddress(t))
	t.Cleanup(h.resolver.Block(there))
	sender := h.sender(t)
	for _, step := range []struct {
		what    string
		message *raft_serverpb.RaftMessage
		want    int
	}{
		{"data", rig.Ack(1, there, 2), capacity},
		{"heartbeats", rig.Heartbeat(1, there, 2), capacity * 3 / 4},
		{"votes", rig.Vote(1, there, 2), capacity / 4},
		{"heartbeats again", rig.Heartbeat(1, there, 2), 0},
	} {
		if got := fill(t, sender, step.message); got != step.want {
			t.Errorf("%s: %d were accepted, want %d", step.what, got, step.want)
		}
	}
}

// C17: nor do heartbeats keep votes away by their bytes, where there is room for
// ever so many messages.
func TestC17ControlReserveInBytes(t *testing.T) {
	t.Parallel()
	const context, size = 1 << 10, 4 << 20 // what is left to the lane when the budget is gone
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.QueueMessages, o.QueueBytes, o.MaxMessageSize = 1<<20, 8<<20, 4<<20
		o.MemoryBudget = 16 << 20 // of which data takes what it can
	})
	t.Cleanup(h.resolver.Block(there))
	sender := h.sender(t)
	fill(t, sender, rig.Append(1, there, 2, 1, 32<<10))
	heartbeat, vote := rig.Heartbeat(1, there, 2), rig.Vote(1, there, 2)
	heartbeat.Message.Context, vote.Message.Context = make([]byte, context), make([]byte, context)
	heartbeats := fill(t, sender, heartbeat) * heartbeat.Size()
	if heartbeats < size*3/4-2*context {
		t.Errorf("%d bytes of heartbeats beside full data", heartbeats)
	}
	if votes := fill(t, sender, vote) * vote.Size(); votes < size/4-2*context {
		t.Errorf("%d bytes of votes beside %d of heartbeats", votes, heartbeats)
	}
}

// C17: however small the bound on bytes, heartbeats and votes have 4 MiB of their own,
// and there is room for a heartbeat as large as a message may be.
func TestC17ControlHasItsOwn(t *testing.T) {
	t.Parallel()
	const context, size, largest = 4 << 10, 4 << 20, 64 << 10
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.QueueMessages, o.QueueBytes, o.MaxMessageSize = 1<<20, largest, largest
	})
	t.Cleanup(h.resolver.Block(there))
	sender := h.sender(t)
	heartbeat, vote := rig.Heartbeat(1, there, 2), rig.Vote(1, there, 2)
	heartbeat.Message.Context = make([]byte, largest-heartbeat.Size()-8)
	mustSend(t, sender, heartbeat)
	heartbeat.Message.Context, vote.Message.Context = make([]byte, context), make([]byte, context)
	if heartbeats := fill(t, sender, heartbeat) * heartbeat.Size(); heartbeats < size*3/4-largest-2*context {
		t.Errorf("%d bytes of heartbeats", heartbeats)
	}
	if votes := fill(t, sender, vote) * vote.Size(); votes < size/4-2*context {
		t.Errorf("%d bytes of votes", votes)
	}
}

// C17: the control lane never gets shallow: there is room for votes, though heartbeats
// were refused beside ever so many bytes.
func TestC17ControlIsNeverShallow(t *testing.T) {
	t.Parallel()
	const context, size, left = 4 << 10, 16 << 20, 1 << 20 // what heartbeats leave
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.QueueMessages, o.QueueBytes, o.MaxMessageSize = 1<<20, size, 4<<20
	})
	t.Cleanup(h.resolver.Block(there))
	sender := h.sender(t)
	heartbeat, vote := rig.Heartbeat(1, there, 2), rig.Vote(1, there, 2)
	heartbeat.Message.Context, vote.Message.Context = make([]byte, context), make([]byte, context)
	if heartbeats := fill(t, sender, heartbeat) * heartbeat.Size(); heartbeats < size-left-2*context {
		t.Errorf("%d bytes of heartbeats, want %d", heartbeats, size-left)
	}
	if votes := fill(t, sender, vote) * vote.Size(); votes < left-2*context {
		t.Errorf("%d bytes of votes, want %d", votes, left)
	}
}

// C17: the lanes have ledgers of their own.
func TestC17LedgerByLane(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	sendAll(t, h.sender(t), rig.Ack(1, there, 2), rig.Heartbeat(1, there, 2), rig.Vote(1, there, 2))
	peer.WaitMessages(t, 3)
	status, _ := h.Store(there)
	var lanes []string
	for _, c := range status.Connections {
		lanes = append(lanes, c.Lane)
		if want := map[string]uint64{"data": 1, "control": 2}[c.Lane]; c.Ledger.Accepted != want || c.Ledger.Sent != want {
			t.Errorf("%s: %+v, want %d sent", c.Lane, c.Ledger, want)
		}
	}
	if strings.Join(lanes, " ") != "data control" {
		t.Errorf("lanes %v", lanes)
	}
}
