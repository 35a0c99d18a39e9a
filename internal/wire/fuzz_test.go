package wire

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

// FuzzDecode compares owned and lent decoding with the generated code, and what it
// allocates with the body's size.
func FuzzDecode(f *testing.F) {
	ds := newDecoders()
	f.Fuzz(func(t *testing.T, body []byte) {
		ds.check(t, body)
		ds.check(t, body)
		ds.reset()
		ds.check(t, body)
		checkAllocated(t, body)
	})
}

// FuzzReadFrames compares the framing with the generated code.
func FuzzReadFrames(f *testing.F) {
	f.Fuzz(func(t *testing.T, batch []byte) { checkFrames(t, batch) })
}

// checkFrames compares FrameReader with tikvpb.BatchRaftMessage.Unmarshal, and
// reading the batch in pieces with reading it in one.
func checkFrames(t failer, batch []byte) {
	t.Helper()
	checkPieces(t, batch, anyCuts(batch))
	checkPieces(t, batch, everyCut(batch))
	frames := ReadFrames(batch)
	var bodies [][]byte
	outer := bytes.Clone(batch) // batch with bodies that the generated code accepts
	for body, ok := frames.Next(); ok; body, ok = frames.Next() {
		if cap(body) != len(body) {
			t.Fatalf("%x: a body can grow into what follows it", batch)
		}
		bodies = append(bodies, body)
		if !fillValid(outer[frames.pos-len(body) : frames.pos]) {
			return // one byte is never a valid message
		}
	}
	want := new(tikvpb.BatchRaftMessage)
	wantErr := want.Unmarshal(outer)
	if (frames.Err() == nil) != (wantErr == nil) {
		t.Fatalf("%x: got error %v, want %v", batch, frames.Err(), wantErr)
	}
	if _, ok := frames.Next(); ok {
		t.Fatalf("%x: a frame behind the end", batch)
	}
	if wantErr != nil {
		return
	}
	if len(bodies) != len(want.Msgs) {
		t.Fatalf("%x: %d frames, want %d", batch, len(bodies), len(want.Msgs))
	}
	if inner := new(tikvpb.BatchRaftMessage); inner.Unmarshal(batch) == nil {
		for i, m := range inner.Msgs {
			got := new(raft_serverpb.RaftMessage)
			if err := got.Unmarshal(bodies[i]); err != nil || !reflect.DeepEqual(got, m) {
				t.Fatalf("%x: frame %d: %v, %v, want %v", batch, i, got, err, m)
			}
		}
	}
	wantTime, wantOK, valid := observedTime(want.XXX_unrecognized)
	if at, ok := frames.ObservedTime(); valid && (at != wantTime || ok != wantOK) {
		t.Fatalf("%x: observed time %d, %v, want %d, %v", batch, at, ok, wantTime, wantOK)
	}
}

// fillValid makes of b a valid RaftMessage, if one can have that length.
func fillValid(b []byte) bool {
	if len(b) == 1 {
		return false
	}
	for i := range b {
		b[i] = "\x08\x00"[i%2]
	}
	if len(b)%2 == 1 {
		copy(b[len(b)-3:], "\x08\x80\x00")
	}
	return true
}

// observedTime reads field 13 with another protobuf library. That one is
// stricter in places: valid tells whether it could.
func observedTime(b []byte) (unixNano int64, ok, valid bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, false, false
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return 0, false, false
		}
		if num == 13 && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b[n:])
			unixNano, ok = int64(v), true
		}
		b = b[n+m:]
	}
	return unixNano, ok, true
}

var updateCorpus = flag.Bool("update-corpus", false, "write the seed corpora of the fuzz targets")

// TestSeedCorpus writes the seed corpora when asked to, and else checks that
// they are there: go test runs them as ordinary tests.
func TestSeedCorpus(t *testing.T) {
	for target, seeds := range map[string]func() [][]byte{
		"FuzzDecode": decodeSeeds, "FuzzReadFrames": frameSeeds,
	} {
		dir := filepath.Join("testdata", "fuzz", target)
		if *updateCorpus {
			writeSeeds(t, dir, seeds())
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) < 50 {
			t.Errorf("%s: %d seeds, %v", dir, len(files), err)
		}
	}
}

func decodeSeeds() [][]byte {
	var seeds [][]byte
	for seed := range 60 {
		seeds = append(seeds, anyBody.Example(seed))
	}
	for seed := range 10 {
		b, _ := plainMessage.Example(seed).Marshal()
		seeds = append(seeds, b, b[:len(b)/2], b[:len(b)*9/10])
	}
	for _, m := range []*raft_serverpb.RaftMessage{heartbeat(1), appendOf(1, 1, 32), appendOf(1, 3, 8), appendOf(1, 0, 0)} {
		b, _ := m.Marshal()
		seeds = append(seeds, b, b[:len(b)-1], append(b, b...))
	}
	return seeds
}

func frameSeeds() [][]byte {
	var seeds [][]byte
	for seed := range 60 {
		var b []byte
		for i := range 1 + seed%4 {
			body := anyBody.Example(100 + 4*seed + i)
			b = append(AppendFrameHeader(b, len(body)), body...)
		}
		if seed%3 > 0 {
			b = AppendObservedTime(b, 1<<60+int64(seed))
		}
		switch seed % 5 {
		case 0:
			b = b[:len(b)*2/3]
		case 1:
			b = append(b, unknownFields.Example(seed)...)
		}
		seeds = append(seeds, b)
	}
	return seeds
}

func writeSeeds(t *testing.T, dir string, seeds [][]byte) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, seed := range seeds {
		text := fmt.Sprintf("go test fuzz v1\n[]byte(%q)\n", seed)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("seed-%03d", i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFramesAnyBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		for range rapid.IntRange(0, 4).Draw(t, "frames") {
			body := anyBody.Draw(t, "body")
			b = append(AppendFrameHeader(b, len(body)), body...)
		}
		if rapid.Bool().Draw(t, "time") {
			b = AppendObservedTime(b, rapid.Int64().Draw(t, "at"))
		}
		if rapid.Bool().Draw(t, "unknown") {
			b = append(b, unknownFields.Draw(t, "fields")...)
		}
		if len(b) > 0 && rapid.Bool().Draw(t, "damage") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at byte")] = rapid.Byte().Draw(t, "byte")
		}
		if rapid.Bool().Draw(t, "cut") {
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "to")]
		}
		checkFrames(t, b)
	})
}
