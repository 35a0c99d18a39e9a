package etcdraft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

// FuzzDecode compares with kvproto. A message that the receiver finds malformed
// is malformed for kvproto too, and the other way round, once the fields that the
// receiver passes over are taken away. Neither takes more memory than its size
// justifies, whatever its lengths say.
func FuzzDecode(f *testing.F) {
	for i, kind := range kinds {
		f.Add(encode(simpleHeader, message(kind).Example(i)))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		header, got, _, err := decodeBy(new(decoder), data)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > uint64(300*len(data)+128<<10) {
			t.Fatalf("%d bytes took %d", len(data), used)
		}
		common, messages, snapshots, walked := strip(data)
		theirs := new(raft_serverpb.RaftMessage)
		theirErr := errMalformed
		if walked {
			theirErr = theirs.Unmarshal(common)
		}
		switch {
		case errors.Is(err, raftmux.ErrInvalid), errors.Is(err, errNoMessage), errors.Is(err, errRepeated):
			return
		case messages > 1:
			if err == nil {
				t.Fatal("two messages are not refused")
			}
			return
		case err != nil && theirErr == nil:
			// Google's protobuf refuses field numbers, in a snapshot, that kvproto
			// takes for unknown ones.
			if snapshots == 0 {
				t.Fatalf("refused: %v", err)
			}
			return
		case err == nil && theirErr != nil:
			// A snapshot is parsed by google's protobuf, for which a field with
			// a wrong wire type is an unknown one.
			if !walked || snapshots == 0 {
				t.Fatalf("not refused: %v", theirErr)
			}
			return
		case err != nil:
			return
		}
		for _, e := range theirs.Message.Entries {
			e.Data = full(e.Data)
		}
		theirs.Message.Context = full(theirs.Message.Context)
		want := toKVProto(header, got)
		if snapshots > 0 {
			want.Message.Snapshot, theirs.Message.Snapshot = nil, nil
		}
		fillPeers(theirs, want)
		if !reflect.DeepEqual(theirs, want) {
			t.Fatalf("read\n%v\nwant\n%v", want, theirs)
		}
		again, same, _, err := decodeBy(new(decoder), encode(header, got))
		if err != nil || again != header || !equal(same, got) {
			t.Fatalf("comes back as %v, %v", same, err)
		}
	})
}

// fillPeers stands in for the presence that Header doesn't keep.
func fillPeers(m, want *raft_serverpb.RaftMessage) {
	if m.FromPeer == nil {
		m.FromPeer = want.FromPeer
	}
	if m.ToPeer == nil {
		m.ToPeer = want.ToPeer
	}
	if m.RegionEpoch == nil {
		m.RegionEpoch = want.RegionEpoch
	}
}

// strip takes away the fields that the receiver passes over, and counts messages
// and snapshots. It says false where data isn't a sequence of fields.
func strip(data []byte) (common []byte, messages, snapshots int, ok bool) {
	pair := func(b []byte) ([]byte, bool) { return keep(b, 2, nil) }
	common, ok = keep(data, 5, func(number protowire.Number, b []byte) ([]byte, bool) {
		if number != 4 {
			return pair(b)
		}
		messages++
		return keep(b, 12, func(number protowire.Number, b []byte) ([]byte, bool) {
			switch number {
			case 7:
				return keep(b, 4, nil)
			case 9:
				snapshots++
			}
			return b, true
		})
	})
	return common, messages, snapshots, ok
}

// keep keeps the fields up to last, those of bytes as inner makes them.
func keep(data []byte, last protowire.Number, inner func(protowire.Number, []byte) ([]byte, bool)) (kept []byte, ok bool) {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 || number > protowire.MaxValidNumber {
			return nil, false
		}
		m := protowire.ConsumeFieldValue(number, kind, data[n:])
		if m < 0 {
			return nil, false
		}
		switch {
		case number > last:
		case kind == protowire.BytesType && inner != nil:
			value, _ := protowire.ConsumeBytes(data[n:])
			if value, ok = inner(number, value); !ok {
				return nil, false
			}
			kept = protowire.AppendTag(kept, number, kind)
			kept = protowire.AppendBytes(kept, value)
		default:
			kept = append(kept, data[:n+m]...)
		}
		data = data[n+m:]
	}
	return kept, true
}

// FuzzStep steps whatever passes the checks into a leader, a follower and a
// fresh leader's rival. The input is a sequence of eraftpb.Message, each behind a
// byte that says what happens besides, and its length.
func FuzzStep(f *testing.F) {
	for i := range kinds {
		var seed []byte
		for j := range 4 {
			body, err := proto.Marshal(near(kinds[(i+j)%len(kinds)]).Example(i + j))
			must(err)
			seed = append(seed, byte(j))
			seed = binary.AppendUvarint(seed, uint64(len(body)))
			seed = append(seed, body...)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var steps []step
		decoder := new(decoder)
		for len(data) > 1 && len(steps) < 64 {
			what := data[0]
			n, width := binary.Uvarint(data[1:])
			if width <= 0 || n > uint64(len(data)-1-width) {
				break
			}
			data = data[1+width:]
			if m := decodeBody(decoder, data[:n]); m != nil {
				steps = append(steps, step{m, what})
			}
			data = data[n:]
		}
		run(steps)
	})
}

// appendPair appends a field of two scalars.
func appendPair(b []byte, tag byte, first, second uint64) []byte {
	start := len(b)
	b = extend(b, wire.PairSize(first, second))
	wire.PutPair(b, start, tag, first, second)
	return b
}

// decodeBody puts a body where a receiver finds it.
func decodeBody(decoder *decoder, body []byte) *raftpb.Message {
	var f fields
	if f.scan(bytes.Clone(body)) != nil {
		return nil
	}
	var frame []byte
	frame = append(frame, tagMessage)
	frame = protowire.AppendBytes(frame, body)
	frame = appendPair(frame, tagToPeer, f.to, 1)
	// One that is passed on may be from anyone.
	from := f.from
	if from == f.to {
		from = f.to%3 + 1
	}
	frame = appendPair(frame, tagFromPeer, from, 2)
	_, m, _, err := decodeBy(decoder, frame)
	if err != nil {
		return nil
	}
	return m
}

type step struct {
	message *raftpb.Message
	what    byte // bits: 1 handle Ready, 2 tick, 4 tick for an election, 8 use another node
}

// run steps all of it into each kind of node.
func run(steps []step) {
	for _, careful := range []bool{false, true} {
		nodes := []*node{newNode(1, careful).lead(), newNode(2, careful), newNode(1, careful)}
		must(nodes[2].Campaign())
		nodes[2].ready()
		for _, n := range nodes {
			// A read, so that there are contexts to confirm.
			n.ReadIndex([]byte("read"))
			n.ready()
			for _, s := range steps {
				m := proto.CloneOf(s.message)
				if m.GetTo() != n.id && s.what&8 == 0 {
					// For this one, all the same.
					if m.GetFrom() == n.id {
						m.From = m.To
					}
					m.To = proto.Uint64(n.id)
				}
				_ = n.take(m)
				if s.what&1 != 0 {
					n.ready()
				}
				if s.what&2 != 0 {
					n.Tick()
				}
				if s.what&4 != 0 {
					for range 20 {
						n.Tick()
					}
				}
			}
			n.ready()
		}
	}
}

// near draws messages that are nearly what Raft sends to the nodes of these
// tests, right and wrong.
func near(kind raftpb.MessageType) *rapid.Generator[*raftpb.Message] {
	return rapid.Custom(func(t *rapid.T) *raftpb.Message {
		small := func(most int) *rapid.Generator[uint64] {
			return rapid.Custom(func(t *rapid.T) uint64 {
				if rapid.IntRange(0, 40).Draw(t, "huge") == 40 {
					return rapid.SampledFrom(hugeCounters).Draw(t, "value")
				}
				return uint64(rapid.IntRange(0, most).Draw(t, "value"))
			})
		}
		m := &raftpb.Message{
			Type: &kind, To: proto.Uint64(rapid.Uint64Range(1, 2).Draw(t, "to")),
			From:    optional(t, small(5).Draw(t, "from")),
			LogTerm: optional(t, small(4).Draw(t, "logTerm")),
			Index:   optional(t, small(16).Draw(t, "index")),
			Commit:  optional(t, small(16).Draw(t, "commit")),
		}
		if !forwarded(kind) || rapid.Bool().Draw(t, "hasTerm") {
			m.Term = optional(t, small(5).Draw(t, "term"))
		}
		if rapid.Bool().Draw(t, "reject") {
			m.Reject = proto.Bool(true)
			m.RejectHint = proto.Uint64(small(16).Draw(t, "rejectHint"))
		}
		switch rapid.IntRange(0, 3).Draw(t, "context") {
		case 0:
			m.Context = []byte("CampaignTransfer")[:rapid.IntRange(0, 16).Draw(t, "n")]
		case 1:
			m.Context = binary.LittleEndian.AppendUint64(nil, small(4).Draw(t, "read"))
		}
		entries := 0
		switch kind {
		case raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
			entries = rapid.IntRange(0, 4).Draw(t, "entries")
		}
		index, term := m.GetIndex(), m.GetLogTerm()
		for range entries {
			index++
			term += uint64(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "step"))
			e := &raftpb.Entry{Index: proto.Uint64(index), Term: proto.Uint64(term)}
			switch rapid.IntRange(0, 30).Draw(t, "odd") {
			case 0:
				e.Index = proto.Uint64(small(16).Draw(t, "index"))
			case 1:
				e.Term = proto.Uint64(small(4).Draw(t, "term"))
			}
			e.Type = raftpb.EntryType(rapid.SampledFrom([]int32{0, 0, 0, 1, 2, 3, -1}).Draw(t, "entryType")).Enum()
			e.Data = rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "data")
			m.Entries = append(m.Entries, e)
		}
		if kind == raftpb.MsgSnap && rapid.IntRange(0, 10).Draw(t, "snapshot") > 0 {
			ids := func(label string) []uint64 {
				return rapid.SliceOfN(rapid.Uint64Range(0, 4), 0, 3).Draw(t, label)
			}
			state := &raftpb.ConfState{Voters: ids("voters"), Learners: ids("learners")}
			if rapid.Bool().Draw(t, "joint") {
				state.VotersOutgoing, state.LearnersNext = ids("outgoing"), ids("next")
				state.AutoLeave = proto.Bool(rapid.Bool().Draw(t, "autoLeave"))
			}
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
				Index: proto.Uint64(small(20).Draw(t, "index")), Term: proto.Uint64(small(5).Draw(t, "term")),
				ConfState: state,
			}}
		}
		return m
	})
}

// stepShaped is FuzzStep on messages that are nearly right.
func stepShaped(t *rapid.T) {
	anything := append(kinds[:len(kinds):len(kinds)], -1, 0, 1, 10, 11, 12, 19, 20, 21, 22, 23, 24, 99)
	var steps []step
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		kind := rapid.SampledFrom(anything).Draw(t, "kind")
		steps = append(steps, step{near(kind).Draw(t, "message"), rapid.Byte().Draw(t, "what")})
	}
	run(steps)
}

func TestStepShaped(t *testing.T) { rapid.Check(t, stepShaped) }

func FuzzStepShaped(f *testing.F) { f.Fuzz(rapid.MakeFuzz(stepShaped)) }
