package wire

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"
)

// cutAt cuts data, and lets every piece end where its memory does.
func cutAt(data []byte, cuts []int) (pieces mem.BufferSlice) {
	slices.Sort(cuts)
	from := 0
	for _, at := range append(cuts, len(data)) {
		pieces = append(pieces, mem.SliceBuffer(bytes.Clone(data[from:at])))
		from = at
	}
	return pieces
}

// anyCuts returns some cuts of data, the same ones each time.
func anyCuts(data []byte) (cuts []int) {
	seed := uint64(len(data))
	for _, b := range data {
		seed = seed*31 + uint64(b)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	for range random.IntN(6) {
		cuts = append(cuts, random.IntN(len(data)+1))
	}
	return cuts
}

// everyCut cuts data, if it isn't long, into single bytes.
func everyCut(data []byte) (cuts []int) {
	for i := range min(len(data), 300) {
		cuts = append(cuts, i)
	}
	return cuts
}

// recordingPool says how much it has handed out, and what it has back.
type recordingPool struct{ gets, puts, bytes int }

func (p *recordingPool) Get(n int) *[]byte {
	p.gets++
	p.bytes += n
	b := make([]byte, n)
	return &b
}

func (p *recordingPool) Put(*[]byte) { p.puts++ }

// frames is all that a FrameReader says of a batch.
type frames struct {
	bodies [][]byte
	given  []bool
	at     int64
	timed  bool
	err    error
}

func readAll(r FrameReader) (f frames) {
	for body, ok := r.Next(); ok; body, ok = r.Next() {
		f.bodies = append(f.bodies, body)
		f.given = append(f.given, r.Given())
	}
	f.at, f.timed = r.ObservedTime()
	f.err = r.Err()
	return f
}

// checkPieces compares reading a batch in pieces with reading it in one: the
// same bodies, or the same error at the same place, and no more memory than the
// batch is large.
func checkPieces(t failer, batch []byte, cuts []int) {
	t.Helper()
	checkReceived(t, batch, cuts, func() mem.BufferSlice { return cutAt(batch, cuts) })
}

// checkReceived is checkPieces of a batch whose pieces receive makes, cut at cuts.
func checkReceived(t failer, batch []byte, cuts any, receive func() mem.BufferSlice) {
	t.Helper()
	want := readAll(ReadFrames(batch))
	for _, give := range []bool{false, true} {
		pool := new(recordingPool)
		in := &Incoming{Pool: pool}
		in.receive(receive(), true)
		got := readAll(in.Frames(give))
		if !reflect.DeepEqual(got.err, want.err) || got.at != want.at || got.timed != want.timed {
			t.Fatalf("%x cut at %v: %v, %d, want %v, %d", batch, cuts, got.err, got.at, want.err, want.at)
		}
		if len(got.bodies) != len(want.bodies) {
			t.Fatalf("%x cut at %v: %d bodies, want %d", batch, cuts, len(got.bodies), len(want.bodies))
		}
		for i, body := range got.bodies {
			if !bytes.Equal(body, want.bodies[i]) || cap(body) != len(body) {
				t.Fatalf("%x cut at %v: body %d is %x, want %x", batch, cuts, i, body, want.bodies[i])
			}
			if got.given[i] && !give {
				t.Fatalf("body %d was given away unasked", i)
			}
		}
		if pool.bytes > 2*len(batch) {
			t.Fatalf("%d bytes of scratch for a batch of %d", pool.bytes, len(batch))
		}
		in.Release()
		if pool.puts != pool.gets {
			t.Fatalf("%d of %d pieces of scratch came back", pool.puts, pool.gets)
		}
		// What was given away lasts; the rest is seen to be gone.
		for i, body := range got.bodies {
			if got.given[i] != bytes.Equal(body, want.bodies[i]) && !allPoison(want.bodies[i]) {
				t.Fatalf("body %d, given %v, is %x after Release", i, got.given[i], body)
			}
		}
	}
}

// allPoison says whether poison can't be told from b.
func allPoison(b []byte) bool { return len(bytes.Trim(b, string([]byte{PoisonByte}))) == 0 }

func TestFramesInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b []byte
		for range rapid.IntRange(0, 6).Draw(t, "frames") {
			body := anyBody.Draw(t, "body")
			if rapid.IntRange(0, 3).Draw(t, "large") == 0 {
				body = largeBody.Draw(t, "large body")
			}
			b = append(AppendFrameHeader(b, len(body)), body...)
			if rapid.IntRange(0, 9).Draw(t, "between") == 0 {
				b = append(b, unknownFields.Draw(t, "fields")...)
			}
		}
		if rapid.Bool().Draw(t, "time") {
			b = AppendObservedTime(b, rapid.Int64().Draw(t, "at"))
		}
		if len(b) > 0 && rapid.IntRange(0, 2).Draw(t, "damage") == 0 {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at byte")] = rapid.Byte().Draw(t, "byte")
		}
		if rapid.IntRange(0, 3).Draw(t, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)).Draw(t, "to")]
		}
		checkPieces(t, b, rapid.SliceOfN(rapid.IntRange(0, len(b)), 0, 12).Draw(t, "cuts"))
		var frames []int // as HTTP/2 cuts
		for at := 16<<10 - 5; at < len(b); at += 16 << 10 {
			frames = append(frames, at)
		}
		checkPieces(t, b, frames)
		var pool FramePool
		for range rapid.IntRange(0, 3).Draw(t, "frames before") {
			pool.Get(frameSize)
		}
		checkReceived(t, b, "frames", func() mem.BufferSlice { return received(&pool, b) })
	})
}

// largeBody generates bodies of appends around the sizes at which they are
// treated in another way.
var largeBody = rapid.Custom(func(t *rapid.T) []byte {
	m := appendOf(rapid.Uint64Range(0, 1<<40).Draw(t, "region"), rapid.IntRange(1, 3).Draw(t, "entries"),
		rapid.SampledFrom([]int{3 << 10, 9 << 10, 16 << 10, 30 << 10, 60 << 10, 100 << 10}).Draw(t, "data"))
	for _, e := range m.Message.Entries {
		for i := range e.Data {
			e.Data[i] = byte(i)
		}
	}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
})

// Whole yields the message whatever its pieces.
func TestWholeInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := largeBody.Draw(t, "body")
		if rapid.Bool().Draw(t, "short") {
			body = anyBody.Draw(t, "short body")
		}
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(body)), 0, 12).Draw(t, "cuts")
		for _, give := range []bool{false, true} {
			var in Incoming
			in.receive(cutAt(body, cuts), true)
			frames := in.Frames(give)
			got := frames.Whole()
			if !bytes.Equal(got, body) || !bytes.Equal(in.Bytes(), body) || frames.Given() && !give {
				t.Fatalf("%d bytes cut at %v: %d", len(body), cuts, len(got))
			}
			given := frames.Given()
			if in.Release(); given != bytes.Equal(got, body) && !allPoison(body) {
				t.Fatal("given away and not its own, or kept and not poisoned")
			}
		}
	})
}

// Of every piece one reference is taken and given back, once, whatever is read.
func TestIncomingReferences(t *testing.T) {
	batch := AppendFrameHeader(nil, 54000)
	batch = append(batch, make([]byte, 54000)...)
	pool := new(recordingPool)
	in := &Incoming{Pool: pool}
	for _, read := range []func(){
		func() {},
		func() { in.Bytes() },
		func() { readAll(in.Frames(false)) },
		func() { readAll(in.Frames(true)); in.Bytes() },
		func() { in.Release() },
		func() { in.receive(nil, false) },
		func() { in.receive(mem.BufferSlice{mem.SliceBuffer("x")}, false); in.Bytes() },
	} {
		*pool = recordingPool{}
		var data mem.BufferSlice
		for from := 0; from < len(batch); from += 16 << 10 {
			piece := pool.Get(min(16<<10, len(batch)-from))
			copy(*piece, batch[from:])
			data = append(data, mem.NewBuffer(piece, pool))
		}
		in.receive(data, false)
		data.Free() // gRPC's own references
		if pool.puts != 0 {
			t.Fatal("the pieces are gone too early")
		}
		read()
		in.Release()
		in.Release()
		if pool.puts != pool.gets {
			t.Errorf("%d of %d buffers came back", pool.puts, pool.gets)
		}
	}
}

// Steady reading in pieces allocates nothing but what it gives away.
func TestPiecesAllocations(t *testing.T) {
	var batch []byte
	for i := range uint64(20) {
		for _, body := range [][]byte{mustMarshal(t, append16K(i)), mustMarshal(t, append1K(i))} {
			batch = append(AppendFrameHeader(batch, len(body)), body...)
		}
	}
	var cuts []int
	for at := 16<<10 - 5; at < len(batch); at += 16 << 10 {
		cuts = append(cuts, at)
	}
	data := cutAt(batch, cuts)
	in := &Incoming{Pool: new(stackPool)}
	for give, most := range map[bool]float64{false: 0, true: 20} {
		if n := testing.AllocsPerRun(100, func() {
			in.receive(data, false)
			frames := in.Frames(give)
			for _, ok := frames.Next(); ok; _, ok = frames.Next() {
			}
			if frames.Err() != nil {
				t.Fatal(frames.Err())
			}
			in.Release()
		}); n > most {
			t.Errorf("give %v: %v allocations", give, n)
		}
	}
}

// stackPool keeps what is given back, of scratchChunk at most. A sync.Pool forgets
// it at a collection, and some of it at any time under the race detector.
type stackPool []*[]byte

func (p *stackPool) Get(length int) *[]byte {
	last := len(*p) - 1
	if last < 0 {
		buffer := make([]byte, length, scratchChunk)
		return &buffer
	}
	buffer := (*p)[last]
	*p = (*p)[:last]
	*buffer = (*buffer)[:length]
	return buffer
}

func (p *stackPool) Put(buffer *[]byte) { *p = append(*p, buffer) }
