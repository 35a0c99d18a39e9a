package wire

import (
	"bytes"
	"reflect"
	"testing"
	"unsafe"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// What a large message takes, if its body is given: the body and two more at most,
// and next to nothing if it is not very large.
func TestDecodeGivenAllocations(t *testing.T) {
	for _, c := range []struct {
		name string
		m    *raft_serverpb.RaftMessage
		most float64
	}{
		{"one entry of 16K", append16K(1), 1.5},
		{"one entry of 256K", appendOf(1, 1, 256<<10), 3},
		{"10 entries of 4K", appendOf(1, 10, 4<<10), 4},
	} {
		body := mustMarshal(t, c.m)
		d := NewDecoder(DecoderOptions{})
		if n := testing.AllocsPerRun(100, func() {
			m, err := d.DecodeGiven(clone(body))
			if err != nil {
				t.Fatal(err)
			}
			sink = m
		}); n > c.most {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// A body is kept where that keeps little else alive, and copied otherwise.
func TestDecodeGivenKeeps(t *testing.T) {
	context := appendOf(1, 1, 300<<10)
	context.Message.Context = make([]byte, 20<<10)
	keys := appendOf(1, 1, 300<<10)
	keys.StartKey = make([]byte, 30<<10)
	for _, c := range []struct {
		name  string
		m     *raft_serverpb.RaftMessage
		keeps bool
	}{
		{"small", appendOf(1, 1, 1000), false},
		{"16K", append16K(1), true},
		{"1M", appendOf(1, 1, 1<<20), true},
		{"10 of 4K", appendOf(1, 10, 4<<10), true},
		{"20 of 4K", appendOf(1, 20, 4<<10), false},
		{"2 of 100K", appendOf(1, 2, 100<<10), false},
		{"20K beside 300K", context, true},
		{"30K beside 300K", keys, false},
		{"many small", appendOf(1, 450, 8), false},
	} {
		body := mustMarshal(t, c.m)
		m, err := NewDecoder(DecoderOptions{}).DecodeGiven(body)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(m, c.m) {
			t.Errorf("%s: another message", c.name)
		}
		data := m.Message.Entries[0].Data
		first, last := unsafe.Pointer(&body[0]), unsafe.Pointer(&body[len(body)-1])
		at := unsafe.Pointer(&data[0])
		if keeps := uintptr(at) >= uintptr(first) && uintptr(at) <= uintptr(last); keeps != c.keeps {
			t.Errorf("%s: the data lies in the body: %v", c.name, keeps)
		}
		if c.keeps && !worthGiving(body[:headSize], len(body)) {
			t.Errorf("%s: would not be given", c.name)
		}
	}
}

// A body of which only its head tells what it isn't is decoded all the same.
func TestDecodeGivenMisjudged(t *testing.T) {
	key := &raft_serverpb.RaftMessage{RegionId: 1, StartKey: bytes.Repeat([]byte("k"), 100<<10)}
	body := mustMarshal(t, key)
	if !worthGiving(body[:headSize], len(body)) {
		t.Error("a key was told from an entry") // both are field 7
	}
	m, err := NewDecoder(DecoderOptions{}).DecodeGiven(body)
	if err != nil {
		t.Fatal(err)
	}
	if Poison(body); !reflect.DeepEqual(m, key) {
		t.Error("the message lies in the body")
	}
}

func BenchmarkDecodeAppend16KGiven(b *testing.B) {
	bodies := batchOf(b, append16K)
	d := NewDecoder(DecoderOptions{})
	b.ReportAllocs()
	for b.Loop() {
		for _, body := range bodies {
			m, err := d.DecodeGiven(clone(body))
			if err != nil {
				b.Fatal(err)
			}
			sink = m
		}
	}
	perMessage(b)
}
