package etcdraft

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

var _ raftmux.Keeper = (*receiver)(nil)

// Given memory changes nothing of what is read, nor of what is refused.
func TestDecodeGivenIsDecode(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	ours, theirs := &decoder{given: true}, new(decoder)
	for range 3000 {
		data := encode(simpleHeader, randomAppend(random))
		for range random.IntN(3) {
			// In front, where the structure is, or behind an entry.
			data[random.IntN(min(len(data), 60+random.IntN(len(data))))] = byte(random.Uint32())
		}
		if random.IntN(8) == 0 {
			data = data[:random.IntN(len(data))]
		}
		header, want, envelope, wantErr := decodeBy(theirs, data)
		gotHeader, got, gotEnvelope, err := decodeBy(ours, bytes.Clone(data))
		switch {
		case (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error():
			t.Fatalf("%v, want %v", err, wantErr)
		case gotHeader != header || gotEnvelope != envelope:
			t.Fatalf("%+v, %+v, want %+v, %+v", gotHeader, gotEnvelope, header, envelope)
		case err == nil && !equal(got, want):
			t.Fatalf("read\n%v\nwant\n%v", got, want)
		}
	}
}

// What a large message takes, the memory that it came in included.
func TestGivenAllocations(t *testing.T) {
	for name, test := range map[string]struct {
		m    *raftpb.Message
		most float64
	}{
		"16K":  {simple(raftpb.MsgApp, 16<<10), 2},
		"256K": {simple(raftpb.MsgApp, 256<<10), 3},
	} {
		data := encode(simpleHeader, test.m)
		receiver := NewReceiver(new(taker))().(raftmux.Keeper)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := receiver.DecodeGiven(bytes.Clone(data)); err != nil {
				t.Fatal(err)
			}
			receiver.Deliver()
		}); n > test.most {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// An entry with little data, and much else that is passed over, doesn't keep that.
func TestGivenPadding(t *testing.T) {
	m := toKVProto(simpleHeader, simple(raftpb.MsgApp, 100))
	m.Message.Entries[0].Context = make([]byte, 100<<10)
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	_, got, _, err := decodeBy(&decoder{given: true}, data)
	if err != nil {
		t.Fatal(err)
	}
	want := simple(raftpb.MsgApp, 100)
	if wire.Poison(data); !equal(got, want) {
		t.Errorf("the message lies in what was given: %v", got)
	}
}
