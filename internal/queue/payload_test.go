package queue

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/rig"
)

// panicked returns what f panics with.
func panicked(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// refersTo says whether one of the buffers is the payload itself.
func refersTo(buffers mem.BufferSlice, payload []byte) bool {
	return slices.ContainsFunc(buffers, func(b mem.Buffer) bool {
		return b.Len() == len(payload) && &b.ReadOnlyData()[0] == &payload[0]
	})
}

// C3: large payloads are handed on as they are, small ones are copied, at the
// size to the byte; and nothing refers to them once the bytes are let go of.
func TestC3LargePayloadsAreReferredTo(t *testing.T) {
	q, _ := newQueue(100, 1<<20, referTo(2000))
	s := q.NewStage()
	m := rig.Append(1, 2, 3, 5, 2000)
	m.Message.Entries[1].Data = m.Message.Entries[1].Data[:1999]
	m.Message.Entries[3].Data = nil
	body := referringTo(t, m)
	if err := s.Push(Message{RegionID: 1, PeerID: 3, Size: len(body.encoded)}, body); err != nil {
		t.Fatal(err)
	}
	if l := balanced(t, q); l.QueuedBytes != uint64(len(body.encoded)) {
		t.Errorf("%d bytes queued of %d", l.QueuedBytes, len(body.encoded))
	}
	s.Flush()
	c := q.chunks[0]
	if cap(c.data) != smallChunk {
		t.Errorf("a chunk of %d bytes", cap(c.data))
	}
	batch, _ := q.Take(limits)
	for i, payload := range body.payloads {
		if got := len(payload) > 0 && refersTo(batch.Buffers, payload); got != (i != 1 && i != 3) {
			t.Errorf("payload %d of %d bytes is referred to: %v", i, len(payload), got)
		}
	}
	for _, got := range decode(t, batch, false) {
		if !bytes.Equal(encode(t, got), body.encoded) {
			t.Error("another message")
		}
	}
	for _, p := range c.payloads[:cap(c.payloads)] {
		if p.bytes != nil || p.chunk != nil {
			t.Error("a chunk refers to a payload that was let go of")
		}
	}
	if messages, held := q.load.read(); messages != 0 || held != 0 {
		t.Errorf("a load of %d messages and %d bytes is left", messages, held)
	}
}

// C3: what is cleared or dropped, or never was accepted, refers to nothing either.
func TestC3DroppedPayloadsAreLetGo(t *testing.T) {
	for name, drop := range map[string]func(*Queue){
		"clear":       func(q *Queue) { q.Clear(ReasonConnect) },
		"disconnect":  func(q *Queue) { q.Disconnect(ReasonTombstone) },
		"drop staged": func(q *Queue) { q.DropStaged(ReasonRemoved) },
		"volatile":    func(q *Queue) { q.DropVolatile() },
		"expire":      func(q *Queue) { q.Take(Limits{Messages: 1, Bytes: 1, Age: -time.Hour}) },
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := newQueue(100, 1<<20, referTo(2000))
			s := q.NewStage()
			body := referringTo(t, appendOf(1, 2, 3000))
			if err := s.Push(Message{RegionID: 1, PeerID: 2, Size: len(body.encoded), Volatile: true}, body); err != nil {
				t.Fatal(err)
			}
			c := s.chunk
			if name == "expire" {
				s.Flush()
			}
			drop(q)
			if l := balanced(t, q); l.DroppedTotal() != 1 {
				t.Errorf("%+v", l)
			}
			if p := c.payloads[:1][0]; p.bytes != nil || c.referred != 0 {
				t.Error("the chunk refers to a payload")
			}
			if len(s.payloads.found) > 0 || s.payloads.found[:1][0].bytes != nil {
				t.Error("the stage refers to a payload")
			}
		})
	}
}

// C3, C17: lent bytes come back when the last part of a chunk is let go of, in
// whatever order, and the payload is one; or with the end of the generation, and
// then not once more.
func TestC3LentPayloadsStayCharged(t *testing.T) {
	for round := range 200 {
		q, _ := newQueue(100, 1<<20, referTo(2000))
		s := q.NewStage()
		for i := range uint64(5) {
			mustPush(t, s, rig.Append(1, 2, i, 2, 100+rand.IntN(2)*1900), rig.Heartbeat(1, 2, i))
		}
		s.Flush()
		batch, _ := q.Take(Limits{Messages: 1 + rand.IntN(10), Bytes: 1 << 20, Age: time.Hour, Bare: round%3 == 0})
		q.Clear(ReasonConnect)
		lent, _ := q.Lent()
		if lent == 0 || lent > batch.Bytes {
			t.Fatalf("%d bytes lent of %d", lent, batch.Bytes)
		}
		parts := batch.Buffers
		if round%3 != 0 {
			parts = parts[:len(parts)-1] // but for the time
		}
		rand.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		ended := rand.IntN(2*len(parts)) + 1
		for i, part := range parts {
			if now, _ := q.Lent(); now != lent {
				t.Fatalf("%d bytes lent with %d of %d parts held, not %d", now, len(parts)-i, len(parts), lent)
			}
			if i == ended {
				q.EndGeneration()
				lent = 0
			}
			part.Free()
		}
		if messages, held := q.load.read(); messages != 0 || held != 0 {
			t.Fatalf("a load of %d messages and %d bytes is left", messages, held)
		}
	}
}

// C3, C15, C17: what the next stream is handed is what was accepted, and comes back
// when that lets go of it, though the ended one never lets go of its part of a chunk.
func TestC17NextGenerationComesBack(t *testing.T) {
	for range 300 {
		q, _ := newQueue(100, 1<<20, referTo(2000))
		twin, _ := newQueue(100, 1<<20)
		stages := []*Stage{q.NewStage(), twin.NewStage()}
		for i := range uint64(20) {
			size := []int{0, 100, 1999, 2000, 9000}[rand.IntN(5)]
			flush := rand.IntN(8) == 0 || i == 19
			for _, s := range stages {
				if size == 0 {
					mustPush(t, s, rig.Heartbeat(1, 2, i)) // volatile
				} else {
					mustPush(t, s, rig.Append(1, 2, i, 2, size))
				}
				if flush {
					s.Flush()
				}
			}
		}
		ended := Limits{Messages: 1 + rand.IntN(19), Bytes: 1 << 20, Age: time.Hour}
		_, _ = q.Take(ended) // and is never freed
		lost, _ := twin.Take(ended)
		lost.Buffers.Free()
		for _, of := range []*Queue{q, twin} {
			of.EndGeneration()
			of.DropVolatile()
		}
		bare := Limits{Messages: 1, Bytes: 1 << 20, Age: time.Hour, Bare: true}
		for {
			got, ok := q.Take(bare)
			want, also := twin.Take(bare)
			if ok != also {
				t.Fatalf("a message is left: %v, %v", ok, also)
			}
			if !ok {
				break
			}
			if !bytes.Equal(got.Buffers.Materialize(), want.Buffers.Materialize()) {
				t.Fatal("another message than the one that was accepted")
			}
			got.Buffers.Free()
			want.Buffers.Free()
		}
		if lent, _ := q.Lent(); lent != 0 {
			t.Fatalf("%d bytes are held, and all was let go of", lent)
		}
		if messages, held := q.load.read(); messages != 0 || held != 0 {
			t.Fatalf("a load of %d messages and %d bytes is left", messages, held)
		}
	}
}

// C3: a host that changes a payload before it was let go of is caught, whatever
// becomes of the message.
func TestC3ChangedPayloadIsCaught(t *testing.T) {
	for name, letGo := range map[string]func(*Queue, *Stage){
		"sent": func(q *Queue, s *Stage) {
			s.Flush()
			batch, _ := q.Take(limits)
			batch.Buffers.Free()
		},
		"cleared": func(q *Queue, s *Stage) {
			s.Flush()
			q.Clear(ReasonConnect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := newQueue(100, 1<<20, referTo(2000))
			s := q.NewStage()
			mustPush(t, s, appendOf(6, 1, 5000))
			body := referringTo(t, appendOf(7, 1, 3000))
			if err := s.Push(Message{RegionID: 7, PeerID: 1, Size: len(body.encoded)}, body); err != nil {
				t.Fatal(err)
			}
			mustPush(t, s, appendOf(8, 1, 5000))
			body.payloads[0][1234] ^= 1
			said, _ := panicked(func() { letGo(q, s) }).(string)
			if !strings.Contains(said, "3000 bytes of region 7 has changed") || !strings.Contains(said, "ReferToPayloads") {
				t.Errorf("it says %q", said)
			}
		})
	}
}

// C3: without the opt-in, what a Referrer passes may be used again at once.
func TestC3ReferrerIsCopiedByDefault(t *testing.T) {
	q, _ := newQueue(100, 1<<20)
	s := q.NewStage()
	body := referringTo(t, appendOf(1, 2, 50_000))
	was := slices.Clone(body.encoded)
	if err := s.Push(Message{RegionID: 1, PeerID: 2, Size: len(body.encoded)}, body); err != nil {
		t.Fatal(err)
	}
	clear(body.encoded)
	s.Flush()
	if got := takeAll(t, q, limits); !bytes.Equal(encode(t, got[0][0]), was) {
		t.Error("another message")
	}
}

// wrong is a Referrer that announces and does what it shouldn't.
type wrong struct {
	*referring
	announced int
	append    func(buffer []byte, payloads *Payloads) []byte
}

func (w wrong) PayloadBytes(int) int { return w.announced }

func (w wrong) AppendReferring(buffer []byte, payloads *Payloads) []byte {
	return w.append(buffer, payloads)
}

// C3, C7: a Referrer that refers to other than it announced, or puts a payload
// outside of its message, leaves nothing behind.
func TestC3ReferrerThatFails(t *testing.T) {
	body := referringTo(t, rig.Append(1, 2, 9, 2, 3000))
	payload := body.payloads[0]
	well := body.AppendReferring
	for name, test := range map[string]wrong{
		"announces less":     {body, 3000, well},
		"announces more":     {body, 6001, well},
		"announces too much": {body, 1 << 40, well},
		"gives nothing":      {body, 6000, func(b []byte, _ *Payloads) []byte { return b }},
		"gives nil":          {body, 6000, func(_ []byte, p *Payloads) []byte { well(nil, p); return nil }},
		"copies all":         {body, 6000, func(b []byte, _ *Payloads) []byte { return well(b, nil) }},
		"before its message": {body, 6000, func(b []byte, p *Payloads) []byte {
			p.Append(nil, payload)
			p.Append(b, payload)
			return body.AppendReferring(b, new(Payloads))
		}},
		"behind its message": {body, 6000, func(b []byte, p *Payloads) []byte {
			p.Append(b[:cap(b)], payload)
			p.Append(b[:cap(b)], payload)
			return body.AppendReferring(b, new(Payloads))
		}},
		"backwards": {body, 6000, func(b []byte, p *Payloads) []byte {
			b = body.AppendReferring(b, new(Payloads))
			p.Append(b, payload)
			p.Append(b[:len(b)-1], payload)
			return b
		}},
		"panics": {body, 6000, func(b []byte, p *Payloads) []byte { well(b, p); panic("broken") }},
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := newQueue(100, 1<<20, referTo(2000))
			s := q.NewStage()
			fail := func() {
				var err error
				p := panicked(func() { err = s.Push(Message{RegionID: 1, PeerID: 9, Size: len(body.encoded)}, test) })
				if (p != nil) != (name == "panics") || p == nil && !errors.Is(err, ErrEncoder) {
					t.Errorf("answer %v, panic %v", err, p)
				}
			}
			fail()
			if s.chunk != nil || len(s.payloads.found) != 0 || s.payloads.bytes != 0 {
				t.Error("memory is held")
			}
			mustPush(t, s, appendOf(1, 1, 2500))
			fail()
			mustPush(t, s, appendOf(1, 2, 2500))
			s.Flush()
			if got := peersOf(takeAll(t, q, limits)...); !slices.Equal(got, []uint64{1, 2}) {
				t.Errorf("sent %v", got)
			}
			balanced(t, q)
		})
	}
}

// C3, C17: what is referred to costs next to no memory besides, whatever was
// flushed before, and lent bytes come back in pieces: chunks refer to no more than
// they could copy.
func TestC3ChunksOfReferences(t *testing.T) {
	q, _ := newQueue(1<<20, 1<<30, referTo(4<<10))
	s := q.NewStage()
	body := make(encoded, 16<<10+50)
	refers := &referring{body, [][]byte{body[30 : 30+16<<10]}}
	flush := func(encoder Encoder, size int) {
		q.Clear(ReasonConnect)
		for range 1000 {
			if err := s.Push(Message{RegionID: 1, PeerID: 1, Size: size}, encoder); err != nil {
				t.Fatal(err)
			}
		}
		s.Flush()
	}
	for range 3 {
		flush(body[:250], 250)
		for range 3 {
			flush(refers, len(body))
			if held, bytes := memory(q), int(q.Ledger().QueuedBytes); held > bytes+bytes/16 {
				t.Errorf("%d KiB for %d", held>>10, bytes>>10)
			}
			for _, c := range q.chunks {
				if c.length() > largeChunk {
					t.Errorf("a chunk of %d bytes", c.length())
				}
			}
		}
	}
}

// C3, C6: what is dropped amid a chunk takes its payloads with it, and no others.
func TestC3DroppedAmidOthers(t *testing.T) {
	q, _ := newQueue(100, 1<<20, referTo(2000))
	s := q.NewStage()
	for i := range uint64(6) {
		m := rig.Append(1, 2, i, 2, 2000+int(i))
		if i%2 == 0 {
			m.Message.MsgType = eraftpb.MessageType_MsgHeartbeat
		}
		mustPush(t, s, m)
	}
	s.Flush()
	if len(q.chunks) != 1 {
		t.Fatalf("%d chunks", len(q.chunks))
	}
	q.DropVolatile()
	got := takeAll(t, q, limits)
	if peers := peersOf(got...); !slices.Equal(peers, []uint64{1, 3, 5}) {
		t.Errorf("sent %v", peers)
	}
	for _, m := range got[0] {
		if want := rig.Append(1, 2, m.ToPeer.Id, 2, 2000+int(m.ToPeer.Id)); !bytes.Equal(encode(t, m), encode(t, want)) {
			t.Errorf("message %d came as another one", m.ToPeer.Id)
		}
	}
	balanced(t, q)
}
