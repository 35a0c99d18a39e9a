package etcdraft

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
)

// door is a MuxSender that refuses messages to some peers.
type door struct {
	refuse    map[uint64]error
	envelopes []raftmux.Envelope
	encoded   [][]byte
	refused   []uint64 // by store
	calls     []string
}

func (d *door) SendEncoded(envelope raftmux.Envelope, encoder raftmux.Encoder) error {
	if err := d.refuse[envelope.ToPeerID]; err != nil {
		return err
	}
	d.envelopes = append(d.envelopes, envelope)
	d.encoded = append(d.encoded, encoder.AppendTo(make([]byte, 0, encoder.Size())))
	return nil
}

func (d *door) CountRefused(storeID uint64, err error) {
	if raftmux.ReasonLabel(err) == "invalid" {
		d.refused = append(d.refused, storeID)
	}
}

func (d *door) Flush()          { d.calls = append(d.calls, "Flush") }
func (d *door) NeedFlush() bool { d.calls = append(d.calls, "NeedFlush"); return true }
func (d *door) Close()          { d.calls = append(d.calls, "Close") }

// reports is a Node that remembers.
type reports []string

func (r *reports) ReportUnreachable(id uint64) { *r = append(*r, fmt.Sprint("unreachable ", id)) }
func (r *reports) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	*r = append(*r, fmt.Sprint("snapshot ", id, " ", status))
}

var _ Node = (*raft.RawNode)(nil)

func TestSend(t *testing.T) {
	door := new(door)
	sender := &Sender{sender: door}
	sent := simple(raftpb.MsgApp, 100)
	if err := sender.Send(simpleHeader, sent); err != nil {
		t.Fatal(err)
	}
	want := raftmux.Envelope{
		RegionID: 100001, FromStoreID: 1, ToStoreID: 2, ToPeerID: 2001,
		Type: eraftpb.MessageType_MsgAppend, HasMessage: true,
	}
	if got := door.envelopes[0]; got != want {
		t.Errorf("envelope is %+v, want %+v", got, want)
	}
	header, got, _, err := decodeBy(new(decoder), door.encoded[0])
	if err != nil || header != simpleHeader || !equal(got, sent) {
		t.Errorf("arrives as %+v %v, %v", header, got, err)
	}
	if sender.encoder.message != nil {
		t.Error("the message is kept")
	}

	for name, m := range map[string]*raftpb.Message{
		"nil":             nil,
		"another address": msg(raftpb.MsgHeartbeat, 1001, 2002, nil),
		"another origin":  msg(raftpb.MsgHeartbeat, 1002, 2001, nil),
		"local":           msg(raftpb.MsgBeat, 1001, 2001, nil),
	} {
		var refusal *CheckError
		if err := sender.Send(simpleHeader, m); !errors.Is(err, raftmux.ErrInvalid) || !errors.As(err, &refusal) {
			t.Errorf("%s: error is %v", name, err)
		} else if !strings.HasPrefix(err.Error(), "etcdraft: region 100001: ") {
			t.Errorf("%s: error %q doesn't name the region", name, err)
		}
	}
	if len(door.encoded) != 1 {
		t.Error("a refused message went out")
	}
	if !slices.Equal(door.refused, []uint64{2, 2, 2, 2}) { // C2: each is counted
		t.Errorf("counted as refused, by store: %v", door.refused)
	}

	if !sender.NeedFlush() {
		t.Error("NeedFlush doesn't ask below")
	}
	sender.Flush()
	sender.Close()
	if !slices.Equal(door.calls, []string{"NeedFlush", "Flush", "Close"}) {
		t.Errorf("calls are %v", door.calls)
	}
}

func TestSendAll(t *testing.T) {
	door := &door{refuse: map[uint64]error{3: raftmux.ErrFull, 4: raftmux.ErrDisconnected}}
	sender := &Sender{sender: door}
	group := Group{
		RegionID: 7, Self: Peer{ID: 1, StoreID: 11}, Epoch: Epoch{ConfVer: 3, Version: 4},
		Stores: map[uint64]uint64{1: 11, 2: 12, 3: 13, 4: 14},
	}
	heartbeat := func(to uint64) *raftpb.Message { return msg(raftpb.MsgHeartbeat, 1, to, nil) }
	snap := func(to uint64) *raftpb.Message {
		return msg(raftpb.MsgSnap, 1, to, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: proto.Uint64(5), Term: proto.Uint64(3), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
			}}
		})
	}
	node := new(reports)
	accepted, err := sender.SendAll(group, node, []*raftpb.Message{
		heartbeat(2),
		heartbeat(3), heartbeat(3), snap(3), snap(3), // full
		snap(4), heartbeat(4), // disconnected
		heartbeat(2), snap(2),
		heartbeat(9), heartbeat(9), snap(9), // unknown
		msg(raftpb.MsgAppResp, 1, 1, nil), // to itself
		msg(raftpb.MsgStorageAppend, 1, raft.LocalAppendThread, nil),
		msg(raftpb.MsgApp, 1, 2, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{nil} }),
		msg(raftpb.MsgProp, 5, 2, func(m *raftpb.Message) { m.Term, m.Entries = nil, []*raftpb.Entry{{}} }), // passed on
		nil,
	})
	if accepted != 4 || !errors.Is(err, raftmux.ErrFull) {
		t.Errorf("%d accepted, error %v", accepted, err)
	}
	if want := (reports{
		"unreachable 3", "snapshot 3 2", "snapshot 3 2",
		"snapshot 4 2", "unreachable 4",
		"unreachable 9", "snapshot 9 2",
		"unreachable 2",
	}); !slices.Equal(*node, want) {
		t.Errorf("reports are %q, want %q", *node, want)
	}
	for _, envelope := range door.envelopes {
		if envelope.ToPeerID != 2 || envelope.ToStoreID != 12 || envelope.FromStoreID != 11 || envelope.RegionID != 7 {
			t.Errorf("envelope is %+v", envelope)
		}
	}
	header, m, _, err := decodeBy(new(decoder), door.encoded[3])
	if want := (Header{RegionID: 7, From: group.Self, To: Peer{2, 12}, Epoch: group.Epoch}); err != nil || header != want {
		t.Errorf("header is %+v, %v", header, err)
	}
	if m.GetFrom() != 5 {
		t.Errorf("what is passed on is from %d", m.GetFrom())
	}
	for problem, message := range map[string]*raftpb.Message{
		"region 7: MsgStorageAppend from peer 1 to peer 18446744073709551615: is of a type that must stay local": msg(raftpb.MsgStorageAppend, 1, raft.LocalAppendThread, nil),
		"region 7: MsgHeartbeat from peer 1 to peer 9: is to a peer whose store isn't known":                     heartbeat(9),
	} {
		if _, err := sender.SendAll(group, node, []*raftpb.Message{message}); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("error is %v, not %s", err, problem)
		}
	}
	// The next call reports again.
	*node = nil
	if accepted, err = sender.SendAll(group, node, []*raftpb.Message{heartbeat(3)}); accepted != 0 || err == nil {
		t.Errorf("%d accepted, error %v", accepted, err)
	}
	if !slices.Equal(*node, reports{"unreachable 3"}) {
		t.Errorf("reports are %q", *node)
	}
}
