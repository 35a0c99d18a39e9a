package wire

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"pgregory.net/rapid"
)

// decoders are those that every body is tried with, over and over, so that
// what one body leaves in the slabs meets the next.
type decoders map[string]*Decoder

func newDecoders() decoders {
	unpoisoned := NewDecoder(DecoderOptions{Lent: true})
	unpoisoned.poison = false
	return decoders{
		"owned":           NewDecoder(DecoderOptions{}),
		"lent":            NewDecoder(DecoderOptions{Lent: true}),
		"lent unpoisoned": unpoisoned,
		"given":           NewDecoder(DecoderOptions{}),
	}
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// check compares what the decoders make of body with what the generated code
// does: the same value or the same refusal.
func (ds decoders) check(t failer, body []byte) {
	t.Helper()
	want := new(raft_serverpb.RaftMessage)
	wantErr := want.Unmarshal(bytes.Clone(body))
	checkParts(t, body, want)
	for name, d := range ds {
		// Behind the body lies what nobody may read or write.
		memory := append(bytes.Clone(body), "behind"...)
		in := memory[:len(body)]
		decode := d.Decode
		if name == "given" {
			decode = func(body []byte) (*raft_serverpb.RaftMessage, error) { return decodeAsGiven(d, body) }
		}
		got, err := decode(in)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%s: %x: got error %v, want %v", name, body, err, wantErr)
		}
		if err != nil {
			if got != nil || !strings.HasSuffix(err.Error(), wantErr.Error()) {
				t.Fatalf("%s: %x: got %v, %v, want %v", name, body, got, err, wantErr)
			}
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %x:\ngot  %+v\nwant %+v", name, body, got, want)
		}
		if !bytes.Equal(in, body) {
			t.Fatalf("%s: %x: the body was changed", name, body)
		}
		checkClipped(t, got, want)
		if d.lent || name == "given" {
			continue
		}
		Poison(memory)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %x: the message shares memory with the body", name, body)
		}
	}
}

// decodeAsGiven is DecodeGiven without a lower limit for the body's length.
func decodeAsGiven(d *Decoder, body []byte) (*raft_serverpb.RaftMessage, error) {
	if m := d.decodeGiven(body); m != nil {
		return m, nil
	}
	return d.Decode(body)
}

// checkClipped fails if appending to a slice of m could overwrite what isn't
// its own. A slice that the generated code made is as that makes it.
func checkClipped(t failer, m, generated *raft_serverpb.RaftMessage) {
	t.Helper()
	clipped := func(length, capacity, generated int) {
		t.Helper()
		if capacity != length && capacity != generated {
			t.Fatalf("a slice of length %d has capacity %d", length, capacity)
		}
	}
	slicesOf := func(m *raft_serverpb.RaftMessage) [][]byte {
		all := [][]byte{m.StartKey, m.EndKey, m.ExtraCtx, m.XXX_unrecognized, m.GetMessage().GetContext()}
		for _, e := range m.GetMessage().GetEntries() {
			all = append(all, e.Data, e.Context, e.XXX_unrecognized)
		}
		return all
	}
	ours, theirs := slicesOf(m), slicesOf(generated)
	for i, got := range ours {
		clipped(len(got), cap(got), cap(theirs[i]))
	}
	entries := m.GetMessage().GetEntries()
	clipped(len(entries), cap(entries), cap(generated.GetMessage().GetEntries()))
}

// reset ends the lent decoders' leases.
func (ds decoders) reset() {
	for _, d := range ds {
		d.Reset()
	}
}

// Every message that kvproto can write is read as kvproto reads it.
func TestDecodeAnyMessage(t *testing.T) {
	ds := newDecoders()
	rapid.Check(t, func(t *rapid.T) {
		b, err := anyMessage.Draw(t, "message").Marshal()
		if err != nil {
			t.Fatal(err)
		}
		ds.check(t, b)
		if rapid.Bool().Draw(t, "reset") {
			ds.reset()
		}
	})
}

// Messages that the fast path is made for don't leave it.
func TestDecodePlainMessageFast(t *testing.T) {
	d := NewDecoder(DecoderOptions{Lent: true})
	rapid.Check(t, func(t *rapid.T) {
		m := plainMessage.Draw(t, "message")
		m.XXX_unrecognized = nil
		stripUnknown(m)
		b, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(b); err != nil {
			t.Fatal(err)
		}
		if len(d.fallback) != 0 {
			t.Fatalf("%x was left to the generated code", b)
		}
		d.Reset()
	})
}

func stripUnknown(m *raft_serverpb.RaftMessage) {
	m.XXX_unrecognized = nil
	for _, p := range []*metapb.Peer{m.FromPeer, m.ToPeer} {
		if p != nil {
			p.XXX_unrecognized = nil
		}
	}
	if m.RegionEpoch != nil {
		m.RegionEpoch.XXX_unrecognized = nil
	}
	if m.Message != nil {
		m.Message.XXX_unrecognized = nil
		for _, e := range m.Message.Entries {
			e.XXX_unrecognized = nil
		}
	}
}

// Damaged and merged messages are read or refused as kvproto does (C20).
func TestDecodeAnyBody(t *testing.T) {
	ds := newDecoders()
	rapid.Check(t, func(t *rapid.T) {
		ds.check(t, anyBody.Draw(t, "body"))
		if rapid.Bool().Draw(t, "reset") {
			ds.reset()
		}
	})
}

func TestDecodeCases(t *testing.T) {
	u := func(parts ...string) []byte { return []byte(strings.Join(parts, "")) }
	ff := strings.Repeat("\xff", 9)
	cases := map[string][]byte{
		"empty":                         nil,
		"region":                        u("\x08\x05"),
		"region twice":                  u("\x08\x05\x08\x07"),
		"region in ten bytes":           u("\x08", ff, "\x01"),
		"region past 64 bits":           u("\x08", ff, "\x7f"),
		"region in eleven bytes":        u("\x08", ff, "\xff\x01"),
		"region truncated":              u("\x08\x80"),
		"region missing":                u("\x08"),
		"region not minimal":            u("\x08\x85\x80\x00"),
		"region as bytes":               u("\x0a\x01x"),
		"tag not minimal":               u("\x88\x00\x05"),
		"tag of ten bytes":              u("\x88\x80\x80\x80\x80\x80\x80\x80\x80\x00\x05"),
		"tag past 32 bits is region":    u("\x88\x80\x80\x80\x80\x01\x05"),
		"tag past 32 bits is peer 20":   u("\xa0\x81\x80\x80\x80\x01\x05"),
		"tag negative":                  u("\x80\x80\x80\x80\x40\x05"),
		"tag zero":                      u("\x00\x05"),
		"tag overflow":                  u(ff, "\xff\x01"),
		"end group":                     u("\x0c"),
		"unknown end group":             u("\xa4\x06"),
		"unknown group":                 u("\xa3\x06\x08\x01\xa4\x06"),
		"unknown group, other end":      u("\xa3\x06\x08\x01\x0c"),
		"unknown group, field 0 inside": u("\xa3\x06\x00\x01\xa4\x06"),
		"unknown group open":            u("\xa3\x06\x08\x01"),
		"unknown wire type 6":           u("\xa6\x06\x01"),
		"unknown wire type 7":           u("\xa7\x06\x01"),
		"unknown varint":                u("\xa0\x06\x05"),
		"unknown varint overflow":       u("\xa0\x06", ff, "\xff\x01"),
		"unknown bytes":                 u("\xa2\x06\x01x"),
		"unknown bytes truncated":       u("\xa2\x06\x02x"),
		"unknown bytes negative":        u("\xa2\x06", ff, "\x01"),
		"unknown fixed32":               u("\xa5\x06abcd"),
		"unknown fixed32 truncated":     u("\xa5\x06abc"),
		"unknown fixed64":               u("\xa1\x06abcdefgh"),
		"unknown fixed64 truncated":     u("\xa1\x06abcdefg"),
		"unknown adjacent":              u("\xa0\x06\x05\xa0\x06\x06"),
		"unknown apart":                 u("\xa0\x06\x05\x08\x01\xa0\x06\x06"),
		"keys empty":                    u("\x3a\x00\x42\x00\x5a\x00"),
		"key replaced":                  u("\x3a\x01a\x3a\x02bc"),
		"key emptied":                   u("\x3a\x01a\x3a\x00"),
		"key length past the end":       u("\x3a\x02a"),
		"key length negative":           u("\x3a", ff, "\x01"),
		"key length huge":               u("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
		"peer empty":                    u("\x12\x00\x1a\x00\x22\x00\x2a\x00"),
		"peer merged":                   u("\x12\x02\x08\x01\x12\x02\x10\x02"),
		"peer merged with error":        u("\x12\x02\x08\x01\x12\x02\x10\x80"),
		"peer ends inside":              u("\x12\x02\x08\x80\x01"),
		"peer unknown":                  u("\x12\x05\x08\x01\xa0\x06\x05"),
		"tombstone with high bits":      u("\x30", strings.Repeat("\x80", 9), "\x02"),
		"tombstone":                     u("\x30\x80\x01"),
		"disk usage past 32 bits":       u("\x60\x81\x80\x80\x80\x10"),
		"message merged":                u("\x22\x04\x3a\x02\x10\x01\x22\x04\x3a\x02\x10\x02"),
		"context empty":                 u("\x22\x02\x62\x00"),
		"entry empty":                   u("\x22\x02\x3a\x00"),
		"entry data empty":              u("\x22\x04\x3a\x02\x22\x00"),
		"entry data replaced":           u("\x22\x09\x3a\x07\x22\x02ab\x22\x01c"),
		"entry data past the entry":     u("\x22\x06\x3a\x02\x22\x02ab"),
		"entry wrong wire type":         u("\x22\x04\x3a\x02\x20\x01"),
		"entry truncated":               u("\x22\x03\x3a\x02\x10"),
		"entry, then an error":          u("\x22\x05\x3a\x02\x10\x01\x00"),
		"message unknown":               u("\x22\x03\x80\x01\x05"),
		"message unknown around entry":  u("\x22\x08\x80\x01\x05\x3a\x00\x80\x01\x06"),
		"snapshot":                      u("\x22\x04\x4a\x02\x0a\x00"),
		"merge target":                  u("\x4a\x02\x08\x01"),
		"merge target merged":           u("\x4a\x02\x08\x01\x4a\x02\x12\x00"),
		"extra":                         u("\x08\x05\x52\x02\x08\x01"),
		"extra wrong":                   u("\x08\x05\x52\x02\x08\x80"),
		"vote":                          u("\x22\x02\x68\x05"),
		"priority as bytes":             u("\x22\x03\x72\x01x"),
		"key shortened":                 u("\x3a\x06abcdef\x3a\x01a\x12\x00\x12\x00"),
		"big key":                       append(u("\x3a\xe8\x07"), make([]byte, 1000)...),
	}
	ds := newDecoders()
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				ds.check(t, body)
				ds.reset()
			}
		})
	}
}

// shapes are messages of sizes at which the memory's source changes.
func shapes() map[string]*raft_serverpb.RaftMessage {
	all := map[string]*raft_serverpb.RaftMessage{
		"heartbeat":     heartbeat(1),
		"no message":    {RegionId: 7},
		"big keys":      {RegionId: 7, StartKey: make([]byte, 9<<10), EndKey: make([]byte, 70<<10)},
		"big context":   {Message: &eraftpb.Message{Context: make([]byte, 20<<10)}},
		"empty entries": appendOf(1, 4000, 0),
		"many entries":  appendOf(1, 1000, 100),
	}
	for i := range all["empty entries"].Message.Entries {
		all["empty entries"].Message.Entries[i] = &eraftpb.Entry{}
	}
	for _, size := range []int{0, 1, 128, 1000, 2 << 10, 4 << 10, 7 << 10, 8<<10 - 1, 8 << 10, 9 << 10, 40 << 10, 1 << 20} {
		all["data "+sizeName(size)] = appendOf(1, 1, size)
		all["3 x data "+sizeName(size)] = appendOf(1, 3, size)
	}
	mixed := appendOf(1, 300, 100)
	for i := 0; i < 300; i += 7 {
		mixed.Message.Entries[i].Data = make([]byte, (i*300)%20000)
		mixed.Message.Entries[i].Context = []byte("context")
		mixed.Message.Entries[i].XXX_unrecognized = []byte("\xa0\x06\x05")
	}
	mixed.FromPeer.XXX_unrecognized = []byte("\xa0\x06\x05")
	all["mixed"] = mixed
	return all
}

func sizeName(n int) string {
	if n >= 1024 {
		return string(rune('0'+n>>10/100%10)) + string(rune('0'+n>>10/10%10)) + string(rune('0'+n>>10%10)) + "K"
	}
	return string(rune('0'+n/1000%10)) + string(rune('0'+n/100%10)) + string(rune('0'+n/10%10)) + string(rune('0'+n%10))
}

func TestDecodeShapes(t *testing.T) {
	ds := newDecoders()
	for name, m := range shapes() {
		t.Run(name, func(t *testing.T) {
			body := mustMarshal(t, m)
			for range 3 {
				for range 12 {
					ds.check(t, body)
				}
				ds.reset()
			}
		})
	}
}

// Results don't disturb each other, and owned ones last (C22).
func TestDecodeResultsAreApart(t *testing.T) {
	names, all := []string{}, shapes()
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, lent := range []bool{false, true} {
		d := NewDecoder(DecoderOptions{Lent: lent})
		for range 3 {
			var got, want []*raft_serverpb.RaftMessage
			for range 3 {
				for _, name := range names {
					body := mustMarshal(t, all[name])
					m, err := d.Decode(body)
					if err != nil {
						t.Fatal(err)
					}
					w := new(raft_serverpb.RaftMessage)
					if err := w.Unmarshal(body); err != nil {
						t.Fatal(err)
					}
					got, want = append(got, m), append(want, w)
				}
			}
			for i := range got {
				if !reflect.DeepEqual(got[i], want[i]) {
					t.Fatalf("lent %v: message %q changed", lent, names[i%len(names)])
				}
			}
			d.Reset()
			if !lent {
				for i := range got {
					if !reflect.DeepEqual(got[i], want[i]) {
						t.Fatalf("owned message %q changed by Reset", names[i%len(names)])
					}
				}
			}
		}
	}
}

// Whoever keeps lent memory sees that it is absurd.
func TestResetPoisons(t *testing.T) {
	d := NewDecoder(DecoderOptions{Lent: true})
	extra := heartbeat(1)
	extra.ExtraMsg = &raft_serverpb.ExtraMessage{}
	for _, m := range []*raft_serverpb.RaftMessage{appendOf(1, 2, 10), extra} {
		got, err := d.Decode(mustMarshal(t, m))
		if err != nil {
			t.Fatal(err)
		}
		from, epoch, raft := got.FromPeer, got.RegionEpoch, got.Message
		entries := slices.Clone(raft.Entries)
		d.Reset()
		if got.RegionId != PoisonNumber || from.Id != PoisonNumber || epoch.Version != PoisonNumber ||
			raft.Term != PoisonNumber || raft.MsgType != poisonEnum {
			t.Errorf("not poisoned: %+v", got)
		}
		for _, e := range entries {
			if e.Index != PoisonNumber || string(e.Data) != poisonText {
				t.Errorf("not poisoned: %+v", e)
			}
		}
	}
}

func TestPoison(t *testing.T) {
	b := []byte("abc")
	if Poison(b); !bytes.Equal(b, []byte{PoisonByte, PoisonByte, PoisonByte}) {
		t.Errorf("got %x", b)
	}
	Poison(nil)
}
