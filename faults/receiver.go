package faults

import (
	"bytes"
	"sync"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

// Receiver wraps what makes receivers, for raftmux.ServerOptions.NewReceiver: the
// messages of each stream meet the rules before next's receivers get them. Wrap a
// raftmux.Handler by raftmux.HandlerReceiver.
//
// A dropped message is refused with an error that wraps raftmux.ErrFiltered, by
// which the Server counts it. One that waits counts as taken there; whether the
// host took it in the end is in Stats. It is handed over by one more of next's
// receivers, on the Rules' goroutine, as if by one more stream. Until Close has
// returned it may come even after the Server's Close, or from a stream that has ended.
// Its ServerOptions.HighWater isn't asked again.
//
// Messages that are malformed pass, for next to refuse. One that doesn't name its sender
// is from no store, which no partition concerns. While there are no rules, the price
// is one atomic load per message, and of raftmux.HandlerReceiver's an Envelope. If next
// is nil, so is what it returns, which raftmux.NewServer refuses.
func (r *Rules) Receiver(next func() raftmux.Receiver) func() raftmux.Receiver {
	if next == nil {
		return nil
	}
	late := &lateReceiver{stats: &r.stats, inner: sync.OnceValue(next)}
	return func() raftmux.Receiver {
		inner := next()
		r := &receiver{rules: r, late: late, inner: inner}
		if keeper, ok := inner.(raftmux.Keeper); ok {
			return keeping{r, keeper}
		}
		return r
	}
}

// maxHeld bounds the list that a receiver keeps between batches.
const maxHeld = 1024

// receiver is one stream's.
type receiver struct {
	rules  *Rules
	late   *lateReceiver
	inner  raftmux.Receiver
	reader *wire.Decoder // for a look at messages; nil until there are rules
	held   []held        // of the batch under way; room for them is reserved
	passed int           // messages of the batch that inner has
	copied int           // copies of the batch that inner has besides
}

// keeping is a receiver whose inner one is a Keeper.
type keeping struct {
	*receiver
	keeper raftmux.Keeper
}

// DecodeGiven implements raftmux.Keeper.
func (k keeping) DecodeGiven(message []byte) (raftmux.Envelope, error) {
	return k.decode(message, k.keeper.DecodeGiven)
}

// Decode implements raftmux.Receiver.
func (r *receiver) Decode(message []byte) (raftmux.Envelope, error) {
	return r.decode(message, r.inner.Decode)
}

// decode lets a message meet the rules. One that comes at once, and once, is decoded
// by inner.
func (r *receiver) decode(
	message []byte, inner func([]byte) (raftmux.Envelope, error),
) (raftmux.Envelope, error) {
	rules := r.rules.load()
	if rules == nil {
		r.reader = nil // and its memory
		return r.pass(message, inner)
	}
	envelope, ok := r.read(message)
	if !ok {
		return r.pass(message, inner)
	}
	fate := r.rules.decide(rules, OnReceive, &envelope, Action.all)
	if fate.cut != nil {
		r.rules.stats.dropped.Add(1)
		return envelope, fate.cut.refused
	}
	if fate.delay == 0 || !r.rules.waiting.reserve(len(message)) {
		if fate.copies > 0 {
			return r.passCopies(message, fate.copies)
		}
		return r.pass(message, inner)
	}
	r.held = append(r.held, held{
		due:      time.Now().Add(fate.delay),
		envelope: envelope,
		message:  bytes.Clone(message),
		copies:   fate.copies,
		outlet:   r.late,
	})
	return envelope, nil
}

// pass hands a message to the inner receiver.
func (r *receiver) pass(
	message []byte, inner func([]byte) (raftmux.Envelope, error),
) (raftmux.Envelope, error) {
	envelope, err := inner(message)
	if err == nil {
		r.passed++
	}
	return envelope, err
}

// passCopies hands over a message, and copies behind it. None of them may keep it.
func (r *receiver) passCopies(message []byte, copies int) (raftmux.Envelope, error) {
	envelope, err := r.pass(message, r.inner.Decode)
	if err != nil {
		return envelope, err
	}
	for range copies {
		if _, err := r.inner.Decode(message); err == nil {
			r.copied++
		}
	}
	return envelope, nil
}

// read looks at a message's envelope. It answers false for one that can't be between
// stores, which next is to refuse at once: if it waited, the Server would take it for
// one to a wrong store.
func (r *receiver) read(message []byte) (raftmux.Envelope, bool) {
	if r.reader == nil {
		r.reader = wire.NewDecoder(wire.DecoderOptions{Lent: true})
	}
	defer r.reader.Reset()
	m, err := r.reader.Decode(message)
	if err != nil {
		return raftmux.Envelope{}, false
	}
	envelope := raftmux.EnvelopeOf(m)
	fit := envelope.ToPeerID != 0 && envelope.ToStoreID != 0 && (!envelope.HasMessage || crosses(envelope.Type))
	return envelope, fit
}

// Deliver implements raftmux.Receiver. Of messages that came twice, no more are
// said to be refused than the Server knows of.
func (r *receiver) Deliver() (refused int) {
	refused = min(r.inner.Deliver(), r.passed)
	r.rules.stats.duplicated.Add(uint64(r.copied))
	if len(r.held) > 0 && !r.rules.waiting.add(r.held...) {
		r.rules.stats.waited.Add(uint64(len(r.held)))
		r.rules.stats.lost.Add(uint64(len(r.held)))
	}
	r.forget()
	return refused
}

// Discard implements raftmux.Receiver.
func (r *receiver) Discard() {
	r.inner.Discard()
	r.rules.waiting.release(r.held)
	r.forget()
}

func (r *receiver) forget() {
	if cap(r.held) > maxHeld {
		r.held = nil
	}
	clear(r.held)
	r.held = r.held[:0]
	r.passed, r.copied = 0, 0
}

// lateReceiver hands over what has waited, of all streams of one Server.
type lateReceiver struct {
	stats *counters
	inner func() raftmux.Receiver // always the same one
	taken uint64                  // messages that inner has
}

func (l *lateReceiver) take(h held) {
	for i := range 1 + h.copies {
		_, err := l.inner().Decode(h.message)
		switch {
		case i > 0 && err == nil:
			l.stats.duplicated.Add(1)
		case i > 0:
		case err != nil:
			l.stats.refused.Add(1)
		default:
			l.taken++
		}
	}
}

func (l *lateReceiver) lose(held) {}

func (l *lateReceiver) flush(bool) {
	refused := min(uint64(l.inner().Deliver()), l.taken)
	l.stats.refused.Add(refused)
	l.stats.delivered.Add(l.taken - refused)
	l.taken = 0
}
