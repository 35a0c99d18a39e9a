package queue

import (
	"errors"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/rig"
)

const (
	modelMessages = 30
	modelBytes    = 24_000
	modelAge      = 100 * time.Millisecond
)

// modelMessage is an accepted message that was neither sent nor dropped. Its
// number is its peer's id, so that reports tell messages apart.
type modelMessage struct {
	number, stage uint64
	bytes, frame  int
	volatile      bool
	pushed        time.Time
	oldest        time.Time // when the first message of its flush was pushed
}

type modelStage struct {
	*Stage
	id     uint64
	closed bool
	staged []uint64  // pushed since the last flush or seizure
	frames int       // the bytes of those, sent or dropped ones among them
	oldest time.Time // of those
}

// model is what a queue should be.
type model struct {
	queue    *Queue
	drops    *drops
	stages   []*modelStage
	live     []modelMessage // in the order in which they were accepted
	numbers  uint64
	accepted uint64
	sent     uint64
	dropped  [reasons]uint64
	closed   bool

	// A queue that was full takes only small messages while shallow bytes are there.
	shallow int
	wasFull bool
	refused time.Time
	empty   bool
	emptied time.Time
}

// C7, C4, C5, C6, S1: after every one of a random series of operations the queue
// agrees with a model: the ledger and the load are exact, and every accepted
// message is waiting, or was sent once, in its stage's order, or reported once.
func TestC7Model(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Without the wrapping rapid would ask for t.Deadline, which a bubble forbids.
		rapid.Check(struct{ rapid.TB }{t}, func(t *rapid.T) {
			m := new(model)
			m.shallow = rapid.SampledFrom([]int{0, 2000, 9000}).Draw(t, "shallow")
			m.queue, m.drops = newQueue(modelMessages, modelBytes, shallowAt(m.shallow),
				referTo(rapid.SampledFrom([]int{0, 1100, 3000}).Draw(t, "refer to")))
			m.newStage(t)
			t.Repeat(map[string]func(*rapid.T){
				"":          m.check,
				"push":      m.push,
				"push on":   m.push,
				"burst":     m.burst, // or the queue would never be full
				"burst on":  m.burst,
				"fail":      m.fail,
				"flush":     m.flush,
				"take":      m.take,
				"take more": m.take,
				"wait":      func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 60).Draw(t, "ms")) * time.Millisecond) },
				"wait long": func(t *rapid.T) { time.Sleep(shallowPeace - time.Duration(rapid.IntRange(0, 1).Draw(t, "less"))) },
				"wait a bit": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 20).Draw(t, "of 0.1 ms")) * time.Millisecond / 10)
				},
				"clear":        m.clear,
				"drop staged":  m.dropStaged,
				"volatile":     m.dropVolatile,
				"new stage":    m.newStage,
				"close stage":  m.closeStage,
				"seal or end":  m.end,
				"nothing left": m.drain,
			})
			m.queue.Disconnect(ReasonClosing)
			m.closed = true
			m.expect(t, ReasonClosing, m.numbersOf(func(modelMessage) bool { return true }))
			m.check(t)
			if messages, bytes := m.queue.load.read(); messages != 0 || bytes != 0 {
				t.Fatalf("a load of %d messages and %d bytes is left", messages, bytes)
			}
		})
	})
}

func (m *model) check(t *rapid.T) {
	l := balanced(t, m.queue)
	bytes := 0
	for _, message := range m.live {
		bytes += message.bytes
	}
	if l.Accepted != m.accepted || l.Sent != m.sent || l.Queued != uint64(len(m.live)) ||
		l.QueuedBytes != uint64(bytes) || l.Dropped != m.dropped {
		t.Fatalf("%+v\nis not accepted %d, sent %d, queued %d and %d bytes, dropped %d",
			l, m.accepted, m.sent, len(m.live), bytes, m.dropped)
	}
	if empty := len(m.live) == 0; empty && !m.empty {
		m.ranEmpty()
	} else {
		m.empty = empty
	}
	if m.queue.Disconnected() != m.closed {
		t.Fatalf("disconnected: %v", !m.closed)
	}
	if len(m.drops.take()) > 0 {
		t.Fatalf("a report that nobody expects")
	}
}

func (m *model) numbersOf(is func(modelMessage) bool) (numbers []uint64) {
	for _, message := range m.live {
		if is(message) {
			numbers = append(numbers, message.number)
		}
	}
	return numbers
}

// remove takes a message out of the model.
func (m *model) remove(t *rapid.T, number uint64) modelMessage {
	i := slices.IndexFunc(m.live, func(message modelMessage) bool { return message.number == number })
	if i < 0 {
		t.Fatalf("message %d comes twice, or never was", number)
	}
	message := m.live[i]
	m.live = slices.Delete(m.live, i, i+1)
	return message
}

// expect takes the one report there must be, or none if nobody is expected.
func (m *model) expect(t *rapid.T, reason Reason, numbers []uint64) {
	got := m.reported(t, reason)
	slices.Sort(got)
	slices.Sort(numbers)
	if !slices.Equal(got, numbers) {
		t.Fatalf("%v: reported %v, not %v", reason, got, numbers)
	}
	for _, number := range numbers {
		m.remove(t, number)
	}
}

// reported takes the report that there may be.
func (m *model) reported(t *rapid.T, reason Reason) (numbers []uint64) {
	calls := m.drops.take()
	if len(calls) == 0 {
		return nil
	}
	if len(calls) > 1 || calls[0].reason != reason || calls[0].messages != len(calls[0].peers) {
		t.Fatalf("%v: reports %v", reason, calls)
	}
	for _, p := range calls[0].peers {
		numbers = append(numbers, p.PeerID)
	}
	m.dropped[reason] += uint64(len(numbers))
	return numbers
}

func (m *model) stage(t *rapid.T) *modelStage { return rapid.SampledFrom(m.stages).Draw(t, "stage") }

// left notes that what a stage held is the queue's, or gone.
func (s *modelStage) left() { s.staged, s.frames = nil, 0 }

func (m *model) allLeft() {
	for _, s := range m.stages {
		s.left()
	}
}

func (m *model) newStage(*rapid.T) {
	if len(m.stages) < 5 {
		m.stages = append(m.stages, &modelStage{Stage: m.queue.NewStage(), id: uint64(len(m.stages)), closed: m.closed})
	}
}

func (m *model) ranEmpty() { m.empty, m.emptied = true, time.Now() }

// answer is what a push of so many bytes must answer, but for the encoder.
func (m *model) answer(s *modelStage, size int) error {
	_, bytes := m.queue.load.read() // which check compares with the model
	if s.closed {
		return ErrDisconnected
	}
	if len(m.live) >= modelMessages || bytes+size > modelBytes {
		if m.shallow > 0 && bytes >= m.shallow {
			m.wasFull, m.refused = true, time.Now()
		}
		s.left()
		return ErrFull
	}
	if bytes == 0 && time.Since(m.emptied) >= shallowRest {
		m.wasFull = false
	}
	switch {
	case !m.wasFull || bytes < m.shallow || size <= smallMessage:
		return nil
	case time.Since(m.refused) >= shallowPeace:
		m.wasFull = false
		return nil
	default:
		m.refused = time.Now()
		s.left()
		return ErrFull
	}
}

func (m *model) push(t *rapid.T) {
	s := m.stage(t)
	m.numbers++
	entries := rapid.SampledFrom([]int{0, 1, 1, 3}).Draw(t, "entries")
	message := rig.Append(s.id, 2, m.numbers, entries, rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 6000)).Draw(t, "size"))
	volatile := rapid.IntRange(0, 2).Draw(t, "volatile") == 0
	if volatile {
		message.Message.MsgType = eraftpb.MessageType_MsgHeartbeat
	}
	size := message.Size()
	want := m.answer(s, size)
	if err := push(t, s.Stage, message); !errors.Is(err, want) {
		t.Fatalf("push: %v, not %v", err, want)
	}
	if want != nil {
		return
	}
	if len(s.staged) == 0 {
		s.oldest = time.Now()
	}
	m.accepted++
	frame := batchFrame(size)
	s.staged = append(s.staged, m.numbers)
	s.frames += frame
	m.live = append(m.live, modelMessage{m.numbers, s.id, size, frame, volatile, time.Now(), s.oldest})
}

func (m *model) burst(t *rapid.T) {
	for range rapid.IntRange(2, 20).Draw(t, "messages") {
		m.push(t)
		m.check(t)
	}
}

func (m *model) fail(t *rapid.T) {
	s := m.stage(t)
	wrong := rapid.IntRange(-1, 1).Draw(t, "wrong")
	want := m.answer(s, 100)
	if want == nil {
		want = ErrEncoder
		s.frames += batchFrame(100) // for want of room it may move what there is
		if m.empty {
			m.ranEmpty() // once more
		}
	}
	defer func() {
		if recover() != nil && (wrong != 0 || want != ErrEncoder) {
			t.Fatalf("a panic")
		}
	}()
	err := s.Push(Message{RegionID: s.id, PeerID: math.MaxUint64, Size: 100}, encoderFunc(func(b []byte) []byte {
		if wrong == 0 {
			panic("broken")
		}
		return append(b, make([]byte, 100+wrong)...)
	}))
	if !errors.Is(err, want) {
		t.Fatalf("push: %v, not %v", err, want)
	}
}

func (m *model) flush(t *rapid.T) {
	s := m.stage(t)
	woken(m.queue)
	s.Flush()
	s.left()
	if woken(m.queue) == s.closed {
		t.Fatalf("woken: %v", s.closed)
	}
}

func (m *model) closeStage(t *rapid.T) {
	s := m.stage(t)
	s.Close()
	s.left()
	s.closed = true
}

func (m *model) clear(t *rapid.T) {
	reason := rapid.SampledFrom([]Reason{ReasonResolve, ReasonConnect, ReasonUnimplemented}).Draw(t, "reason")
	n := m.queue.Clear(reason)
	if n != len(m.live) {
		t.Fatalf("%d messages dropped of %d", n, len(m.live))
	}
	m.allLeft()
	m.expect(t, reason, m.numbersOf(func(modelMessage) bool { return true }))
}

func (m *model) dropVolatile(t *rapid.T) {
	m.queue.DropVolatile()
	m.allLeft()
	m.expect(t, ReasonVolatile, m.numbersOf(func(message modelMessage) bool { return message.volatile }))
}

// dropStaged drops all that was staged, but for what had filled a chunk.
func (m *model) dropStaged(t *rapid.T) {
	n := m.queue.DropStaged(ReasonRemoved)
	got := m.reported(t, ReasonRemoved)
	if n != len(got) {
		t.Fatalf("%d messages dropped, %d reported", n, len(got))
	}
	for _, s := range m.stages {
		kept := false
		for _, number := range slices.Backward(s.staged) {
			live := slices.ContainsFunc(m.live, func(message modelMessage) bool { return message.number == number })
			i := slices.Index(got, number)
			kept = kept || i < 0
			switch {
			case i >= 0 && kept:
				t.Fatalf("message %d is dropped, one behind it not", number)
			case i >= 0:
				got = slices.Delete(got, i, i+1)
				m.remove(t, number)
			case live && s.frames <= smallChunk:
				t.Fatalf("message %d is not dropped", number)
			}
		}
		s.left()
	}
	if len(got) > 0 {
		t.Fatalf("dropped %v, which were not staged", got)
	}
}

func (m *model) end(t *rapid.T) {
	switch rapid.IntRange(0, 39).Draw(t, "end") {
	case 0:
		m.queue.Seal()
	case 1:
		m.queue.Disconnect(ReasonTombstone)
		m.expect(t, ReasonTombstone, m.numbersOf(func(modelMessage) bool { return true }))
	default:
		return
	}
	m.closed = true
	m.allLeft()
	for _, s := range m.stages {
		s.closed = true
	}
}

func (m *model) drain(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "drain") == 0 {
		for m.takeBatch(t, limits) {
		}
		if staged := m.queue.Ledger().Queued; len(m.queue.chunks) > 0 || int(staged) != len(m.live) {
			t.Fatalf("%d messages wait", len(m.live))
		}
	}
}

func (m *model) take(t *rapid.T) {
	m.takeBatch(t, Limits{
		Messages: rapid.IntRange(1, 12).Draw(t, "messages"),
		Bytes:    rapid.IntRange(0, 9000).Draw(t, "bytes"),
		Age:      modelAge,
		Bare:     rapid.IntRange(0, 3).Draw(t, "bare") == 0,
	})
}
