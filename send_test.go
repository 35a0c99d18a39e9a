package raftmux_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

type filterFunc func(raftmux.Envelope) bool

func (f filterFunc) Pass(e raftmux.Envelope) bool { return f(e) }

// C2: each refusal is its typed error, with the ids and one label, and makes no
// callback.
func TestC2Refusals(t *testing.T) {
	t.Parallel()
	const region, peer = 99, 98 // of the messages that are refused
	for label, test := range map[string]struct {
		reason  error
		change  func(*raftmux.ClientOptions)
		before  func(*testing.T, *sending, *raftmux.Sender)
		message *raft_serverpb.RaftMessage
	}{
		"full": {
			reason: raftmux.ErrFull,
			change: func(o *raftmux.ClientOptions) { o.QueueMessages = 2 },
			before: func(t *testing.T, h *sending, s *raftmux.Sender) {
				t.Cleanup(h.resolver.Block(there))
				mustSend(t, s, rig.Ack(1, there, 2), rig.Ack(1, there, 2))
			},
		},
		"disconnected": {
			reason: raftmux.ErrDisconnected,
			before: func(t *testing.T, h *sending, _ *raftmux.Sender) { h.close(t) },
		},
		"paused": {
			reason: raftmux.ErrPaused,
			before: func(_ *testing.T, h *sending, _ *raftmux.Sender) { h.SetAllowlist([]uint64{3, 4}) },
		},
		"filtered": {
			reason: raftmux.ErrFiltered,
			change: func(o *raftmux.ClientOptions) {
				o.Filter = filterFunc(func(e raftmux.Envelope) bool { return e.RegionID != region })
			},
		},
		"too_large": {
			reason:  raftmux.ErrTooLarge,
			change:  func(o *raftmux.ClientOptions) { o.MaxMessageSize = 1000 },
			message: rig.Append(region, there, peer, 1, 1000),
		},
		"invalid": {
			reason:  raftmux.ErrInvalid,
			message: rig.Message(region, there, peer, eraftpb.MessageType_MsgBeat),
		},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			change := test.change
			if change == nil {
				change = func(*raftmux.ClientOptions) {}
			}
			h := newSending(t, change)
			s := h.sender(t)
			if test.before != nil {
				test.before(t, h, s)
			}
			message := test.message
			if message == nil {
				message = rig.Ack(region, there, peer)
			}
			err := s.Send(message)
			if !errors.Is(err, test.reason) {
				t.Fatalf("answered %v", err)
			}
			for other := range map[error]bool{
				raftmux.ErrFull: true, raftmux.ErrDisconnected: true, raftmux.ErrPaused: true,
				raftmux.ErrFiltered: true, raftmux.ErrTooLarge: true, raftmux.ErrInvalid: true,
			} {
				if other != test.reason && errors.Is(err, other) {
					t.Errorf("%v is %v too", err, other)
				}
			}
			var refused *raftmux.SendError
			if !errors.As(err, &refused) {
				t.Fatalf("answered a %T", err)
			}
			if refused.StoreID != there || refused.RegionID != region || refused.PeerID != peer {
				t.Errorf("the error is about store %d, region %d, peer %d", refused.StoreID, refused.RegionID, refused.PeerID)
			}
			if got := raftmux.ReasonLabel(err); got != label {
				t.Errorf("label %q", got)
			}
			s.Flush()
			h.close(t)
			if n := h.router.Events().Count(func(e rig.Event[raftmux.SnapshotStatus]) bool { return e.Region == region }); n > 0 {
				t.Errorf("%d callbacks for a message that was refused", n)
			}
		})
	}
	if raftmux.ReasonLabel(nil) != "" || raftmux.ReasonLabel(context.Canceled) != "" {
		t.Error("a label for what is no refusal")
	}
}

// C2: what no Server would take is too large.
func TestC2TooManyEntries(t *testing.T) {
	t.Parallel()
	message := rig.Append(1, there, 2, 1, 0)
	message.Message.Entries = slices.Repeat(message.Message.Entries, 4_000_001)
	err := newSending(t).sender(t).Send(message)
	if !errors.Is(err, raftmux.ErrTooLarge) || !strings.Contains(err.Error(), "4000001 entries") {
		t.Errorf("answered %v", err)
	}
}

// C2: what nobody can send is invalid; nothing panics, nil neither.
func TestC2Invalid(t *testing.T) {
	t.Parallel()
	h := newSending(t)
	s := h.sender(t)
	invalid := map[string]*raft_serverpb.RaftMessage{
		"nil":        nil,
		"empty":      {},
		"no to_peer": {RegionId: 1, Message: &eraftpb.Message{MsgType: eraftpb.MessageType_MsgHeartbeat}},
		"peer 0":     rig.Ack(1, there, 0),
		"store 0":    rig.Ack(1, 0, 2),
		"own store":  rig.Ack(1, here, 2),
		"nothing":    {RegionId: 1, ToPeer: &metapb.Peer{Id: 2, StoreId: there}},
		"etcd type":  rig.Message(1, there, 2, eraftpb.MessageType(19)),
		"type -1":    rig.Message(1, there, 2, eraftpb.MessageType(-1)),
	}
	for _, local := range []eraftpb.MessageType{
		eraftpb.MessageType_MsgHup, eraftpb.MessageType_MsgBeat, eraftpb.MessageType_MsgUnreachable,
		eraftpb.MessageType_MsgSnapStatus, eraftpb.MessageType_MsgCheckQuorum,
	} {
		invalid[local.String()] = rig.Message(1, there, 2, local)
		both := rig.Extra(1, there, 2)
		both.Message = &eraftpb.Message{MsgType: local}
		invalid[local.String()+" with extra_msg"] = both
	}
	for name, m := range invalid {
		if err := s.Send(m); !errors.Is(err, raftmux.ErrInvalid) {
			t.Errorf("%s: answered %v", name, err)
		}
	}
	if _, ok := h.Store(there); ok {
		t.Error("a store became known by messages that nobody can send")
	}
}

// C2: a nil element of a list, on which the generated code panics, is refused,
// costs nothing, and whatever comes next is sent.
func TestC2NilElements(t *testing.T) {
	t.Parallel()
	for _, refer := range []int{0, 4096} {
		peer := rig.NewPeer(t, rig.PeerOptions{})
		h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ReferToPayloads = refer })
		s := h.sender(t)
		entry := rig.Append(1, there, 2, 1, 10)
		entry.Message.Entries = append(entry.Message.Entries, nil)
		large := rig.Append(1, there, 2, 1, 10_000)
		large.MergeTarget = &metapb.Region{Peers: []*metapb.Peer{nil}}
		extra := rig.Extra(1, there, 2)
		extra.ExtraMsg.CheckPeers = []*metapb.Peer{nil}
		snapshot := rig.Snapshot(1, there, 2, 10)
		snapshot.MergeTarget = large.MergeTarget
		for name, m := range map[string]*raft_serverpb.RaftMessage{
			"entry": entry, "merge_target": large, "extra_msg": extra, "snapshot": snapshot,
		} {
			if err := s.Send(m); !errors.Is(err, raftmux.ErrInvalid) {
				t.Errorf("%s: answered %v", name, err)
			}
		}
		sendAll(t, s, rig.Ack(1, there, 2))
		peer.WaitMessages(t, 1)
		if l, _, _ := h.ledger(there); l.Accepted != 1 || l.Sent != 1 {
			t.Errorf("ledger %+v", l)
		}
	}
}

// C2: every type that crosses the network is accepted, and so are messages
// without a Raft message that say something else.
func TestC2Accepted(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer)
	var want []*raft_serverpb.RaftMessage
	for typ := range eraftpb.MessageType_name {
		switch typ := eraftpb.MessageType(typ); typ {
		case eraftpb.MessageType_MsgHup, eraftpb.MessageType_MsgBeat, eraftpb.MessageType_MsgUnreachable,
			eraftpb.MessageType_MsgSnapStatus, eraftpb.MessageType_MsgCheckQuorum, eraftpb.MessageType_MsgSnapshot:
		default:
			want = append(want, rig.Message(1, there, 2, typ))
		}
	}
	tombstone, merge := rig.Extra(2, there, 2), rig.Extra(3, there, 2)
	tombstone.ExtraMsg, tombstone.IsTombstone = nil, true
	merge.ExtraMsg, merge.MergeTarget = nil, &metapb.Region{Id: 9}
	want = append(want, rig.Extra(1, there, 2), tombstone, merge)
	sendAll(t, h.sender(t), want...)
	peer.WaitMessages(t, len(want))
	// The lanes don't wait for each other.
	texts := func(n int, message func(int) *raft_serverpb.RaftMessage) (texts []string) {
		for i := range n {
			texts = append(texts, message(i).String())
		}
		slices.Sort(texts)
		return texts
	}
	received := peer.Messages()
	got := texts(len(received), func(i int) *raft_serverpb.RaftMessage { return received[i].Message })
	if sent := texts(len(want), func(i int) *raft_serverpb.RaftMessage { return want[i] }); !slices.Equal(got, sent) {
		t.Errorf("received %v, sent %v", got, sent)
	}
}

// C2: the helper tells the host of a refused message what it would have been
// told of a dropped one, and passes "not now" on.
func TestC2ReportRefused(t *testing.T) {
	t.Parallel()
	router := rig.NewRouter[raftmux.SnapshotStatus](t)
	if !raftmux.ReportRefused(router, rig.Ack(1, there, 2)) {
		t.Error("not taken")
	}
	if e := router.Events(); e.Unreachable(1, 2) != 1 || len(e) != 1 {
		t.Errorf("events %+v", e)
	}
	if !raftmux.ReportRefused(router, rig.Snapshot(3, there, 4, 10)) {
		t.Error("not taken")
	}
	e := router.Events()
	if s := e.Snapshots(3, 4); e.Unreachable(3, 4) != 1 || len(s) != 1 || s[0] != raftmux.SnapshotFailure {
		t.Errorf("events %+v", e)
	}
	for _, kind := range []rig.Kind{rig.Unreachable, rig.SnapshotStatus} {
		router.Refuse(kind, 1)
		if raftmux.ReportRefused(router, rig.Snapshot(3, there, 4, 10)) {
			t.Errorf("%v: taken, though the host said not now", kind)
		}
	}
}

// C2: a closed Sender refuses; the Client goes on.
func TestC2ClosedSender(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	s := h.NewSender()
	mustSend(t, s, rig.Ack(1, there, 2))
	s.Close() // flushes
	s.Close()
	peer.WaitMessages(t, 1)
	if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrDisconnected) {
		t.Errorf("answered %v", err)
	}
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	peer.WaitMessages(t, 2)
}

// C2: the allowlist pauses stores known and unknown, and nothing else; lifting
// it lets them go on.
func TestC2Allowlist(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	h.resolver.Set(3, peer.Addr())
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	h.SetAllowlist([]uint64{3})
	if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrPaused) {
		t.Errorf("a store known before: %v", err)
	}
	if status, _ := h.Store(there); !status.Paused {
		t.Errorf("status %+v", status)
	}
	if err := s.Send(rig.Ack(1, 4, 2)); !errors.Is(err, raftmux.ErrPaused) {
		t.Errorf("an unknown store: %v", err)
	}
	sendAll(t, s, rig.Ack(1, 3, 2))
	h.SetAllowlist(nil)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 3)
}

// C3: what the caller passed is copied before Send returns, entry bytes too.
func TestC3CallerReuses(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer)
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	data := bytes.Repeat([]byte{'x'}, 40_000)
	reused := rig.Append(1, there, 2, 2, 0)
	reused.Message.Context = make([]byte, 8)
	for i := range uint64(20) {
		b := byte('a' + i)
		for j := range data {
			data[j] = b
		}
		copy(reused.Message.Context, bytes.Repeat([]byte{b}, 8))
		reused.Message.Entries[0].Data, reused.Message.Entries[1].Data = data, data[:100]
		reused.Message.Index, reused.RegionId, reused.ToPeer.Id = i, i+1, i+1
		mustSend(t, s, reused)
		for j := range data {
			data[j] = '!'
		}
		copy(reused.Message.Context, "!!!!!!!!")
		reused.RegionId, reused.ToPeer.Id, reused.Message.Index = 77, 77, 77
	}
	s.Flush()
	release()
	peer.WaitMessages(t, 20)
	for i, got := range peer.Messages() {
		m, b := got.Message, byte('a'+i)
		if m.RegionId != uint64(i)+1 || m.ToPeer.Id != uint64(i)+1 || m.Message.Index != uint64(i) {
			t.Errorf("message %d came as %d/%d/%d", i, m.RegionId, m.ToPeer.Id, m.Message.Index)
		}
		if !bytes.Equal(m.Message.Context, bytes.Repeat([]byte{b}, 8)) ||
			!bytes.Equal(m.Message.Entries[0].Data, bytes.Repeat([]byte{b}, 40_000)) ||
			!bytes.Equal(m.Message.Entries[1].Data, bytes.Repeat([]byte{b}, 100)) {
			t.Errorf("message %d came with other bytes", i)
		}
	}
}

// A SharedSender takes what many goroutines send, and keeps each one's order.
func TestSharedSender(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer)
	s := h.NewSharedSender()
	var workers sync.WaitGroup
	for region := uint64(1); region <= 8; region++ {
		workers.Go(func() {
			for _, m := range numbered(region, 1, 100, 20) {
				if err := s.Send(m); err != nil {
					t.Error(err)
				}
				if m.Message.Index%7 == 0 {
					s.Flush()
				}
			}
		})
	}
	workers.Wait()
	s.Flush()
	if s.NeedFlush() {
		t.Error("needs a flush after one")
	}
	peer.WaitMessages(t, 800)
	for region := uint64(1); region <= 8; region++ {
		wantRange(t, indexes(peer, region, 0), 1, 100)
	}
	s.Close()
	if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrDisconnected) {
		t.Errorf("closed, and answers %v", err)
	}
}

// boastful is an encoder that announces more than it writes.
type boastful struct{}

func (boastful) Size() int                     { return 10 }
func (boastful) AppendTo(buffer []byte) []byte { return append(buffer, "short"...) }

// C2: an encoder's mistake is an invalid message, with the reason itself as Reason
// and the mistake beside it, on the stream and off it.
func TestC2EncoderOfAnotherSize(t *testing.T) {
	t.Parallel()
	h := newSending(t)
	sender := h.sender(t)
	for _, message := range []*raft_serverpb.RaftMessage{rig.Append(7, there, 2, 1, 10), rig.Snapshot(7, there, 2, 10)} {
		var refusal *raftmux.SendError
		err := sender.SendEncoded(raftmux.EnvelopeOf(message), boastful{})
		if !errors.As(err, &refusal) || refusal.Reason != raftmux.ErrInvalid || !strings.Contains(refusal.Detail, "size") {
			t.Errorf("%v: %v", message.GetMessage().GetMsgType(), err)
		}
	}
}
