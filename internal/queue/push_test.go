package queue

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

// S1, C17: a queue is bounded in messages, over all stages together.
func TestS1BoundedInMessages(t *testing.T) {
	q, _ := newQueue(10, 1<<20)
	one, two := q.NewStage(), q.NewStage()
	for i := range uint64(5) {
		mustPush(t, one, rig.Heartbeat(1, 2, i))
		mustPush(t, two, rig.Heartbeat(2, 2, i))
	}
	if err := push(t, one, rig.Heartbeat(1, 2, 6)); !errors.Is(err, ErrFull) {
		t.Fatalf("message 11 of 10: %v", err)
	}
	two.Flush()
	if err := push(t, two, rig.Heartbeat(1, 2, 6)); !errors.Is(err, ErrFull) {
		t.Fatalf("flushed: %v", err)
	}
	batch, _ := q.Take(Limits{Messages: 1, Bytes: 1 << 20, Age: limits.Age})
	decode(t, batch, false)
	mustPush(t, two, rig.Heartbeat(2, 2, 7))
	if err := push(t, one, rig.Heartbeat(1, 2, 8)); !errors.Is(err, ErrFull) {
		t.Fatalf("full again: %v", err)
	}
	if l := balanced(t, q); l.Accepted != 11 || l.Queued != 10 {
		t.Errorf("accepted %d, queued %d", l.Accepted, l.Queued)
	}
}

// S1, C17: a queue is bounded in bytes, to the byte.
func TestS1BoundedInBytes(t *testing.T) {
	m := appendOf(1, 1, 100)
	size := m.Size()
	q, _ := newQueue(1000, 3*size)
	s := q.NewStage()
	mustPush(t, s, m, m)
	if err := push(t, s, appendOf(1, 1, 101)); !errors.Is(err, ErrFull) {
		t.Fatalf("a byte too many: %v", err)
	}
	mustPush(t, s, m)
	if err := s.Push(Message{Size: 1}, encoded{0}); !errors.Is(err, ErrFull) {
		t.Fatalf("a byte: %v", err)
	}
	if l := balanced(t, q); l.QueuedBytes != uint64(3*size) {
		t.Errorf("%d bytes of %d", l.QueuedBytes, 3*size)
	}
	if n := len(takeAll(t, q, limits)); n != 1 {
		t.Errorf("%d batches", n)
	}
	balanced(t, q)
}

// S1: workers that push all at once never exceed a bound, not even for a moment.
func TestS1BoundsHoldWhilePushing(t *testing.T) {
	const bound = 50
	q, _ := newQueue(bound, 1<<20)
	var producers sync.WaitGroup
	for i := range uint64(8) {
		producers.Go(func() {
			s := q.NewStage()
			defer s.Close()
			for range 500 {
				if err := push(t, s, rig.Heartbeat(i, 2, 1)); err != nil && !errors.Is(err, ErrFull) {
					t.Error(err)
				}
			}
		})
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for range 300 {
			if l := q.Ledger(); l.Queued > bound {
				t.Errorf("%d messages", l.Queued)
			}
			if batch, ok := q.Take(Limits{Messages: 7, Bytes: 1 << 20, Age: limits.Age}); ok {
				batch.Buffers.Free()
			}
		}
	}()
	producers.Wait()
	<-watched
	takeAll(t, q, limits)
	balanced(t, q)
}

// S1, C4: a full queue flushes what the stage holds and wakes the consumer.
func TestS1FullWakesAtOnce(t *testing.T) {
	q, _ := newQueue(1, 1<<20)
	s := q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 3))
	if woken(q) {
		t.Fatal("woken by a push")
	}
	if err := push(t, s, rig.Heartbeat(1, 2, 3)); !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	if !woken(q) {
		t.Fatal("not woken")
	}
	if n := len(takeAll(t, q, limits)); n != 1 {
		t.Errorf("%d batches", n)
	}
}

// S1: a disconnected queue says so: to pushes, to stages made before and later.
func TestS1DisconnectedAnswers(t *testing.T) {
	q, d := newQueue(10, 1<<20)
	before := q.NewStage()
	mustPush(t, before, rig.Heartbeat(1, 2, 3))
	if q.Disconnected() {
		t.Error("disconnected")
	}
	if n := q.Disconnect(ReasonTombstone); n != 1 || !q.Disconnected() {
		t.Errorf("%d messages dropped", n)
	}
	for _, s := range []*Stage{before, q.NewStage()} {
		if err := push(t, s, rig.Heartbeat(1, 2, 3)); !errors.Is(err, ErrDisconnected) {
			t.Errorf("push: %v", err)
		}
		s.Flush()
		s.Close()
		s.Close()
	}
	if n := q.Disconnect(ReasonClosing); n != 0 || len(d.take()) != 1 || woken(q) {
		t.Errorf("again: %d messages", n)
	}
	if l := balanced(t, q); l.Dropped[ReasonTombstone] != 1 {
		t.Error(l)
	}
}

// C7: an encoder that writes another size than it announced, or panics, leaves
// nothing behind: no bytes, no load, no memory, and no age for the next message.
func TestC7EncoderThatFails(t *testing.T) {
	body := encode(t, rig.Heartbeat(1, 2, 9))
	failing := map[string]encoderFunc{
		"short":  func(b []byte) []byte { return append(b, body[1:]...) },
		"long":   func(b []byte) []byte { return append(append(b, body...), 0) },
		"huge":   func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
		"none":   func(b []byte) []byte { return b },
		"nil":    func([]byte) []byte { return nil },
		"panics": func(b []byte) []byte { _ = append(b, body[:3]...); panic("broken") },
	}
	for name, encoder := range failing {
		t.Run(name, func(t *testing.T) {
			q, d := newQueue(3, 1<<20)
			s := q.NewStage()
			fail := func() {
				defer func() {
					if recover() == nil && name == "panics" {
						t.Error("the panic is gone")
					}
				}()
				err := s.Push(Message{RegionID: 1, PeerID: 9, Size: len(body)}, encoder)
				if !errors.Is(err, ErrEncoder) {
					t.Errorf("answer %v", err)
				}
			}
			for range 10 { // more than the bound
				fail()
			}
			if s.chunk != nil {
				t.Error("memory is held")
			}
			mustPush(t, s, rig.Heartbeat(1, 2, 1))
			fail()
			mustPush(t, s, rig.Heartbeat(1, 2, 2))
			if l := balanced(t, q); l.Accepted != 2 {
				t.Errorf("accepted %d", l.Accepted)
			}
			s.Flush()
			if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{1, 2}) {
				t.Errorf("sent %v", got)
			}
			if l := balanced(t, q); l.Sent != 2 || len(d.take()) > 0 {
				t.Errorf("sent %d", l.Sent)
			}
		})
	}
}

// C3: what an encoder gave is copied, even if it wrote to memory of its own.
func TestC3EncodersMemoryIsFree(t *testing.T) {
	for _, capacity := range []int{100_000, smallChunk} { // the chunk's, too
		q, _ := newQueue(10, 1<<20)
		s := q.NewStage()
		body := encode(t, rig.Heartbeat(1, 2, 9))
		own := make([]byte, 0, capacity)
		elsewhere := encoderFunc(func(b []byte) []byte { return append(append(own, b...), body...) })
		for range 2 {
			if err := s.Push(Message{RegionID: 1, PeerID: 9, Size: len(body)}, elsewhere); err != nil {
				t.Fatal(err)
			}
			copy(own[:100], bytes.Repeat([]byte{0xff}, 100))
		}
		if cap(s.chunk.data) != smallChunk {
			t.Errorf("the chunk has %d bytes", cap(s.chunk.data))
		}
		s.Flush()
		clear(body)
		if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{9, 9}) {
			t.Errorf("sent %v", got)
		}
	}
}
