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
