package etcdraft

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
)

// Every type that crosses the network comes back equal, reads the same in
// kvproto, and can be written by kvproto. Size is exact.
func TestWire(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			handler := new(keeper)
			receiver := NewReceiver(handler)()
			rapid.Check(t, func(t *rapid.T) {
				sent := message(kind).Draw(t, "message")
				header := headerFor(t, sent)
				if err := errors.Join(Check(sent), checkHeader(&header, sent)); err != nil {
					t.Fatal(err)
				}
				encoded := encode(header, sent)

				var got raft_serverpb.RaftMessage
				if err := got.Unmarshal(encoded); err != nil {
					t.Fatal(err)
				}
				want := toKVProto(header, sent)
				if !reflect.DeepEqual(&got, want) {
					t.Fatalf("kvproto reads\n%v\nwant\n%v", &got, want)
				}
				theirs, err := want.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				for _, data := range [][]byte{encoded, theirs, encodeReferring(t, header, sent)} {
					*handler = keeper{}
					envelope, err := receiver.Decode(data)
					if err != nil {
						t.Fatal(err)
					}
					if want := (raftmux.Envelope{
						RegionID: header.RegionID, FromStoreID: header.From.StoreID, ToStoreID: header.To.StoreID,
						ToPeerID: header.To.ID, Type: eraftpb.MessageType(kind), HasMessage: true,
					}); envelope != want {
						t.Fatalf("envelope is %+v, want %+v", envelope, want)
					}
					if refused := receiver.Deliver(); refused != 0 || len(handler.messages) != 1 {
						t.Fatalf("%d refused, %d delivered", refused, len(handler.messages))
					}
					if handler.headers[0] != header {
						t.Fatalf("header is %+v, want %+v", handler.headers[0], header)
					}
					if !equal(handler.messages[0], sent) {
						t.Fatalf("received\n%v\nwant\n%v", handler.messages[0], sent)
					}
				}
			})
		})
	}
}

// What the two formats don't share is passed over; unknown fields too.
func TestReceiveForeignFields(t *testing.T) {
	body, err := (&eraftpb.Message{
		MsgType: eraftpb.MessageType_MsgAppend, To: 2, From: 1, Term: 3, Index: 4, LogTerm: 2,
		RequestSnapshot: 99, DeprecatedPriority: 98, Priority: -1,
		Entries: []*eraftpb.Entry{{Term: 3, Index: 5, Data: []byte("data"), Context: []byte("context"), SyncLog: true}},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for number := protowire.Number(13); number < 20; number++ {
		body = protowire.AppendTag(body, number, protowire.BytesType)
		body = protowire.AppendBytes(body, []byte("responses, or anything"))
		body = protowire.AppendTag(body, number, protowire.Fixed64Type)
		body = protowire.AppendFixed64(body, 1)
	}
	var data []byte
	data = append(data, tagToPeer, 4, tagFirst, 2, tagSecond, 1)
	data = append(data, tagFromPeer, 2, tagFirst, 1)
	data = protowire.AppendTag(data, 7, protowire.BytesType) // start_key
	data = protowire.AppendBytes(data, []byte("a"))
	data = protowire.AppendTag(data, 10, protowire.BytesType) // extra_msg, not parsed
	data = protowire.AppendBytes(data, []byte{0xff})
	data = protowire.AppendTag(data, 100, protowire.StartGroupType)
	data = protowire.AppendTag(data, 100, protowire.EndGroupType)
	data = protowire.AppendTag(data, 4, protowire.BytesType)
	data = protowire.AppendBytes(data, body)

	handler := new(keeper)
	receiver := NewReceiver(handler)()
	if _, err := receiver.Decode(data); err != nil {
		t.Fatal(err)
	}
	receiver.Deliver()
	want := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: proto.Uint64(2), From: proto.Uint64(1), Term: proto.Uint64(3),
		Index: proto.Uint64(4), LogTerm: proto.Uint64(2),
		Entries: []*raftpb.Entry{{Term: proto.Uint64(3), Index: proto.Uint64(5), Data: []byte("data")}},
	}
	if got := handler.messages[0]; !proto.Equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
}

// C20: a bad message costs only itself.
func TestReceiveBadMessages(t *testing.T) {
	good := encode(simpleHeader, simple(raftpb.MsgApp, 10))
	with := func(change func(*raft_serverpb.RaftMessage)) []byte {
		m := toKVProto(simpleHeader, simple(raftpb.MsgApp, 10))
		change(m)
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	bad := map[string][]byte{
		"empty":           {},
		"cut":             good[:len(good)-1],
		"garbage":         []byte("garbage"),
		"no message":      with(func(m *raft_serverpb.RaftMessage) { m.Message = nil; m.IsTombstone = true }),
		"two messages":    append(good[:len(good):len(good)], good...),
		"another to":      with(func(m *raft_serverpb.RaftMessage) { m.ToPeer.Id++ }),
		"another from":    with(func(m *raft_serverpb.RaftMessage) { m.FromPeer.Id++ }),
		"no from":         with(func(m *raft_serverpb.RaftMessage) { m.FromPeer = nil }),
		"a local type":    with(func(m *raft_serverpb.RaftMessage) { m.Message.MsgType = eraftpb.MessageType_MsgHup }),
		"a negative type": with(func(m *raft_serverpb.RaftMessage) { m.Message.MsgType = -1 }),
		"a gap":           with(func(m *raft_serverpb.RaftMessage) { m.Message.Index-- }),
	}
	handler := new(keeper)
	receiver := NewReceiver(handler)()
	for name, data := range bad {
		if _, err := receiver.Decode(data); err == nil {
			t.Errorf("%s is not refused", name)
		}
		if _, err := receiver.Decode(good); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	if refused := receiver.Deliver(); refused != 0 || len(handler.messages) != len(bad) {
		t.Errorf("%d refused, %d delivered, want 0 and %d", refused, len(handler.messages), len(bad))
	}
	envelope, err := receiver.Decode(bad["a gap"])
	if !errors.Is(err, raftmux.ErrInvalid) || envelope.ToStoreID != 2 || envelope.FromStoreID != 1 {
		t.Errorf("a refused message has the envelope %+v and the error %v", envelope, err)
	}
}

// A field that is malformed is refused wherever it is, in an otherwise good message.
func TestReceiveMalformedFields(t *testing.T) {
	malformed := map[string][]byte{
		"field 0":               {0, 1},
		"a number too large":    append(protowire.AppendVarint(nil, uint64(protowire.MaxValidNumber+1)<<3), 1),
		"a long varint":         {14 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a tag alone":           {1 << 3},
		"a varint cut":          {15 << 3, 0x80},
		"an end of group":       {15<<3 | 4},
		"a group without end":   {15<<3 | 3, 1 << 3, 1},
		"an unknown wire type":  {15<<3 | 6, 0},
		"4 bytes cut":           {15<<3 | 5, 1, 2, 3},
		"8 bytes cut":           {15<<3 | 1, 1, 2, 3},
		"a length cut":          {15<<3 | 2, 0x80},
		"a length one too far":  {15<<3 | 2, 2, 0},
		"a length of 2^63":      protowire.AppendVarint([]byte{15<<3 | 2}, 1<<63),
		"a length of 2^64 - 1":  protowire.AppendVarint([]byte{15<<3 | 2}, math.MaxUint64),
		"a length of 2^64 - 11": protowire.AppendVarint([]byte{15<<3 | 2}, math.MaxUint64-10),
	}
	for _, number := range []byte{2, 3, 4, 5, 7, 9, 12} {
		for _, length := range []uint64{1 << 20, 1 << 63, math.MaxUint64 - 10} {
			malformed[fmt.Sprintf("a length of %d in field %d", length, number)] = protowire.AppendVarint([]byte{number<<3 | 2}, length)
		}
	}
	for name, field := range malformed {
		for place, data := range inside(field) {
			if _, _, _, err := decodeBy(new(decoder), data); !errors.Is(err, errMalformed) && !errors.Is(err, errWireType) {
				t.Errorf("%s %s: %v", name, place, err)
			}
		}
	}
}

// Who is told of a malformed message is told whose it is.
func TestReceiveErrorsNameTheRegion(t *testing.T) {
	outer := []byte{tagRegionID, 7, tagToPeer, 4, tagFirst, 2, tagSecond, 12}
	for problem, data := range map[string][]byte{
		"no Raft message inside, in a message of region 7 to peer 2 of store 12": outer,
		"malformed message, in a message of region 7 to peer 2 of store 12":      append(bytes.Clone(outer), tagMessage, 2, tagIndex, 0x80),
		"to_peer is on store 0, in a message of region 7 to peer 2 of store 0": encode(
			Header{RegionID: 7, From: Peer{1, 11}, To: Peer{ID: 2}}, msg(raftpb.MsgHeartbeat, 1, 2, nil)),
	} {
		if _, _, _, err := decodeBy(new(decoder), data); err == nil || err.Error() != "etcdraft: "+problem {
			t.Errorf("error is %v, not %s", err, problem)
		}
	}
}

// A known field of another type than its own is refused; kvproto does the same.
func TestReceiveWrongTypes(t *testing.T) {
	values := map[protowire.Type][]byte{
		protowire.VarintType:     {1},
		protowire.Fixed64Type:    make([]byte, 8),
		protowire.BytesType:      {0},
		protowire.StartGroupType: nil, // and its end
		protowire.Fixed32Type:    make([]byte, 4),
	}
	// The types of the known fields by their numbers, from 1 on.
	types := map[string]string{"in the message": "vbbbb", "in a peer": "vv", "in the body": "vvvvvvbvbvvb", "in an entry": "vvvb"}
	for place, all := range types {
		for i, right := range all {
			number := protowire.Number(i + 1)
			for kind, value := range values {
				if right == 'v' && kind == protowire.VarintType || right == 'b' && kind == protowire.BytesType {
					continue
				}
				field := append(protowire.AppendTag(nil, number, kind), value...)
				if kind == protowire.StartGroupType {
					field = protowire.AppendTag(field, number, protowire.EndGroupType)
				}
				data := inside(field)[place]
				if _, _, _, err := decodeBy(new(decoder), data); !errors.Is(err, errWireType) {
					t.Errorf("field %d of type %d %s: %v", number, kind, place, err)
				}
				if new(raft_serverpb.RaftMessage).Unmarshal(data) == nil {
					t.Errorf("field %d of type %d %s: kvproto takes it", number, kind, place)
				}
			}
		}
	}
}

// inside returns good messages that have one more field, by where they have it.
func inside(field []byte) map[string][]byte {
	good := encode(simpleHeader, simple(raftpb.MsgApp, 10))
	embed := func(tag byte, field []byte) []byte {
		return protowire.AppendBytes([]byte{tag}, field)
	}
	entry := embed(tagEntry, field)
	// A second Raft message would be refused for that, so it has the first's place.
	body := func(field []byte) []byte {
		m := toKVProto(simpleHeader, simple(raftpb.MsgApp, 10))
		raft, err := m.Message.Marshal()
		must(err)
		m.Message = nil
		rest, err := m.Marshal()
		must(err)
		return append(rest, embed(tagMessage, append(raft, field...))...)
	}
	return map[string][]byte{
		"in the message": slices.Concat(good, field),
		"in a peer":      slices.Concat(good, embed(tagToPeer, field)),
		"in the body":    body(field),
		"in an entry":    body(entry),
	}
}

// AppendTo leaves what is in front of the message as it is, and what is behind it,
// whether the buffer has the room or not.
func TestAppendToAnyBuffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := message(rapid.SampledFrom(kinds).Draw(t, "kind")).Draw(t, "message")
		header := headerFor(t, sent)
		want := encode(header, sent)
		var e encoder
		e.set(header, sent)
		for _, room := range []int{0, 1, len(want) / 2, len(want) - 1, len(want), len(want) + 64} {
			memory := bytes.Repeat([]byte{0xaa}, 10+len(want)+64)
			got := e.AppendTo(memory[: 10 : 10+room])
			if !bytes.Equal(got[10:], want) || e.Size() != len(want) {
				t.Fatalf("room for %d of %d: %x, want %x", room, len(want), got[10:], want)
			}
			behind := memory[10+min(room, len(want)):]
			if bytes.Count(memory[:10], []byte{0xaa}) != 10 || bytes.Count(behind, []byte{0xaa}) != len(behind) {
				t.Fatalf("room for %d of %d: something else was written to", room, len(want))
			}
		}
	})
}

// C22: a batch reaches the host in order; what it refuses is counted.
func TestReceiveOrder(t *testing.T) {
	handler := &keeper{refuse: func(h Header) error {
		if h.RegionID%3 == 0 {
			return errors.New("unknown region")
		}
		return nil
	}}
	receiver := NewReceiver(handler)()
	decode := func(n int) {
		for i := range n {
			header := simpleHeader
			header.RegionID = uint64(i)
			if _, err := receiver.Decode(encode(header, simple(raftpb.MsgHeartbeat, 0))); err != nil {
				t.Fatal(err)
			}
		}
	}
	decode(100)
	receiver.Discard()
	decode(maxKeptMessages + 1)
	if refused := receiver.Deliver(); refused != 342 || len(handler.headers) != 683 {
		t.Fatalf("%d refused, %d delivered", refused, len(handler.headers))
	}
	for i, header := range handler.headers {
		if want := uint64(i/2*3 + i%2 + 1); header.RegionID != want {
			t.Fatalf("message %d is of region %d, want %d", i, header.RegionID, want)
		}
	}
	if refused := receiver.Deliver(); refused != 0 {
		t.Errorf("an empty batch has %d refused", refused)
	}
}
