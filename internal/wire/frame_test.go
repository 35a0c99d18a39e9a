package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
)

func TestFrameSizes(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16383, 16384, 1<<21 - 1, 1 << 21, 1<<28 - 1, 1 << 28, math.MaxInt32, 64 << 20} {
		header := AppendFrameHeader(nil, n)
		if FrameHeaderSize(n) != len(header) || FrameSize(n) != len(header)+n {
			t.Errorf("body of %d: header size %d, frame size %d, header %x", n, FrameHeaderSize(n), FrameSize(n), header)
		}
	}
	// An empty BatchRaftMessage with one message in it, as kvproto sizes it.
	for _, n := range []int{0, 100, 20000} {
		m := &raft_serverpb.RaftMessage{StartKey: make([]byte, n)}
		batch := &tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{m}}
		if got := FrameSize(m.Size()); got != batch.Size() {
			t.Errorf("frame size %d, want %d", got, batch.Size())
		}
	}
	for _, at := range []int64{0, 1, 1e18, math.MaxInt64, -1} {
		b := AppendObservedTime(nil, at)
		frames := ReadFrames(b)
		_, more := frames.Next()
		if got, ok := frames.ObservedTime(); got != at || !ok || more || frames.Err() != nil || len(b) > MaxObservedTimeSize {
			t.Errorf("time %d: read %d, %v, %v", at, got, ok, frames.Err())
		}
	}
}

// A batch made by concatenation is what kvproto would have written.
func TestFramesAreABatch(t *testing.T) {
	batch := new(tikvpb.BatchRaftMessage)
	var b []byte
	for i := range 5 {
		m := appendOf(uint64(i), i, 100)
		batch.Msgs = append(batch.Msgs, m)
		body := mustMarshal(t, m)
		b = append(AppendFrameHeader(b, len(body)), body...)
	}
	if want := mustMarshal(t, batch); !bytes.Equal(b, want) {
		t.Fatalf("got %x, want %x", b, want)
	}
	checkFrames(t, b)
}

func TestReadFramesBroken(t *testing.T) {
	ff := strings.Repeat("ff", 9)
	for _, c := range []struct {
		name, hex string
		frames    int
		offset    int
		reason    error
	}{
		{"nothing", "", 0, 0, nil},
		{"a frame", "0a020801", 1, 0, nil},
		{"an empty frame", "0a00", 1, 0, nil},
		{"a body that is no message", "0a02ffff", 1, 0, nil},
		{"a tag that isn't minimal", "8a00020801", 1, 0, nil},
		{"a tag past 32 bits", "8a8080808001020801", 1, 0, nil},
		{"a length that isn't minimal", "0a82000801", 1, 0, nil},
		{"frames around an unknown field", "0a0210050a00", 2, 0, nil},
		{"the time as bytes", "0a006a0178", 1, 0, nil},
		{"an unknown group", "a30608018b018c01a4060a00", 1, 0, nil},
		{"a header cut", "0a00" + "0a", 1, 2, ErrFrameTruncated},
		{"a length cut", "0a00" + "0a80", 1, 2, ErrFrameTruncated},
		{"a body cut", "0a00" + "0a0208", 1, 2, ErrFrameTruncated},
		{"a tag cut", "0a00" + "8a", 1, 2, ErrFrameTruncated},
		{"a long tag", "0a00" + ff + "ff01", 1, 2, ErrFrameVarint},
		{"a long length", "0a" + ff + "ff01", 0, 0, ErrFrameVarint},
		{"a negative length", "0a" + ff + "01", 0, 0, ErrFrameLength},
		{"a huge length", "0a" + "ffffffffffffffff7f", 0, 0, ErrFrameTruncated},
		{"a message as varint", "0a00" + "0801", 1, 2, ErrFrameWireType},
		{"a message as group", "0b0c", 0, 0, ErrFrameWireType},
		{"field 0", "0001", 0, 0, ErrFrameTag},
		{"a negative field", "808080804001", 0, 0, ErrFrameTag},
		{"an end of group", "0a000c", 1, 2, ErrFrameGroup},
		{"wire type 6", "a60601", 0, 0, ErrFrameWireType},
		{"a time cut", "68", 0, 0, ErrFrameTruncated},
		{"a long time", "68" + ff + "ff01", 0, 0, ErrFrameVarint},
		{"a group without end", "a3060801", 0, 0, ErrFrameTruncated},
		{"a group with a bad length", "a3060aff" + ff + "01", 0, 0, ErrFrameVarint},
		{"a fixed32 cut", "a506616263", 0, 0, ErrFrameTruncated},
		{"a fixed64 cut", "a10661626364656667", 0, 0, ErrFrameTruncated},
	} {
		batch, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(err)
		}
		checkFrames(t, batch)
		frames, n := ReadFrames(batch), 0
		for _, ok := frames.Next(); ok; _, ok = frames.Next() {
			n++
		}
		if n != c.frames || !errors.Is(frames.Err(), c.reason) {
			t.Errorf("%s: %d frames, %v, want %d, %v", c.name, n, frames.Err(), c.frames, c.reason)
		}
		if fe := (*FrameError)(nil); errors.As(frames.Err(), &fe) && fe.Offset != c.offset {
			t.Errorf("%s: at %d, want %d", c.name, fe.Offset, c.offset)
		} else if fe != nil && !strings.Contains(fe.Error(), c.reason.Error()) {
			t.Errorf("%s: the text is %q", c.name, fe)
		}
	}
}

func TestReadFramesAllocatesNothing(t *testing.T) {
	var b []byte
	for i := range 100 {
		body := mustMarshal(t, heartbeat(uint64(i)))
		b = append(AppendFrameHeader(b, len(body)), body...)
	}
	b = AppendObservedTime(b, 5)
	if n := testing.AllocsPerRun(100, func() {
		frames := ReadFrames(b)
		for _, ok := frames.Next(); ok; _, ok = frames.Next() {
		}
		if frames.Err() != nil {
			t.Fatal(frames.Err())
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	dst := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		dst = AppendObservedTime(AppendFrameHeader(dst[:0], 1<<20), 1<<60)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestVarintSize(t *testing.T) {
	for shift := range 64 {
		for _, v := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1} {
			if got, want := VarintSize(v), len(binary.AppendUvarint(nil, v)); got != want {
				t.Errorf("%d takes %d bytes, not %d", v, want, got)
			}
		}
	}
}
