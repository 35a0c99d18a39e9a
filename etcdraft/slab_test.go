package etcdraft

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/race"
)

// randomAppend returns a MsgApp of any shape: few or many entries, small or large.
func randomAppend(random *rand.Rand) *raftpb.Message {
	m := simple(raftpb.MsgApp, 0)
	m.Entries = nil
	m.Context = make([]byte, random.IntN(2)*random.IntN(300))
	many, long := 1+random.IntN(4), 1+random.IntN(300)
	switch random.IntN(10) {
	case 8:
		many, long = 1, 40000+random.IntN(20000)
	case 9:
		many, long = 1, 300000
		m.Context = make([]byte, random.IntN(30000))
	case 0:
		many = 1 + random.IntN(2000)
	case 1:
		long = 1 + random.IntN(20000)
	case 2:
		many, long = 1+random.IntN(100), 1+random.IntN(9000)
	case 3:
		m.Context = make([]byte, random.IntN(100000))
	case 4:
		many = 0
	}
	for i := range many {
		data := make([]byte, random.IntN(long))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		m.Entries = append(m.Entries, &raftpb.Entry{
			Term: proto.Uint64(7), Index: proto.Uint64(m.GetIndex() + uint64(i) + 1), Data: data,
		})
	}
	return m
}

// C22: what was delivered doesn't change when the frame does, or when more
// comes, and what it has is its own: nothing that the host appends to it, or
// writes to it, shows elsewhere.
func TestReceiveOwnership(t *testing.T) {
	handler := new(keeper)
	receiver := NewReceiver(handler)()
	testOwnership(t, handler, receiver, receiver.Decode)
}

// C22, too, of messages that lie in memory that was given to the receiver.
func TestReceiveGivenOwnership(t *testing.T) {
	handler := new(keeper)
	receiver := NewReceiver(handler)()
	testOwnership(t, handler, receiver, func(frame []byte) (raftmux.Envelope, error) {
		return receiver.(raftmux.Keeper).DecodeGiven(bytes.Clone(frame))
	})
}

func testOwnership(
	t *testing.T, handler *keeper, receiver raftmux.Receiver, decode func([]byte) (raftmux.Envelope, error),
) {
	random := rand.New(rand.NewPCG(1, 2))
	var sent []*raftpb.Message
	for range 30 {
		var frames [][]byte
		for range 20 {
			m := randomAppend(random)
			if random.IntN(4) == 0 {
				m = simple(raftpb.MsgSnap, 0)
				m.Snapshot = &raftpb.Snapshot{Data: []byte("snapshot"), Metadata: &raftpb.SnapshotMetadata{
					Index: proto.Uint64(5), Term: proto.Uint64(5), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
				}}
			}
			frame := encode(simpleHeader, m)
			if _, err := decode(frame); err != nil {
				t.Fatal(err)
			}
			sent, frames = append(sent, m), append(frames, frame)
		}
		receiver.Deliver()
		for _, frame := range frames {
			for i := range frame {
				frame[i] = 0xdb
			}
		}
	}
	for i, got := range handler.messages {
		if !equal(got, sent[i]) {
			t.Fatalf("message %d has changed", i)
		}
	}
	for i, got := range handler.messages {
		if !equal(got, sent[i]) {
			t.Fatalf("message %d was written to through another", i)
		}
		_ = append(got.Context, "overflow"...)
		_ = append(got.Entries, nil)
		for _, e := range got.Entries {
			_ = append(e.Data, "overflow"...)
			clear(e.Data)
			*e.Term, *e.Index = 0, 0
		}
		clear(got.Entries)
		clear(got.Context)
		*got.To, *got.From, *got.Term, *got.Type = 0, 0, 0, 0
	}
}

// C22: whatever is kept pins at most 64 KiB beyond itself.
func TestReceivePins(t *testing.T) {
	const limit = 64 << 10
	random := rand.New(rand.NewPCG(3, 4))
	worst, rounds := 0, 400
	if race.Enabled {
		rounds = 40
	}
	for round := range rounds {
		before := live()
		kept, own := keepOne(t, random, round%2 == 1)
		pinned := live() - before - own
		runtime.KeepAlive(kept)
		if pinned > limit {
			t.Fatalf("round %d: a kept %T of %d bytes pins %d bytes beyond itself", round, kept, own, pinned)
		}
		worst = max(worst, pinned)
	}
	t.Logf("worst: %d bytes", worst)
}

// keepOne receives a number of messages and returns one part of one of them, and
// how many bytes it has itself.
func keepOne(t *testing.T, random *rand.Rand, given bool) (kept any, own int) {
	handler := new(keeper)
	receiver := NewReceiver(handler)()
	decode := receiver.Decode
	if given {
		decode = func(frame []byte) (raftmux.Envelope, error) {
			return receiver.(raftmux.Keeper).DecodeGiven(bytes.Clone(frame))
		}
	}
	for range 5 + random.IntN(100) {
		m := randomAppend(random)
		if random.IntN(2) == 0 {
			m = simple(raftpb.MsgHeartbeat, 0)
		}
		if _, err := decode(encode(simpleHeader, m)); err != nil {
			t.Fatal(err)
		}
	}
	receiver.Deliver()
	m := handler.messages[random.IntN(len(handler.messages))]
	switch random.IntN(7) {
	case 0:
		return m.Entries, sizeOfMessage(m)
	case 1:
		return m.From, 8
	case 2:
		return m.Context, len(m.Context) * 5 / 4
	}
	if len(m.Entries) == 0 {
		return m, sizeOfMessage(m)
	}
	e := m.Entries[random.IntN(len(m.Entries))]
	switch random.IntN(4) {
	case 0:
		return m, sizeOfMessage(m)
	case 1:
		return e.Index, 8
	case 2:
		return e.Data, len(e.Data) * 5 / 4
	}
	return e, entryBytes + len(e.Data)*5/4
}

// sizeOfMessage is what a message takes, with what the allocator rounds up.
func sizeOfMessage(m *raftpb.Message) int {
	size := messageBytes + len(m.Context)
	for _, e := range m.Entries {
		size += entryBytes + pointerBytes + len(e.Data)
	}
	return size * 5 / 4
}

func live() int {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// No input makes the receiver allocate out of proportion.
func TestReceiveAllocatesInProportion(t *testing.T) {
	hostile := map[string][]byte{
		"a promise of a large entry": {tagMessage, 7, tagEntry, 0xff, 0xff, 0xff, 0xff, 0x0f, 0},
		"a promise of a large body":  {tagMessage, 0xff, 0xff, 0xff, 0xff, 0x0f},
	}
	decoder := new(decoder)
	for name, data := range hostile {
		if n := testing.AllocsPerRun(100, func() { _, _, _, _ = decodeBy(decoder, data) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	change := bytes.Repeat([]byte{2<<3 | 2, 0}, maxConfChange) // parsed, it is fifty times as large
	_, _, _, err := decodeBy(decoder, encode(Header{RegionID: 7, From: Peer{1, 11}, To: Peer{2, 12}},
		msg(raftpb.MsgProp, 1, 2, func(m *raftpb.Message) {
			m.Term, m.Entries = nil, []*raftpb.Entry{{Type: raftpb.EntryConfChangeV2.Enum(), Data: change}}
		})))
	if err == nil || !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("a conf change of %d bytes: %v", len(change), err)
	}
}
