package etcdraft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
)

// kinds are the types that cross the network.
var kinds = []raftpb.MessageType{
	raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgSnap,
	raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow,
	raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
}

// counter draws terms, indexes and the like: small ones, and those of each length.
func counter() *rapid.Generator[uint64] {
	return rapid.Custom(func(t *rapid.T) uint64 {
		width := rapid.IntRange(0, 63).Draw(t, "width")
		return rapid.Uint64Range(0, 1<<width-1).Draw(t, "counter")
	})
}

func id() *rapid.Generator[uint64] { return rapid.Uint64Range(1, 1<<64-3) }

// payload draws bytes of up to 24 KiB, mostly short.
func payload() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		n := rapid.SampledFrom([]int{0, 0, 1, 8, 100, 127, 128, 300, 5000, 16500, 24000}).Draw(t, "length")
		b := bytes.Repeat([]byte{byte(n)}, n)
		for i := range min(n, 16) {
			b[i] = rapid.Byte().Draw(t, "byte")
		}
		return b
	})
}

// optional leaves a 0 absent or present, as Raft does both.
func optional(t *rapid.T, value uint64) *uint64 {
	if value == 0 && rapid.Bool().Draw(t, "absent") {
		return nil
	}
	return &value
}

// message draws a message of the type that passes Check.
func message(kind raftpb.MessageType) *rapid.Generator[*raftpb.Message] {
	return rapid.Custom(func(t *rapid.T) *raftpb.Message {
		from, to := id().Draw(t, "from"), id().Draw(t, "to")
		if from == to && !forwarded(kind) {
			to = from%1000 + 1001
		}
		m := &raftpb.Message{Type: kind.Enum(), To: &to, From: &from}
		switch kind {
		case raftpb.MsgProp, raftpb.MsgReadIndex:
			m.Term = optional(t, 0)
		default:
			m.Term = proto.Uint64(1 + counter().Draw(t, "term")%maxCounter)
		}
		m.LogTerm = optional(t, counter().Draw(t, "logTerm"))
		m.Index = optional(t, counter().Draw(t, "index"))
		m.Commit = optional(t, counter().Draw(t, "commit"))
		m.RejectHint = optional(t, counter().Draw(t, "rejectHint"))
		if rapid.Bool().Draw(t, "hasReject") {
			m.Reject = proto.Bool(rapid.Bool().Draw(t, "reject"))
		}
		if rapid.Bool().Draw(t, "hasContext") {
			m.Context = payload().Draw(t, "context")
		}
		switch kind {
		case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
			if n := len(m.Context); n > 0 && n < 8 {
				m.Context = binary.LittleEndian.AppendUint64(nil, id().Draw(t, "read"))
			}
		case raftpb.MsgApp:
			m.Index = proto.Uint64(m.GetIndex() / 2)
			m.LogTerm = proto.Uint64(m.GetLogTerm() / 4)
			term := m.GetLogTerm()
			for i := range rapid.SampledFrom([]int{0, 1, 1, 2, 5, 40}).Draw(t, "entries") {
				term += rapid.Uint64Range(0, 2).Draw(t, "step")
				term = max(term, 1)
				m.Entries = append(m.Entries, entry(t, term, m.GetIndex()+uint64(i)+1))
			}
			m.Term = proto.Uint64(max(m.GetTerm(), term))
		case raftpb.MsgProp:
			for range rapid.IntRange(1, 3).Draw(t, "entries") {
				m.Entries = append(m.Entries, entry(t, 0, 0))
			}
		case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
			m.Entries = []*raftpb.Entry{{Data: payload().Draw(t, "data")}}
		case raftpb.MsgSnap:
			m.Snapshot = snapshot(t, m.GetTerm())
		}
		return m
	})
}

func entry(t *rapid.T, term, index uint64) *raftpb.Entry {
	e := &raftpb.Entry{Term: optional(t, term), Index: optional(t, index)}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		e.Type = raftpb.EntryConfChange.Enum()
		e.Data, _ = proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: proto.Uint64(4)})
	case 1:
		e.Type = raftpb.EntryConfChangeV2.Enum()
		e.Data, _ = proto.Marshal(&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(4)},
		}})
	case 2:
		e.Type = raftpb.EntryNormal.Enum()
		fallthrough
	default:
		e.Data = payload().Draw(t, "data")
	}
	return e
}

func snapshot(t *rapid.T, term uint64) *raftpb.Snapshot {
	ids := rapid.SliceOfNDistinct(id(), 3, 9, rapid.ID[uint64]).Draw(t, "ids")
	state := &raftpb.ConfState{Voters: ids[:2], Learners: ids[3:]}
	if rapid.Bool().Draw(t, "joint") {
		state.VotersOutgoing = []uint64{ids[1], ids[2]}
		state.LearnersNext = []uint64{ids[2]}
		state.AutoLeave = proto.Bool(rapid.Bool().Draw(t, "autoLeave"))
	}
	return &raftpb.Snapshot{
		Data: payload().Draw(t, "data"),
		Metadata: &raftpb.SnapshotMetadata{
			ConfState: state,
			Index:     proto.Uint64(1 + counter().Draw(t, "snapshotIndex")/2),
			Term:      proto.Uint64(rapid.Uint64Range(1, term).Draw(t, "snapshotTerm")),
		},
	}
}

// headerFor draws a header that fits the message.
func headerFor(t *rapid.T, m *raftpb.Message) Header {
	h := Header{
		RegionID: counter().Draw(t, "region"),
		From:     Peer{ID: m.GetFrom(), StoreID: counter().Draw(t, "fromStore")},
		To:       Peer{ID: m.GetTo(), StoreID: 1 + counter().Draw(t, "toStore")},
		Epoch:    Epoch{ConfVer: counter().Draw(t, "confVer"), Version: counter().Draw(t, "version")},
	}
	if forwarded(m.GetType()) && (h.From.ID == h.To.ID || rapid.Bool().Draw(t, "passedOn")) {
		h.From.ID = h.To.ID%1000 + 1001
	}
	return h
}

// decodeBy reads a message as a receiver does.
func decodeBy(d *decoder, data []byte) (header Header, m *raftpb.Message, envelope raftmux.Envelope, err error) {
	m, envelope, err = d.decode(data, &header)
	return header, m, envelope, err
}

// encode writes a message as Sender does.
func encode(header Header, m *raftpb.Message) []byte {
	var e encoder
	e.set(header, m)
	b := e.AppendTo(make([]byte, 0, e.Size()))
	if len(b) != e.Size() {
		panic(fmt.Sprintf("size is %d, said to be %d", len(b), e.Size()))
	}
	return b
}

// toKVProto says what a message is in kvproto's terms.
func toKVProto(h Header, m *raftpb.Message) *raft_serverpb.RaftMessage {
	body := &eraftpb.Message{
		MsgType: eraftpb.MessageType(m.GetType()), To: m.GetTo(), From: m.GetFrom(), Term: m.GetTerm(),
		LogTerm: m.GetLogTerm(), Index: m.GetIndex(), Commit: m.GetCommit(), Reject: m.GetReject(),
		RejectHint: m.GetRejectHint(), Context: full(m.GetContext()),
	}
	for _, e := range m.GetEntries() {
		body.Entries = append(body.Entries, &eraftpb.Entry{
			EntryType: eraftpb.EntryType(e.GetType()), Term: e.GetTerm(), Index: e.GetIndex(), Data: full(e.GetData()),
		})
	}
	if s := m.GetSnapshot(); s != nil {
		body.Snapshot = &eraftpb.Snapshot{Data: full(s.GetData())}
		if d := s.GetMetadata(); d != nil {
			body.Snapshot.Metadata = &eraftpb.SnapshotMetadata{Index: d.GetIndex(), Term: d.GetTerm()}
			if c := d.GetConfState(); c != nil {
				body.Snapshot.Metadata.ConfState = &eraftpb.ConfState{
					Voters: full(c.GetVoters()), Learners: full(c.GetLearners()),
					VotersOutgoing: full(c.GetVotersOutgoing()), LearnersNext: full(c.GetLearnersNext()), AutoLeave: c.GetAutoLeave(),
				}
			}
		}
	}
	return &raft_serverpb.RaftMessage{
		RegionId:    h.RegionID,
		FromPeer:    &metapb.Peer{Id: h.From.ID, StoreId: h.From.StoreID},
		ToPeer:      &metapb.Peer{Id: h.To.ID, StoreId: h.To.StoreID},
		Message:     body,
		RegionEpoch: &metapb.RegionEpoch{ConfVer: h.Epoch.ConfVer, Version: h.Epoch.Version},
	}
}

// full is nil for an empty slice.
func full[T any](slice []T) []T {
	if len(slice) == 0 {
		return nil
	}
	return slice
}

// canonical is the message with absent for each 0: two messages equal by
// their getters if they are the same in this form.
func canonical(m *raftpb.Message) *raftpb.Message {
	c := proto.CloneOf(m)
	for _, field := range []**uint64{&c.To, &c.From, &c.Term, &c.LogTerm, &c.Index, &c.Commit, &c.RejectHint} {
		dropZero(field)
	}
	if !c.GetReject() {
		c.Reject = nil
	}
	c.Context = full(c.Context)
	for _, e := range c.Entries {
		dropZero(&e.Term)
		dropZero(&e.Index)
		if e.GetType() == 0 {
			e.Type = nil
		}
		e.Data = full(e.Data)
	}
	if c.Snapshot != nil {
		c.Snapshot.Data = full(c.Snapshot.Data)
		if state := c.Snapshot.GetMetadata().GetConfState(); state != nil && !state.GetAutoLeave() {
			state.AutoLeave = nil
		}
	}
	return c
}

func dropZero(field **uint64) {
	if *field != nil && **field == 0 {
		*field = nil
	}
}

func equal(a, b *raftpb.Message) bool { return proto.Equal(canonical(a), canonical(b)) }

// keeper is a Handler that keeps what it gets.
type keeper struct {
	headers  []Header
	messages []*raftpb.Message
	refuse   func(Header) error
}

func (k *keeper) Step(header Header, m *raftpb.Message) error {
	if k.refuse != nil {
		if err := k.refuse(header); err != nil {
			return err
		}
	}
	k.headers, k.messages = append(k.headers, header), append(k.messages, m)
	return nil
}

// simple returns a message as Raft sends it, MsgApp with one entry.
func simple(kind raftpb.MessageType, payload int) *raftpb.Message {
	m := &raftpb.Message{
		Type: kind.Enum(), To: proto.Uint64(2001), From: proto.Uint64(1001), Term: proto.Uint64(7),
		Commit: proto.Uint64(123456),
	}
	if kind == raftpb.MsgApp {
		m.LogTerm, m.Index = proto.Uint64(7), proto.Uint64(123456)
		m.Entries = []*raftpb.Entry{{
			Term: proto.Uint64(7), Index: proto.Uint64(123457), Data: slices.Repeat([]byte{'x'}, payload),
		}}
	}
	return m
}

var simpleHeader = Header{
	RegionID: 100001, From: Peer{ID: 1001, StoreID: 1}, To: Peer{ID: 2001, StoreID: 2}, Epoch: Epoch{ConfVer: 5, Version: 9},
}
