package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// A chunk comes out as it went in, and kvproto's code sees message and data in it.
func TestSnapshotChunk(t *testing.T) {
	for _, test := range []struct {
		offset int64
		sum    uint32
		data   []byte
	}{
		{0, 0, []byte("a")},
		{1 << 20, math.MaxUint32, bytes.Repeat([]byte("b"), 1000)},
		{math.MaxInt64, 77, []byte{}},
	} {
		header := AppendSnapshotData(nil, len(test.data), test.offset, test.sum)
		if len(header) > MaxSnapshotHeaderSize {
			t.Errorf("a header of %d bytes", len(header))
		}
		encoded := append(header, test.data...)
		c, err := ParseSnapshotChunk(encoded)
		if err != nil || !c.Verifiable || c.Offset != test.offset || c.Sum != test.sum || !bytes.Equal(c.Data, test.data) || c.Message != nil {
			t.Errorf("%+v, %v", c, err)
		}
		var generated raft_serverpb.SnapshotChunk
		if err := generated.Unmarshal(encoded); err != nil || !bytes.Equal(generated.Data, test.data) || generated.Message != nil {
			t.Errorf("generated: %v", err)
		}
	}
	message := AppendSnapshotMessage(nil, 2)
	c, err := ParseSnapshotChunk(append(message, 0x08, 0x07)) // region_id 7
	if err != nil || c.Verifiable || c.Data != nil || len(c.Message) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

// What can't be is refused by name.
func TestSnapshotChunkErrors(t *testing.T) {
	sum := appendVarint(nil, chunkSumTag)
	offset := appendVarint(nil, chunkOffsetTag)
	for name, test := range map[string]struct {
		b    []byte
		want error
	}{
		"truncated":    {[]byte{chunkDataTag, 5, 1}, ErrFrameTruncated},
		"wire type":    {[]byte{1 << 3}, ErrFrameWireType},
		"two messages": {[]byte{chunkMessageTag, 0, chunkMessageTag, 0}, ErrChunkTwice},
		"two data":     {[]byte{chunkDataTag, 0, chunkDataTag, 0}, ErrChunkTwice},
		"end group":    {[]byte{3<<3 | wireEnd}, ErrFrameGroup},
		"field 0":      {[]byte{0}, ErrFrameTag},
		"sum cut":      {append(sum, 1, 2), ErrFrameTruncated},
		"offset":       {appendVarint(offset, math.MaxUint64), ErrChunkOffset},
	} {
		if _, err := ParseSnapshotChunk(test.b); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Metadata comes out as it went in, and what is none is refused.
func TestSnapshotMetadata(t *testing.T) {
	for _, o := range []SnapshotOffset{{}, {math.MaxInt64, math.MaxUint32}} {
		if got, err := ParseSnapshotOffset(o.String()); got != o || err != nil {
			t.Error(got, err)
		}
	}
	for _, p := range []SnapshotPrecheck{{}, {1, 2, math.MaxUint64, true}} {
		if got, err := ParseSnapshotPrecheck(p.String()); got != p || err != nil {
			t.Error(got, err)
		}
	}
	for _, text := range []string{"", "1", "-1/2", "1/-1", "1/4294967296", "1/2/3", "a/b"} {
		if _, err := ParseSnapshotOffset(text); err == nil {
			t.Errorf("offset %q was taken", text)
		}
		if _, err := ParseSnapshotPrecheck(text); err == nil {
			t.Errorf("precheck %q was taken", text)
		}
	}
}

// Only what a TiKV's leader says to a witness is for one.
func TestForWitness(t *testing.T) {
	encode := func(d raft_serverpb.RaftSnapshotData) []byte {
		b, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	region, witness := &metapb.Region{Id: 7}, &raft_serverpb.SnapshotMeta{ForWitness: true}
	for name, test := range map[string]struct {
		data []byte
		want bool
	}{
		"witness":        {encode(raft_serverpb.RaftSnapshotData{Region: region, Meta: witness}), true},
		"not":            {encode(raft_serverpb.RaftSnapshotData{Region: region, Meta: &raft_serverpb.SnapshotMeta{}}), false},
		"another region": {encode(raft_serverpb.RaftSnapshotData{Region: &metapb.Region{Id: 8}, Meta: witness}), false},
		"no region":      {encode(raft_serverpb.RaftSnapshotData{Meta: witness}), false},
		"nothing":        {nil, false},
		"other bytes":    {[]byte("a host's own"), false},
		"large":          {make([]byte, maxSnapshotData+1), false},
	} {
		if got := ForWitness(7, test.data); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzSnapshotChunk holds the parser against kvproto's: what it takes, that takes
// too and sees the same in it; what it refuses, that refuses, or it is there twice,
// or an offset that can't be.
func FuzzSnapshotChunk(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(AppendSnapshotMessage(nil, 2), 0x08, 0x07))
	f.Add(append(AppendSnapshotData(nil, 3, 1<<40, 0xdeadbeef), "abc"...))
	f.Add([]byte{chunkMessageTag, 0, chunkDataTag, 1, 'x', 0x1b, 0x08, 1, 0x1c})
	f.Fuzz(func(t *testing.T, b []byte) {
		own, err := ParseSnapshotChunk(b)
		var generated raft_serverpb.SnapshotChunk
		theirs := generated.Unmarshal(b)
		if err != nil {
			if theirs == nil && !errors.Is(err, ErrChunkTwice) && !errors.Is(err, ErrChunkOffset) {
				t.Fatalf("refused what kvproto takes: %v", err)
			}
			return
		}
		var message raft_serverpb.RaftMessage
		if message.Unmarshal(own.Message) != nil {
			return // kvproto refuses the whole for it
		}
		if theirs != nil {
			t.Fatalf("took what kvproto refuses: %v", theirs)
		}
		if !bytes.Equal(own.Data, generated.Data) || (own.Message != nil) != (generated.Message != nil) || own.Offset < 0 {
			t.Fatal("saw something else than kvproto")
		}
		if own.Message != nil && message.String() != generated.Message.String() {
			t.Fatal("saw another message")
		}
	})
}

// FuzzSnapshotMetadata checks that whatever is taken says what it was taken for.
func FuzzSnapshotMetadata(f *testing.F) {
	f.Add("1/2")
	f.Add("1/2/3/true")
	f.Fuzz(func(t *testing.T, text string) {
		if o, err := ParseSnapshotOffset(text); err == nil {
			if again, err := ParseSnapshotOffset(o.String()); again != o || err != nil || o.Offset < 0 {
				t.Error(o, again, err)
			}
		}
		if p, err := ParseSnapshotPrecheck(text); err == nil {
			if again, err := ParseSnapshotPrecheck(p.String()); again != p || err != nil {
				t.Error(p, again, err)
			}
		}
	})
}
