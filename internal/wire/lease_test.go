package wire

import (
	"reflect"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// A lease doesn't hold for ever what one large batch needed.
func TestLeaseShrinks(t *testing.T) {
	d := NewDecoder(DecoderOptions{Lent: true})
	huge := mustMarshal(t, appendOf(1, 100000, 0))
	small := mustMarshal(t, heartbeat(1))
	for range 3 {
		for range 2000 {
			if _, err := d.Decode(small); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := d.Decode(huge); err != nil {
			t.Fatal(err)
		}
		d.Reset()
	}
	size := len(d.lease.nodes)*nodeChunk*int(reflect.TypeFor[node]().Size()) +
		len(d.lease.entries)*entryChunk*int(reflect.TypeFor[eraftpb.Entry]().Size()) + 8*len(d.lease.ptrs)
	if size > 600<<10 {
		t.Errorf("%d KiB are kept", size>>10)
	}
	for _, chunk := range d.lease.nodes[:cap(d.lease.nodes)][len(d.lease.nodes):] {
		if chunk != nil {
			t.Fatal("a chunk is still held")
		}
	}
}

// In the steady state a lease is as large as a batch needs, however the batches
// are mixed.
func TestLeaseSettles(t *testing.T) {
	d := NewDecoder(DecoderOptions{Lent: true})
	d.poison = false
	bodies := batchOf(t, func(i uint64) *raft_serverpb.RaftMessage { return appendOf(i, int(i%12), 30) })
	if n := testing.AllocsPerRun(50, func() {
		for _, body := range bodies {
			if _, err := d.Decode(body); err != nil {
				t.Fatal(err)
			}
		}
		d.Reset()
	}); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
	for i := range d.lease.nodes {
		for j := range d.lease.nodes[i] {
			if !reflect.ValueOf(d.lease.nodes[i][j]).IsZero() {
				t.Fatal("a message is still referred to after Reset")
			}
		}
	}
	for _, p := range d.lease.ptrs {
		if p != nil {
			t.Fatal("an entry is still referred to after Reset")
		}
	}
}

// A message that is left to the generated code gives back the list of entries that it
// began, and costs nothing for what a larger one has left free.
func TestLeaseGivesBackWhatWasBegun(t *testing.T) {
	d := NewDecoder(DecoderOptions{Lent: true})
	if _, err := d.Decode(mustMarshal(t, appendOf(1, 2, 0))); err != nil {
		t.Fatal(err)
	}
	l := &d.lease
	far := new(eraftpb.Entry)
	l.ptrs[len(l.ptrs)-1] = far
	if _, err := d.Decode([]byte{4<<3 | wireBytes, 5, entryTag, 0, entryTag, 0, 7}); err == nil {
		t.Fatal("not malformed")
	}
	for i, p := range l.ptrs[l.ptrAt : len(l.ptrs)-1] {
		if p != nil {
			t.Errorf("entry %d is still referred to", i)
		}
	}
	if l.ptrAt != 2 || l.ptrs[len(l.ptrs)-1] != far {
		t.Error("what was never begun was cleared")
	}
}
