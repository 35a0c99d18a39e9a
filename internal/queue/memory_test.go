package queue

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// What Take returned stays as it was until it is freed, however much others use
// the pool meanwhile, whatever the queue does, and in whatever order parts of a
// chunk are freed.
func TestTakenBytesStayUntilFreed(t *testing.T) {
	q, _ := newQueue(1<<20, 1<<30, referTo(4<<10))
	var churners sync.WaitGroup
	stop := make(chan struct{})
	for w := range uint64(2) {
		churners.Go(func() {
			other := New(q.options) // the same pool
			s := other.NewStage()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				mustPush(t, s, appendOf(w, 1, 1<<(i%16)))
				s.Flush()
				if i%8 == 0 {
					for batch, ok := other.Take(limits); ok; batch, ok = other.Take(limits) {
						batch.Buffers.Free()
					}
				}
			}
		})
	}
	type held struct {
		batch Batch
		was   []byte
	}
	var inFlight []held
	let := func(i int) {
		h := inFlight[i]
		inFlight = slices.Delete(inFlight, i, i+1)
		if now := h.batch.Buffers.Materialize(); !bytes.Equal(now, h.was) {
			t.Fatal("a batch has changed")
		}
		h.batch.Buffers.Free()
	}
	s := q.NewStage()
	for i := range 3000 {
		mustPush(t, s, appendOf(1, uint64(i), rand.IntN(1<<rand.IntN(14))))
		if rand.IntN(10) == 0 {
			s.Flush()
		}
		if rand.IntN(4) == 0 {
			cut := Limits{Messages: 1 + rand.IntN(5), Bytes: 1 << 20, Age: limits.Age, Bare: rand.IntN(3) == 0}
			if batch, ok := q.Take(cut); ok {
				inFlight = append(inFlight, held{batch, batch.Buffers.Materialize()})
			}
		}
		if len(inFlight) > 20 {
			let(rand.IntN(len(inFlight)))
		}
		if rand.IntN(300) == 0 {
			q.Clear(ReasonConnect)
		}
	}
	q.Disconnect(ReasonClosing)
	for len(inFlight) > 0 {
		let(0)
	}
	close(stop)
	churners.Wait()
	balanced(t, q)
}

// Whoever keeps bytes after Free reads poison, also of chunks that aren't pooled.
func TestFreedBytesArePoisoned(t *testing.T) {
	for _, size := range []int{10, 5000, 100_000, 300_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			q, _ := newQueue(100, 1<<30)
			s := q.NewStage()
			mustPush(t, s, appendOf(1, 1, size), appendOf(1, 2, size))
			s.Flush()
			var kept [][]byte
			var batches []mem.BufferSlice
			for batch, ok := q.Take(Limits{Messages: 1, Age: limits.Age}); ok; batch, ok = q.Take(Limits{Messages: 1, Age: limits.Age}) {
				for _, b := range batch.Buffers[:len(batch.Buffers)-1] {
					kept = append(kept, b.ReadOnlyData())
				}
				batches = append(batches, batch.Buffers)
			}
			poisoned := func(b []byte) bool { return bytes.Count(b, []byte{wire.PoisonByte}) == len(b) }
			if len(kept) != 2 || poisoned(kept[0]) || poisoned(kept[1]) {
				t.Fatal("poisoned too early")
			}
			for _, b := range batches {
				b.Free()
			}
			if !poisoned(kept[0]) || !poisoned(kept[1]) {
				t.Error("not poisoned")
			}
		})
	}
}

// A chunk serves again once, after the last of its parts was let go.
func TestChunkComesBackOnce(t *testing.T) {
	pool := new(Pool)
	c := pool.get(10)
	for range 3 {
		c.data = append(c.data, make([]byte, 1000)...)
		c.records = append(c.records, record{end: uint32(len(c.data))})
	}
	parts := []mem.Buffer{c.part(0, 1000), c.part(1000, 1001), c.part(1001, 3000), c.part(0, 3000)}
	c.free()
	for _, p := range parts {
		if p.Len() == 0 || p.ReadOnlyData()[0] != 0 {
			t.Fatal("poisoned too early")
		}
		p.Free()
	}
	if c.whole != nil || len(c.data) != 0 || len(c.records) != 0 || cap(c.data) != smallChunk {
		t.Error("it isn't empty")
	}
	for _, test := range []struct{ size, capacity int }{
		{0, smallChunk},
		{smallChunk, smallChunk},
		{smallChunk + 1, 2 * smallChunk},
		{largeChunk/2 + 1, largeChunk},
		{largeChunk, largeChunk},
		{largeChunk + 1, largeChunk + slack},
		{largeChunk + slack, largeChunk + slack},
		{largeChunk + slack + 1, 2*largeChunk + slack},
		{hugeChunk, hugeChunk},
		{hugeChunk + 1, hugeChunk + 1},
	} {
		c := pool.get(test.size)
		if cap(c.data) != test.capacity || (c.class < 0) != (test.size > hugeChunk) || c.class >= classes {
			t.Errorf("%d bytes: a chunk of %d in class %d", test.size, cap(c.data), c.class)
		}
	}
}

// memory is what a queue and its stages hold for messages.
func memory(q *Queue) (n int) {
	for _, c := range q.chunks {
		n += c.referred + cap(c.payloads)*int(unsafe.Sizeof(payload{})) + c.memory() + int(unsafe.Sizeof(chunk{}))
	}
	return n + cap(q.chunks)*8
}

// S1, C17: a queue holds little more memory than the bytes that bound it, even
// if it fills by flushes of one message, by several workers in any order.
func TestS1MemoryOfSmallFlushes(t *testing.T) {
	for _, size := range []int{40, 200, 1000, 1900, 2100, 3100, 4100, 9000, 33_000, 70_000, 200_000, 270_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			q, _ := newQueue(4096, 4<<20, referTo(4<<10))
			var stages [8]*Stage
			for i := range stages {
				stages[i] = q.NewStage()
			}
			copied := make(encoded, size)
			bodies := []Encoder{copied, &referring{copied, [][]byte{copied[size/2:]}}}
			for full := false; !full; {
				// Flushed in the opposite order: accepted earlier, handed over later.
				for i, s := range stages {
					full = full || s.Push(Message{RegionID: 1, PeerID: 1, Size: size}, bodies[i%2]) != nil
				}
				for _, s := range slices.Backward(stages[:]) {
					s.Flush()
				}
			}
			l := balanced(t, q)
			most := 3*int(l.QueuedBytes) + 64<<10
			if n := memory(q); n > most {
				t.Errorf("%d KiB for %d messages of %d KiB: factor %.1f", n>>10, l.Queued, l.QueuedBytes>>10, float64(n)/float64(l.QueuedBytes))
			}
		})
	}
}

// S1, C17: nor does it hold more when workers that have filled large chunks are
// refused again and again, with one message in between.
func TestS1MemoryOfRefused(t *testing.T) {
	const size, room = 3000, 200
	q, _ := newQueue(room, 4<<20)
	body, message := make(encoded, size), Message{RegionID: 1, PeerID: 1, Size: size}
	var stages [8]*Stage
	for i := range stages {
		stages[i] = q.NewStage()
		for stages[i].Push(message, body) == nil {
		}
		q.Clear(ReasonConnect)
	}
	for i := range room {
		q.options.Messages = i + 1 // as if one was taken
		s := stages[i%len(stages)]
		if s.Push(message, body) != nil || s.Push(message, body) == nil {
			t.Fatal("not one message was taken")
		}
	}
	l := balanced(t, q)
	if n, most := memory(q), 3*int(l.QueuedBytes)+len(stages)*largeChunk; n > most {
		t.Errorf("%d KiB for %d messages of %d KiB", n>>10, l.Queued, l.QueuedBytes>>10)
	}
}

// S1, C6: messages that DropVolatile dropped don't hold memory.
func TestS1MemoryOfDropped(t *testing.T) {
	q, _ := newQueue(500, 1<<20)
	s := q.NewStage()
	for range 50 {
		for push(t, s, rig.Heartbeat(1, 2, 3)) == nil {
			s.Flush()
		}
		q.DropVolatile()
	}
	if n := memory(q); n > 16<<10 {
		t.Errorf("%d KiB for nothing", n>>10)
	}
	balanced(t, q)
}

// S21, C17: an idle queue costs next to nothing: when it is new, and when it
// has been full and is empty again.
func TestS21IdleQueue(t *testing.T) {
	const queues = 1000
	var before, after runtime.MemStats
	pool := new(Pool)
	kept := make([]*Queue, queues)
	stages := make([]*Stage, queues)
	runtime.ReadMemStats(&before)
	for i := range kept {
		kept[i] = New(Options{Messages: 4096, Bytes: 64 << 20, Pool: pool})
		stages[i] = kept[i].NewStage()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / queues; each > 1536 {
		t.Errorf("%d bytes", each)
	}
	runtime.KeepAlive(kept)

	q, _ := newQueue(4096, 64<<20)
	s := q.NewStage()
	for range 4096 {
		mustPush(t, s, appendOf(1, 1, 3000))
		s.Flush()
	}
	takeAll(t, q, limits)
	if n := memory(q); n > 1024 || s.chunk != nil {
		t.Errorf("%d bytes after use", n)
	}
}

// Taking from a long queue costs no more per chunk than from a short one.
func TestLongQueueIsNotQuadratic(t *testing.T) {
	q, _ := newQueue(1, 1)
	q.chunks = make([]*chunk, 1<<19)
	q.chunks[1<<19-1] = new(chunk)
	within(t, func() {
		for range 1<<19 - 1 {
			q.removeFront(1)
		}
	})
	if len(q.chunks) != 1 || q.chunks[0] == nil {
		t.Error("the last one is gone")
	}
}
