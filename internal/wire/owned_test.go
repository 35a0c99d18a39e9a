package wire

import (
	"fmt"
	"reflect"
	"runtime"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/race"
	"google.golang.org/protobuf/encoding/protowire"
)

// perBatch returns the allocations per message of decoding bodies and
// resetting, in the steady state.
func perBatch(t *testing.T, o DecoderOptions, bodies [][]byte) float64 {
	d := NewDecoder(o)
	d.poison = false
	return testing.AllocsPerRun(100, func() {
		for _, body := range bodies {
			if _, err := d.Decode(body); err != nil {
				t.Fatal(err)
			}
		}
		d.Reset()
	}) / float64(len(bodies))
}

func TestDecodeAllocations(t *testing.T) {
	for _, c := range []struct {
		name        string
		build       func(uint64) *raft_serverpb.RaftMessage
		lent, owned float64 // at most, per message
	}{
		{"heartbeat", heartbeat, 0, 0.1},
		{"append 128", append128, 0, 0.2},
		{"append 1K", append1K, 0, 1.3},
		{"append 4K", func(i uint64) *raft_serverpb.RaftMessage { return appendOf(i, 1, 4<<10) }, 0, 1.5},
		{"append 16K", append16K, 0, 6},
		{"append 10 x 4K", func(i uint64) *raft_serverpb.RaftMessage { return appendOf(i, 10, 4<<10) }, 0, 8},
		{"append 10 x 50", func(i uint64) *raft_serverpb.RaftMessage { return appendOf(i, 10, 50) }, 0, 0.7},
		{"append 128 x 100", func(i uint64) *raft_serverpb.RaftMessage { return appendOf(i, 128, 100) }, 0, 7},
	} {
		bodies := batchOf(t, c.build)
		if c.name == "append 128 x 100" {
			bodies = bodies[:8] // a lease keeps 2048 entries
		}
		if n := perBatch(t, DecoderOptions{Lent: true}, bodies); n > c.lent {
			t.Errorf("%s, lent: %v allocations per message, want at most %v", c.name, n, c.lent)
		}
		if n := perBatch(t, DecoderOptions{}, bodies); n > c.owned {
			t.Errorf("%s, owned: %v allocations per message, want at most %v", c.name, n, c.owned)
		}
	}
}

// The slabs fill the allocator's size classes, as owned.go counts them.
func TestSlabSizes(t *testing.T) {
	const header = 8
	for name, c := range map[string]struct{ size, class int }{
		"nodes":   {nodeSlab * int(reflect.TypeFor[node]().Size()), nodeSlabSize},
		"entries": {entrySlab * int(reflect.TypeFor[eraftpb.Entry]().Size()), entrySlabSize},
		"ptrs":    {ptrSlab * 8, ptrSlabSize},
		"group":   {groupEntries * int(reflect.TypeFor[eraftpb.Entry]().Size()), 16 << 10},
	} {
		if c.size+header > c.class || c.size < c.class*9/10 {
			t.Errorf("%s: a slab of %d bytes in a class of %d", name, c.size, c.class)
		}
	}
}

// Hostile bodies make nobody allocate out of proportion: not by a length that
// isn't there, and never more than what they say truly takes.
func TestDecodeHostile(t *testing.T) {
	entries := make([]byte, 0, 1<<20)
	for len(entries) < 1<<20-2 {
		entries = append(entries, entryTag, 0)
	}
	message := append([]byte{4<<3 | wireBytes}, AppendFrameHeader(nil, len(entries))[1:]...)
	message = append(message, entries...)
	for name, c := range map[string]struct {
		body []byte
		most uint64
	}{
		"lengths without bytes": {[]byte("\x22\x0a\x3a\xff\xff\xff\xff\x07\x3a\xff\xff\xff\x7f"), 32 << 10},
		"entries of two bytes":  {message, uint64(len(entries)/2)*(112+8)*11/10 + 64<<10},
		"entries, then garbage": {append(message[:len(message):len(message)], 0), uint64(len(entries)/2)*(112+8)*3 + 64<<10},
	} {
		for _, lent := range []bool{false, true} {
			d := NewDecoder(DecoderOptions{Lent: lent})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := d.Decode(c.body)
			runtime.ReadMemStats(&after)
			most := c.most
			if lent {
				most = most*2 + 64<<10 // the list of entries grows by doubling
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > most {
				t.Errorf("%s, lent %v: %d bytes of body took %d, want at most %d (%v)", name, lent, len(c.body), used, most, err)
			}
		}
	}
}

// live is what the heap holds.
func live() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// reach is the memory to which v leads, itself included, each object on its
// own: what it would keep alive if nothing were shared.
func reach(v reflect.Value, size int) int {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			size += reach(v.Elem(), int(v.Elem().Type().Size()))
		}
	case reflect.Slice:
		size += v.Len() * int(v.Type().Elem().Size())
		if v.Type().Elem().Kind() != reflect.Uint8 {
			for i := range v.Len() {
				size += reach(v.Index(i), 0)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			size += reach(v.Field(i), 0)
		}
	}
	return size
}

// pins are the kinds of pointers that a Raft library might keep. Each takes one
// out of a message, or nil if it has none.
var pins = map[string]func(*raft_serverpb.RaftMessage, int) any{
	"entry": func(m *raft_serverpb.RaftMessage, i int) any {
		if es := m.GetMessage().GetEntries(); len(es) > 0 {
			return es[i%len(es)]
		}
		return (*eraftpb.Entry)(nil)
	},
	"context": func(m *raft_serverpb.RaftMessage, i int) any { return m.GetMessage().GetContext() },
	"entry's context": func(m *raft_serverpb.RaftMessage, i int) any {
		if es := m.GetMessage().GetEntries(); len(es) > 0 {
			return es[i%len(es)].Context
		}
		return []byte(nil)
	},
	"data": func(m *raft_serverpb.RaftMessage, i int) any {
		if es := m.GetMessage().GetEntries(); len(es) > 0 {
			return es[i%len(es)].Data
		}
		return []byte(nil)
	},
	"peer":    func(m *raft_serverpb.RaftMessage, i int) any { return m.FromPeer },
	"epoch":   func(m *raft_serverpb.RaftMessage, i int) any { return m.RegionEpoch },
	"raft":    func(m *raft_serverpb.RaftMessage, i int) any { return m.Message },
	"message": func(m *raft_serverpb.RaftMessage, i int) any { return m },
	"key":     func(m *raft_serverpb.RaftMessage, i int) any { return m.StartKey },
}

// streams are sequences of messages that make slabs hard to bound.
func streams() map[string][]*raft_serverpb.RaftMessage {
	beat := heartbeat(1)
	large := appendOf(1, 1, 1<<20)
	extra := heartbeat(1)
	extra.ExtraMsg = &raft_serverpb.ExtraMessage{CheckPeers: make([]*metapb.Peer, 3000)}
	for i := range extra.ExtraMsg.CheckPeers {
		extra.ExtraMsg.CheckPeers[i] = new(metapb.Peer)
	}
	snapshot := heartbeat(1)
	snapshot.Message.Snapshot = &eraftpb.Snapshot{Data: make([]byte, 100<<10)}
	unknown := heartbeat(1)
	unknown.FromPeer.XXX_unrecognized = protowire.AppendBytes(
		protowire.AppendTag(nil, 100, protowire.BytesType), make([]byte, 72<<10))
	keys := heartbeat(1)
	keys.StartKey, keys.EndKey = make([]byte, 200<<10), make([]byte, 7<<10)
	empty := appendOf(1, 3900, 0)
	for i := range empty.Message.Entries {
		empty.Message.Entries[i] = new(eraftpb.Entry)
	}
	besides := appendOf(1, 1, 300<<10)
	besides.StartKey, besides.Message.Context = make([]byte, 10<<10), make([]byte, 9<<10)
	besides.Message.Entries[0].Context = make([]byte, 4<<10)
	return map[string][]*raft_serverpb.RaftMessage{
		"much besides data":     {besides, beat, appendOf(1, 1, 60<<10), appendOf(1, 1, 40<<10)},
		"16K appends":           {appendOf(1, 1, 16<<10)},
		"9K, one and many":      {appendOf(1, 1, 9<<10), appendOf(1, 300, 16), appendOf(1, 3, 3<<10)},
		"heartbeats":            {beat},
		"small appends":         {appendOf(1, 1, 128)},
		"8K appends":            {appendOf(1, 1, 8000)},
		"large among small":     {beat, appendOf(1, 1, 100), large, beat, beat, appendOf(1, 1, 16<<10)},
		"many entries":          {appendOf(1, 1000, 1000), beat},
		"many and large":        {appendOf(1, 20, 30<<10), appendOf(1, 40, 7<<10), appendOf(1, 2000, 10)},
		"rare among small":      {beat, extra, snapshot, beat, appendOf(1, 2, 200)},
		"unknown fields, keys":  {beat, unknown, keys, beat},
		"entries without bytes": {empty, beat, appendOf(1, 30, 0)},
	}
}

// C22: what is kept alone of an owned message keeps at most 64 KiB alive beyond
// what it leads to by itself.
func TestOwnedPinsLittle(t *testing.T) {
	for name, messages := range streams() {
		var bodies [][]byte
		for _, m := range messages {
			bodies = append(bodies, mustMarshal(t, m))
		}
		for pin, take := range pins {
			t.Run(fmt.Sprintf("%s/%s", name, pin), func(t *testing.T) {
				testPins(t, bodies, take, (*Decoder).Decode)
			})
			t.Run(fmt.Sprintf("%s/%s/given", name, pin), func(t *testing.T) {
				testPins(t, bodies, take, func(d *Decoder, body []byte) (*raft_serverpb.RaftMessage, error) {
					return d.DecodeGiven(clone(body))
				})
			})
		}
	}
}

func testPins(
	t *testing.T, bodies [][]byte, take func(*raft_serverpb.RaftMessage, int) any,
	decode func(*Decoder, []byte) (*raft_serverpb.RaftMessage, error),
) {
	kept := 24
	if race.Enabled {
		kept = 6
	}
	decodeOne := func(d *Decoder, body []byte) *raft_serverpb.RaftMessage {
		m, err := decode(d, body)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	keep := make([]any, 0, kept)
	before := live()
	d := NewDecoder(DecoderOptions{})
	for i := range kept {
		// Wherever in a generation it lies, nothing near it is kept.
		for n, size := 0, 0; n < 150 && size < 200<<10; n++ {
			decodeOne(d, bodies[0])
			size += len(bodies[0])
		}
		for j, body := range bodies {
			m := decodeOne(d, body)
			if (i+j)%len(bodies) == 0 {
				keep = append(keep, take(m, i*7))
			}
		}
	}
	after := live()
	own := 0
	for _, v := range keep {
		own += reach(reflect.ValueOf(v), 0)
	}
	// Go rounds allocations up, by an eighth at most.
	beyond := int(after-before) - own - own/8
	if after > before && beyond/len(keep) > 64<<10 {
		t.Errorf("%d kept pointers keep %d bytes alive each, beyond %d of their own",
			len(keep), beyond/len(keep), own/len(keep))
	}
	runtime.KeepAlive(keep)
	runtime.KeepAlive(bodies)
}
