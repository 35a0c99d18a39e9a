package faults

import (
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
)

// Sender is a raftmux.Sender whose messages meet delay, reorder and duplicate.
// What drops them is the Client's Filter, which each copy of a message meets by
// itself, and one that waits when it is its time. Like a raftmux.Sender it is one
// worker's, not for concurrent use, and no method blocks.
//
// For a message that must wait, Send returns nil. What is refused when it is its
// time, and what waits when the Rules are closed, is reported to the Router by
// ReportUnreachable: on the Rules' goroutine, so beside the Client's calls, never
// after Rules.Close has returned, and again after "not now". Snapshot messages
// don't wait and come once.
//
// While there are no rules, the price is one atomic load per message.
type Sender struct {
	rules *Rules
	inner *raftmux.Sender
	late  *lateSender
}

// NewSender returns a Sender for one worker, in place of client.NewSender. Close
// it when the worker ends, and the Rules before the Client. The router is the
// Client's; without one nobody is told of what waited and was lost.
func (r *Rules) NewSender(client *raftmux.Client, router raftmux.Router) *Sender {
	return &Sender{
		rules: r,
		inner: client.NewSender(),
		late: &lateSender{
			rules:       r,
			client:      client,
			sender:      client.NewSharedSender(),
			router:      router,
			unreachable: make(map[target]time.Time),
		},
	}
}

// Send is raftmux.Sender.Send, with faults.
func (s *Sender) Send(message *raft_serverpb.RaftMessage) error {
	rules := s.rules.load()
	if rules == nil {
		return s.inner.Send(message)
	}
	envelope := raftmux.EnvelopeOf(message)
	fate := s.decide(rules, &envelope)
	if fate.delay > 0 && s.hold(envelope, kvEncoder{message}, fate) {
		return nil
	}
	err := s.inner.Send(message)
	for i := 0; i < fate.copies && err == nil; i++ {
		if s.inner.Send(message) == nil {
			s.rules.stats.duplicated.Add(1)
		}
	}
	return err
}

// SendEncoded is raftmux.Sender.SendEncoded, with faults.
func (s *Sender) SendEncoded(envelope raftmux.Envelope, encoder raftmux.Encoder) error {
	rules := s.rules.load()
	if rules == nil {
		return s.inner.SendEncoded(envelope, encoder)
	}
	fate := s.decide(rules, &envelope)
	if fate.delay > 0 && s.hold(envelope, encoder, fate) {
		return nil
	}
	err := s.inner.SendEncoded(envelope, encoder)
	for i := 0; i < fate.copies && err == nil; i++ {
		if s.inner.SendEncoded(envelope, encoder) == nil {
			s.rules.stats.duplicated.Add(1)
		}
	}
	return err
}

// NeedFlush is raftmux.Sender.NeedFlush.
func (s *Sender) NeedFlush() bool { return s.inner.NeedFlush() }

// CountRefused is raftmux.Sender.CountRefused.
func (s *Sender) CountRefused(storeID uint64, err error) { s.inner.CountRefused(storeID, err) }

// Flush is raftmux.Sender.Flush. What waits flushes itself.
func (s *Sender) Flush() { s.inner.Flush() }

// Close is raftmux.Sender.Close. What still waits is refused when its time comes,
// and reported.
func (s *Sender) Close() {
	s.inner.Close()
	s.late.sender.Close()
}

// decide leaves alone what is refused anyway, and snapshots.
func (s *Sender) decide(rules []*active, e *raftmux.Envelope) fate {
	if e.ToPeerID == 0 || e.ToStoreID == 0 || e.ToStoreID == e.FromStoreID ||
		!e.HasMessage && !e.Bodiless ||
		e.HasMessage && (!crosses(e.Type) || e.Type == eraftpb.MessageType_MsgSnapshot) {
		return fate{}
	}
	return s.rules.decide(rules, OnSend, e, Action.stretches)
}

// hold copies a message and lets it wait. It returns false if it can't.
func (s *Sender) hold(envelope raftmux.Envelope, encoder raftmux.Encoder, f fate) bool {
	size := encoder.Size()
	if size <= 0 || size > s.late.client.MaxMessageSize() || !s.rules.waiting.reserve(size) {
		return false
	}
	h := held{
		due:      time.Now().Add(f.delay),
		envelope: envelope,
		message:  encoder.AppendTo(make([]byte, 0, size)),
		copies:   f.copies,
		outlet:   s.late,
	}
	if len(h.message) != size { // the inner sender will say so
		s.rules.waiting.unreserve(size)
		return false
	}
	return s.rules.waiting.add(h)
}

// kvEncoder encodes kvproto's messages.
type kvEncoder struct{ message *raft_serverpb.RaftMessage }

// Size implements raftmux.Encoder.
func (e kvEncoder) Size() int { return e.message.Size() }

// AppendTo implements raftmux.Encoder. The generated code panics at nil elements:
// the inner Sender, which is asked when nothing was appended, refuses them.
func (e kvEncoder) AppendTo(buffer []byte) (appended []byte) {
	defer func() {
		if recover() != nil {
			appended = buffer
		}
	}()
	encoded, err := e.message.Marshal()
	if err != nil {
		return buffer
	}
	return append(buffer, encoded...)
}

// encoded is a message that is encoded already.
type encoded []byte

// Size implements raftmux.Encoder.
func (e encoded) Size() int { return len(e) }

// AppendTo implements raftmux.Encoder.
func (e encoded) AppendTo(buffer []byte) []byte { return append(buffer, e...) }

// reportPause is the time after which a Router that said "not now" is asked again.
const reportPause = 20 * time.Millisecond

// target is whom a report is about.
type target struct{ regionID, peerID uint64 }

// lateSender sends what has waited, of one Sender.
type lateSender struct {
	rules  *Rules
	client *raftmux.Client
	sender *raftmux.SharedSender
	router raftmux.Router // may be nil
	// unreachable peers were not reported yet, and are to be then at the earliest.
	unreachable map[target]time.Time
	again       time.Time // when flush is called for them
}

func (l *lateSender) take(h held) {
	for i := range 1 + h.copies {
		err := l.sender.SendEncoded(h.envelope, encoded(h.message))
		switch {
		case i > 0 && err == nil:
			l.rules.stats.duplicated.Add(1)
		case i > 0:
		case err != nil:
			l.rules.stats.refused.Add(1)
			l.lose(h)
			return
		default:
			l.rules.stats.delivered.Add(1)
		}
	}
}

func (l *lateSender) lose(h held) {
	peer := target{h.envelope.RegionID, h.envelope.ToPeerID}
	if _, known := l.unreachable[peer]; !known && l.router != nil {
		l.unreachable[peer] = time.Time{}
	}
}

func (l *lateSender) flush(last bool) {
	l.sender.Flush()
	now := time.Now()
	for peer, due := range l.unreachable {
		if now.Before(due) && !last {
			continue
		}
		if l.router.ReportUnreachable(peer.regionID, peer.peerID) || last {
			delete(l.unreachable, peer)
		} else {
			l.unreachable[peer] = now.Add(reportPause)
		}
	}
	if len(l.unreachable) > 0 && !now.Before(l.again) {
		l.again = now.Add(reportPause)
		l.rules.waiting.later(l, l.again)
	}
}
