package raftmux

import (
	"errors"
	"fmt"
	"slices"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/wire"
)

// Sender is one worker's handle on a Client. It is not for concurrent use;
// SharedSender is.
//
// Send encodes into memory of the Sender's own, and Flush hands that over, so
// workers don't meet. No method blocks, dials or resolves.
//
// Messages of one region to one store leave in the order in which one Sender
// accepted them. Flush before a region moves to another Sender.
type Sender struct {
	client *Client
	routes map[uint64]*route // by store id
	dirty  []*path           // touched since the last flush
	full   []*path           // found full since the last flush
	// refused counts the other refusals since the last flush, so that a store
	// that takes nothing doesn't make every Send meet at the metrics' lock.
	refused map[refusal]int
	// errors are made several at once, for while a store takes nothing each Send
	// needs one.
	errors []SendError
	kvraft kvEncoder
	closed bool
}

type refusal struct {
	label   string
	storeID uint64
}

// route is a Sender's cache of one store.
type route struct {
	store *peer.Store
	paths []*path // by index of the connection; nil until used
}

// path is a Sender's way into one connection.
type path struct {
	stage       *queue.Stage
	storeID     uint64
	dirty, full bool
}

// Send encodes a message and stages it for its store. It returns nil if the
// message was accepted, or a *SendError. Once it has returned, the caller may
// use the message and all that it refers to again, unless
// ClientOptions.ReferToPayloads says otherwise of large payloads.
//
// An accepted message is sent, or dropped and reported; a refused one makes no
// callback: it is the caller who tells its Raft, see ReportRefused. A snapshot
// message is accepted for the SnapshotSender and ends in exactly one status; one
// for a witness (its RaftSnapshotData says so) takes the stream, and ends in
// SnapshotFinish at once.
func (s *Sender) Send(message *raft_serverpb.RaftMessage) error {
	entries := message.GetMessage().GetEntries()
	if i := slices.Index(entries, nil); i >= 0 {
		return s.refuse(envelopeOf(message), ErrInvalid, fmt.Sprintf("entry %d is nil", i))
	}
	if n := len(entries); n > wire.MaxEntries {
		return s.refuse(envelopeOf(message), ErrTooLarge, fmt.Sprintf("%d entries, the limit is %d", n, wire.MaxEntries))
	}
	s.kvraft.message = message
	defer s.kvraft.reset()
	var envelope Envelope
	envelope.read(message)
	return s.accept(&envelope, &s.kvraft)
}

// SendEncoded is Send for adapters of other Raft libraries. The encoder is not
// used after it has returned. One that can do without copies is a PayloadEncoder.
// What a Server wouldn't take is for the adapter to refuse: 4,000,000 entries at most.
func (s *Sender) SendEncoded(envelope Envelope, encoder Encoder) error {
	return s.accept(&envelope, encoder)
}

// accept takes a message or refuses it. The envelope is passed by reference from here
// on, for it has six words, and a message costs little else.
func (s *Sender) accept(envelope *Envelope, encoder Encoder) error {
	if s.closed {
		return s.refuse(*envelope, ErrDisconnected, "the sender is closed")
	}
	if problem := s.client.invalid(envelope); problem != "" {
		return s.refuse(*envelope, ErrInvalid, problem)
	}
	if filter := s.client.options.Filter; filter != nil && !filter.Pass(*envelope) {
		return s.refuse(*envelope, ErrFiltered, "")
	}
	size := encoder.Size()
	if size <= 0 {
		return s.refuse(*envelope, ErrInvalid, "the message is empty")
	}
	if limit := s.limit(envelope); size > limit {
		return s.refuse(*envelope, ErrTooLarge, fmt.Sprintf("%d bytes, the limit is %d", size, limit))
	}
	err := s.send(envelope, encoder, size)
	if errors.Is(err, ErrDisconnected) && !s.buried(envelope.ToStoreID) {
		// The store may have been removed since this Sender used it, or revived.
		// A second time it is so.
		s.forget(envelope.ToStoreID)
		err = s.send(envelope, encoder, size)
	}
	if err != nil {
		detail, reason := s.explain(envelope.ToStoreID, err)
		return s.refuse(*envelope, reason, detail)
	}
	return nil
}

// explain returns the reason for which send took no message, and what else there is
// to say of it, which is a constant: while a store is gone each Send asks for one.
func (s *Sender) explain(storeID uint64, err error) (detail string, reason error) {
	switch {
	case errors.Is(err, ErrFull), errors.Is(err, ErrPaused):
		return "", err
	case !errors.Is(err, ErrDisconnected):
		return err.Error(), ErrInvalid
	}
	r := s.routes[storeID]
	switch {
	case r != nil && r.store.Tombstone():
		return "the store is a tombstone", err
	case r != nil && r.store.Forgotten(): // for the second time, during this Send
		return "the store was removed just now", err
	default:
		return "the client is closed", err
	}
}

// CountRefused counts a message that its sender refused before Send saw it, for
// adapters such as package etcdraft that check more than Send does. The error is
// one that wraps one of Send's reasons; any other counts as invalid.
func (s *Sender) CountRefused(storeID uint64, err error) {
	label := ReasonLabel(err)
	if label == "" {
		label = ReasonLabel(ErrInvalid)
	}
	if s.closed { // there will be no Flush
		s.client.metrics.Failed(label, storeID, 1)
		return
	}
	s.refused[refusal{label, storeID}]++
}

// MaxSnapshotMessageSize is the encoded size above which a snapshot message is
// refused. Its data, which travels beside it, has no limit.
const MaxSnapshotMessageSize = 64 << 20

// limit returns the size above which a message is refused. What doesn't ride the
// stream isn't judged by the stream's limit.
func (s *Sender) limit(envelope *Envelope) int {
	if transfers(envelope) {
		return MaxSnapshotMessageSize
	}
	return s.client.options.MaxMessageSize
}

// send returns nil, or ErrFull, ErrPaused or ErrDisconnected as they are, or what is
// wrong with the encoder.
func (s *Sender) send(envelope *Envelope, encoder Encoder, size int) error {
	r, err := s.route(envelope.ToStoreID)
	if err != nil {
		return ErrDisconnected
	}
	switch {
	case r.store.Tombstone():
		return ErrDisconnected
	case r.store.Paused() && mutant.Active == mutant.C2: // the wrong reason
		return ErrFull
	case r.store.Paused():
		return ErrPaused
	case transfers(envelope):
		return s.sendSnapshot(r.store, envelope, encoder, size)
	case envelope.Witness:
		// Nothing but the message has to arrive, and Raft sends that again.
		return s.client.stores.SendWitness(peerOf(envelope), func() error { return s.push(r, envelope, encoder, size) })
	}
	return s.push(r, envelope, encoder, size)
}

// push stages a message for the stream.
func (s *Sender) push(r *route, envelope *Envelope, encoder Encoder, size int) error {
	p, err := r.path(laneOf(envelope), envelope.RegionID)
	if err != nil {
		return ErrDisconnected
	}
	err = p.stage.Push(queue.Message{
		RegionID: envelope.RegionID,
		PeerID:   envelope.ToPeerID,
		Volatile: isVolatile(envelope),
		Urgent:   isVote(envelope),
		Size:     size,
	}, encoder)
	switch {
	case err == nil:
		if !p.dirty {
			p.dirty = true
			s.dirty = append(s.dirty, p)
		}
		return nil
	case errors.Is(err, queue.ErrFull):
		p.dirty = false // Push has flushed and woken the connection
		if !p.full {
			p.full = true
			s.full = append(s.full, p)
		}
		return ErrFull
	case errors.Is(err, queue.ErrDisconnected):
		return ErrDisconnected
	default:
		return err
	}
}

func (s *Sender) sendSnapshot(store *peer.Store, envelope *Envelope, encoder Encoder, size int) error {
	encoded := encoder.AppendTo(make([]byte, 0, size))
	if len(encoded) != size {
		return queue.ErrEncoder
	}
	if err := store.SendSnapshot(peerOf(envelope), encoded); err != nil {
		return ErrDisconnected
	}
	if lose := s.client.options.Hooks.LoseSnapshot; lose != nil && lose(*envelope) {
		s.client.RemoveStore(envelope.ToStoreID)
	}
	return nil
}

func peerOf(envelope *Envelope) report.Peer {
	return report.Peer{RegionID: envelope.RegionID, PeerID: envelope.ToPeerID}
}

// NeedFlush says whether Flush has anything to do.
func (s *Sender) NeedFlush() bool {
	return len(s.dirty) > 0 || len(s.full) > 0 || len(s.refused) > 0
}

// Flush lets everything accepted since the last Flush leave: each connection
// touched is woken once. What is flushed later than ClientOptions.MaxMessageAge
// after it was sent is dropped and reported as expired, in place of leaving; until
// then nobody looks at its age. Flush also counts what was refused; each connection
// found full counts once.
func (s *Sender) Flush() {
	for r, n := range s.refused {
		s.client.metrics.Failed(r.label, r.storeID, n)
	}
	clear(s.refused)
	for _, p := range s.full {
		p.full = false
		s.client.metrics.Failed(ReasonLabel(ErrFull), p.storeID, 1)
	}
	s.full = reuse(s.full)
	for _, p := range s.dirty {
		if p.dirty {
			p.dirty = false
			p.stage.Flush()
		}
	}
	s.dirty = reuse(s.dirty)
}

// Close flushes and releases the Sender. Later sends fail with ErrDisconnected.
// A second call does nothing.
func (s *Sender) Close() {
	s.Flush()
	for storeID := range s.routes {
		s.forget(storeID)
	}
	s.closed = true
}

// buried says whether a store is known for a tombstone, which then is refused
// without a look at what all Senders share.
func (s *Sender) buried(storeID uint64) bool {
	r := s.routes[storeID]
	return r != nil && r.store.Tombstone() && !r.store.Forgotten()
}

func (s *Sender) route(storeID uint64) (*route, error) {
	if r, ok := s.routes[storeID]; ok {
		return r, nil
	}
	store, err := s.client.stores.Store(storeID)
	if err != nil {
		return nil, err
	}
	s.sweep()
	r := &route{store: store, paths: make([]*path, peer.Slots(s.client.options.ConnectionsPerStore))}
	s.routes[storeID] = r
	return r, nil
}

// sweep drops what is cached of stores that were removed, lest a Sender keep each that
// there ever was. New ones are rare, so it is done whenever one comes.
func (s *Sender) sweep() {
	for storeID, r := range s.routes {
		if r.store.Forgotten() {
			s.forget(storeID)
		}
	}
}

func (r *route) path(lane peer.Lane, regionID uint64) (*path, error) {
	slot := r.store.Route(lane, regionID)
	if p := r.paths[slot]; p != nil {
		return p, nil
	}
	connection, err := r.store.Connection(slot)
	if err != nil {
		return nil, err
	}
	p := &path{stage: connection.NewStage(), storeID: r.store.ID()}
	r.paths[slot] = p
	return p, nil
}

// forget drops the cache of a store. What it staged is flushed.
func (s *Sender) forget(storeID uint64) {
	r := s.routes[storeID]
	if r == nil {
		return
	}
	delete(s.routes, storeID)
	for _, p := range r.paths {
		if p != nil {
			p.stage.Close()
			p.dirty = false
		}
	}
}

// refuse counts and builds the error of a message that is not accepted.
func (s *Sender) refuse(envelope Envelope, reason error, detail string) error {
	if !errors.Is(reason, ErrFull) {
		s.CountRefused(envelope.ToStoreID, reason)
	}
	if len(s.errors) == 0 {
		s.errors = make([]SendError, errorsAtOnce)
	}
	refusal := &s.errors[0]
	s.errors = s.errors[1:]
	*refusal = SendError{
		StoreID:  envelope.ToStoreID,
		RegionID: envelope.RegionID,
		PeerID:   envelope.ToPeerID,
		Reason:   reason,
		Detail:   detail,
	}
	return refusal
}

// errorsAtOnce is 1 KiB of them, which is what a host keeps that keeps one.
const errorsAtOnce = 16

// maxKept is the length above which a list is given back once it is empty.
const maxKept = 2048

func reuse(paths []*path) []*path {
	if cap(paths) > maxKept {
		return nil
	}
	clear(paths)
	return paths[:0]
}
