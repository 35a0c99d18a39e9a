package wire

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"
)

// Whatever is asked for and given back, in whatever order: a buffer has the length
// that was asked for, and nobody else's memory in it.
func TestFramePool(t *testing.T) {
	const sampled = 1 << 10
	rapid.Check(t, func(t *rapid.T) {
		type use struct {
			buffer  *[]byte
			content byte
		}
		var pool FramePool
		var held []use
		giveBack := func(i int) {
			buffer := held[i].buffer
			for at := 0; at < len(*buffer); at += sampled {
				if (*buffer)[at] != held[i].content {
					t.Fatalf("byte %d of %d was overwritten", at, len(*buffer))
				}
			}
			*buffer = (*buffer)[:len(*buffer)/2] // gRPC cuts padding off
			pool.Put(buffer)
			held = append(held[:i], held[i+1:]...)
		}
		length := rapid.OneOf(rapid.Just(frameSize), rapid.Just(frameSize), rapid.IntRange(0, frameSize+1),
			rapid.SampledFrom([]int{2 * frameSize, slabSize, slabSize + frameSize}))
		for i := range rapid.IntRange(1, 200).Draw(t, "steps") {
			if len(held) > 0 && rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				giveBack(rapid.IntRange(0, len(held)-1).Draw(t, "which"))
				continue
			}
			want := length.Draw(t, "length")
			buffer := pool.Get(want)
			if len(*buffer) != want {
				t.Fatalf("asked for %d bytes, got %d", want, len(*buffer))
			}
			held = append(held, use{buffer, byte(i)})
			for at := 0; at < want; at += sampled {
				(*buffer)[at] = byte(i)
			}
		}
		for len(held) > 0 {
			giveBack(0)
		}
		for i, slab := range pool.slabs {
			if slab.free != 1<<slabFrames-1 {
				t.Fatalf("slots of slab %d didn't come back: %x", i, slab.free)
			}
		}
	})
}

// received returns batch as gRPC's transport reads it in full frames: into the
// pool's memory, save for what is too short for it.
func received(pool mem.BufferPool, batch []byte) (pieces mem.BufferSlice) {
	for len(batch) > 0 {
		n := min(len(batch), frameSize)
		pieces = append(pieces, mem.Copy(batch[:n], pool))
		batch = batch[n:]
	}
	return pieces
}

// A batch that came in frames of the pool is read in one piece, and lies there
// where it was received.
func TestFramePoolKeepsTogether(t *testing.T) {
	for _, length := range []int{2 * frameSize, frameSize + 1100, 5*frameSize + 5000, 30 * frameSize} {
		var pool FramePool
		body := bytes.Repeat([]byte("0123456789abcdef"), length/16+1)[:length-FrameHeaderSize(length)]
		batch := append(AppendFrameHeader(nil, len(body)), body...)
		scratch := new(recordingPool)
		in := &Incoming{Pool: scratch}
		pieces := received(&pool, batch)
		in.receive(pieces, false)
		pieces.Free()
		frames := in.Frames(false)
		got, ok := frames.Next()
		if !ok || !bytes.Equal(got, body) || cap(got) != len(body) {
			t.Fatalf("%d bytes: read %d, %v", len(batch), len(got), frames.Err())
		}
		if header := FrameHeaderSize(len(body)); &got[0] != &pool.slabs[0].memory[header] {
			t.Errorf("%d bytes: the body isn't where it was received", len(batch))
		}
		if scratch.gets != 0 {
			t.Errorf("%d bytes: %d pieces of scratch", len(batch), scratch.gets)
		}
		in.Release()
		if free := pool.slabs[0].free; free != 1<<slabFrames-1 {
			t.Errorf("%d bytes: slots %x are free", len(batch), free)
		}
	}
}

// gRPC's transport asks for memory in the order in which it comes to be read.
func TestFramePoolOnTheWire(t *testing.T) {
	e := newEcho()
	scratch := new(recordingPool)
	e.pool = scratch
	conn := serve(t, e, grpc.ForceServerCodecV2(Codec{}), experimental.BufferPool(new(FramePool)),
		grpc.InitialWindowSize(8<<20), grpc.InitialConnWindowSize(8<<20))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true},
		"/tikvpb.Tikv/BatchRaft", grpc.ForceCodecV2(Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 100<<10/16)
	// Frames are full only once the client knows how large the windows are.
	for before := -1; before != scratch.gets; {
		before = scratch.gets
		if err := stream.SendMsg(&Outgoing{Buffers: mem.BufferSlice{mem.SliceBuffer(want)}}); err != nil {
			t.Fatal("no message came in one piece: ", err)
		}
		select {
		case got := <-e.got:
			if !bytes.Equal(got, want) {
				t.Fatal("another message came")
			}
		case <-ctx.Done():
			t.Fatal("no message came in one piece")
		}
	}
}

// What comes between frames in use has room in one piece, as long as there is some.
func TestFramePoolGoesBackToRuns(t *testing.T) {
	var pool FramePool
	var held []*[]byte
	for range slabFrames {
		held = append(held, pool.Get(frameSize))
	}
	for _, buffer := range held[8 : 8+worthwhileRun] {
		pool.Put(buffer)
	}
	pool.Put(held[2])
	for i := range worthwhileRun {
		if got := pool.Get(frameSize); &(*got)[0] != &pool.slabs[0].memory[(8+i)*frameSize] {
			t.Fatalf("frame %d of a run lies elsewhere", i)
		}
	}
	if pool.Get(frameSize); len(pool.slabs) != 2 {
		t.Error("a single free slot was gone back to, with fresh memory left")
	}
}

// Frames that were in use at once outlive collections, but not more than are kept.
func TestFramePoolKeepsFrames(t *testing.T) {
	const kept = maxSlabs * slabFrames
	var pool FramePool
	known := make(map[*byte]bool)
	use := func(n int) (again int) {
		var held []*[]byte
		for range n {
			buffer := pool.Get(frameSize)
			if first := &(*buffer)[0]; known[first] {
				again++
			} else {
				known[first] = true
			}
			held = append(held, buffer)
		}
		for _, buffer := range held {
			pool.Put(buffer)
		}
		return again
	}
	use(kept)
	for range 3 { // a sync.Pool has nothing left after two
		runtime.GC()
	}
	if again := use(kept + 10); again != kept {
		t.Errorf("%d of %d frames were kept", again, kept)
	}
	if len(pool.slabs) != maxSlabs {
		t.Errorf("%d slabs, of %d at most", len(pool.slabs), maxSlabs)
	}
}

// Copies that are poisoned later are read as what they are copies of: those of
// neighbours in one piece, others across.
func TestAppendCopyKeepsNeighbours(t *testing.T) {
	together := bytes.Repeat([]byte("ab"), 2000)
	data := mem.BufferSlice{
		mem.SliceBuffer(together[:1500]), mem.SliceBuffer(together[1500:2000]), mem.SliceBuffer(nil),
		mem.SliceBuffer(bytes.Clone(together[2000:])),
	}
	pieces := appendCopy(nil, data)
	defer pieces.Free()
	if got := pieces.Materialize(); !bytes.Equal(got, together) {
		t.Fatal("the copy differs")
	}
	if _, ok := join(pieces[0].ReadOnlyData(), pieces[1].ReadOnlyData()); !ok {
		t.Error("neighbours were parted")
	}
	if _, ok := join(pieces[1].ReadOnlyData(), pieces[3].ReadOnlyData()); ok {
		t.Error("others became neighbours")
	}
}
