package raftmux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// What a store's far end, its resolver and the snapshot sender may do.
const (
	seqWell  = iota // what is asked of it
	seqFail         // fail at once
	seqSlow         // do well, after a while
	seqHang         // nothing, until this changes, the timeout, or ctx ends
	seqOther        // open no stream; headers of another store; hold the buffers; a moved address
	seqNever        // not found; no headers; break at the next batch
	seqGone         // a tombstone
)

const (
	seqWhile          = 3 * time.Millisecond
	seqConnectTimeout = 5 * time.Second
)

var errSeq = errors.New("the script says so")

// seqStore is a remote store: how it behaves, and what it saw. Guarded by
// seqModel.mu.
type seqStore struct {
	id                                uint64
	connect, headers, take, resolving int
	knowsBatch, knowsRaft             bool
	streams                           []*seqStream // all that were ever opened
	handed                            []seqHanded
	lookups, asked                    int // now; ever

	found     bool          // the resolver named an address, ever
	removed   bool          // the host removed it, ever
	tombstone bool          // the resolver said so, ever
	doomed    bool          // the resolver said tombstone, and the host has not revived it since
	buried    bool          // and the Client was seen to know
	past      []*peer.Store // what the Client has forgotten
	causes    []seqEvent    // failures to reach it
}

// seqHanded is a message that a stream was handed.
type seqHanded struct {
	seqSent
	stream *seqStream
	at     time.Time
}

// Resolve implements Resolver.
func (m *seqModel) Resolve(ctx context.Context, storeID uint64, stale string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.store(storeID)
	if s.buried {
		m.failf("C13: store %d is a tombstone, and was looked up", s.id)
	}
	if s.lookups++; s.lookups > 1 && !s.removed {
		m.failf("C14: %d look-ups of store %d at once", s.lookups, s.id)
	}
	defer func() { s.lookups-- }()
	if s.asked++; s.asked > 10_000 {
		m.failf("C12: store %d was looked up %d times", s.id, s.asked)
		m.mu.Unlock()
		<-ctx.Done() // or fake time would stand still
		m.mu.Lock()
	}
	m.pause(ctx, time.Hour, func() int { return s.resolving })
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	address := fmt.Sprint("store ", s.id)
	switch s.resolving {
	case seqFail:
		return "", errSeq
	case seqNever:
		return "", fmt.Errorf("so far: %w", ErrStoreNotFound)
	case seqGone:
		s.doomed, s.tombstone = true, true
		return "", fmt.Errorf("it is: %w", ErrTombstone)
	case seqOther:
		if stale == "" {
			address = fmt.Sprint("moved ", s.id)
		}
	}
	s.found = true
	return address, nil
}

// pause does what the slow and the hanging do. The caller holds m.mu.
func (m *seqModel) pause(ctx context.Context, timeout time.Duration, mode func() int) {
	switch mode() {
	case seqSlow:
		timeout = seqWhile
	case seqHang:
	default:
		return
	}
	before := mode()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for over := false; !over && mode() == before; {
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-timer.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-changed:
		}
		m.mu.Lock()
	}
}

// Connect implements peer.Transport.
func (m *seqModel) Connect(ctx context.Context, address string) (peer.Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kind, id, _ := strings.Cut(address, " ")
	var storeID uint64
	_, _ = fmt.Sscan(id, &storeID)
	s := m.store(storeID)
	m.pause(ctx, seqConnectTimeout, func() int { return s.connect })
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.connect == seqFail || s.connect == seqHang {
		s.causes = append(s.causes, m.now())
		return nil, errSeq
	}
	return &seqLink{m: m, store: s, moved: kind == "moved"}, nil
}

// seqLink implements peer.Link.
type seqLink struct {
	m       *seqModel
	store   *seqStore
	moved   bool
	streams []*seqStream
}

func (l *seqLink) Open(ctx context.Context, kind peer.Kind, id wire.StreamID) (peer.Stream, error) {
	m, s := l.m, l.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.connect == seqOther && ctx.Err() == nil {
		s.causes = append(s.causes, m.now())
		return nil, errSeq
	}
	for _, other := range s.streams {
		if other.id.Lane != id.Lane || other.id.Index != id.Index {
			continue
		}
		if !other.over && !s.removed {
			m.failf("C5: stream %v to store %d is opened beside %v", id, s.id, other.id)
		}
		if other.id.Generation >= id.Generation {
			m.failf("C5: stream %v to store %d is opened after %v", id, s.id, other.id)
		}
	}
	st := &seqStream{
		m: m, store: s, moved: l.moved, kind: kind, id: id, ctx: ctx, opened: m.now(), headers: s.headers,
		end: make(chan struct{}), known: kind == peer.BatchRaft && s.knowsBatch || kind == peer.Raft && s.knowsRaft,
	}
	s.streams = append(s.streams, st)
	l.streams = append(l.streams, st)
	return st, nil
}

func (l *seqLink) Close() {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	for _, st := range l.streams {
		st.finish(errSeq)
	}
}

// seqStream implements peer.Stream. Guarded by seqModel.mu.
type seqStream struct {
	m       *seqModel
	store   *seqStore
	moved   bool // another store answers
	known   bool
	kind    peer.Kind
	id      wire.StreamID
	ctx     context.Context
	headers int
	end     chan struct{}
	opened  seqEvent
	up      *seqEvent // when its headers came

	finished, closeSent, stalling bool
	wrong                         bool // its headers named another store
	result                        error
	over                          bool // Wait has returned
	ended                         seqEvent
	carried                       int
	handed                        int // number of the moment when it was handed its last batch
	held                          []seqHeld
	progress                      time.Time // when it let go of something last
	stuckFirst                    time.Time // when something was held or stalled at first
	stuck                         time.Time // since when something was held or stalled without a break
}

// seqHeld are buffers that were not let go of, and what was in them.
type seqHeld struct {
	buffers mem.BufferSlice
	data    []byte
}

// free lets go of buffers, in which nothing may have changed.
func (m *seqModel) free(held []seqHeld) {
	for _, h := range held {
		if !bytes.Equal(h.buffers.Materialize(), h.data) {
			m.failf("C17: %d bytes changed while the stream held them", len(h.data))
		}
		h.buffers.Free()
	}
}

// finish ends the stream. The caller holds m.mu.
func (st *seqStream) finish(err error) {
	if !st.finished && !st.over {
		st.finished, st.result = true, err
		close(st.end)
	}
}

func (st *seqStream) Send(batch queue.Batch) error {
	m, s := st.m, st.store
	data := batch.Buffers.Materialize()
	held := []seqHeld{{batch.Buffers, data}}
	m.mu.Lock()
	defer m.mu.Unlock()
	st.receive(batch, data)
	defer func() { st.stalling = false }()
	for {
		if st.finished || st.over || st.ctx.Err() != nil {
			m.free(held)
			return io.EOF
		}
		switch s.take {
		case seqHang:
			st.stalling = true
			st.isStuck()
			changed := m.changed
			m.mu.Unlock()
			select {
			case <-changed:
			case <-st.end:
			case <-st.ctx.Done():
			}
			m.mu.Lock()
		case seqOther:
			st.isStuck()
			st.held = append(st.held, held...)
			return nil
		case seqNever:
			st.finish(errSeq)
			m.free(held)
			return errSeq
		default:
			if st.progress = time.Now(); len(st.held) == 0 {
				st.stuck = time.Time{}
			}
			m.free(held)
			return nil
		}
	}
}

// receive reads a batch as a peer would. The caller holds m.mu.
func (st *seqStream) receive(batch queue.Batch, data []byte) {
	m, s := st.m, st.store
	received := &tikvpb.BatchRaftMessage{}
	var err error
	if st.kind == peer.BatchRaft {
		err = received.Unmarshal(data)
	} else {
		received.Msgs = []*raft_serverpb.RaftMessage{{}}
		err = received.Msgs[0].Unmarshal(data)
	}
	n := len(received.Msgs)
	switch {
	case err != nil:
		m.failf("C7: stream %v to store %d was handed what can't be decoded: %v", st.id, s.id, err)
	case n != batch.Messages || n == 0 || len(data) != batch.Bytes:
		m.failf("C7: a batch of %d messages in %d bytes is said to be %d in %d", n, len(data), batch.Messages, batch.Bytes)
	case n > m.options.MaxBatchMessages, n > 1 && len(data) > m.options.MaxBatchBytes:
		m.failf("C18: a batch has %d messages in %d bytes", n, len(data))
	}
	st.carried++
	st.handed = m.now().number
	for _, message := range received.Msgs {
		sent, ok := m.sent[message.GetRegionEpoch().GetVersion()]
		if !ok {
			// The stream can be faster than the sender's own book-keeping, which is
			// under m.mu, so nobody has sent it.
			m.failf("C6: store %d was handed what nobody sent: %v", s.id, message)
			continue
		}
		sent.handed++
		if sent.handed > 1 {
			m.failf("C6: store %d was handed message %d twice", s.id, sent.index)
		}
		if sent.store != s || message.GetToPeer().GetStoreId() != s.id || message.GetToPeer().GetId() != sent.peer ||
			message.GetRegionId() != sent.region {
			m.failf("C16: store %d was handed what store %d is to have: %v", s.id, sent.store.id, message)
		}
		if age := time.Since(sent.at); age > m.options.MaxMessageAge {
			m.failf("C6: message %d was handed over %v after it was accepted", sent.index, age)
		}
		if sent.lane != st.id.Lane {
			m.failf("C17: message %d of the %s lane came in the %s lane", sent.index, sent.lane, st.id.Lane)
		}
		s.handed = append(s.handed, seqHanded{*sent, st, time.Now()})
	}
}

func (st *seqStream) CloseSend() {
	m := st.m
	m.mu.Lock()
	defer m.mu.Unlock()
	st.closeSent = true
	if len(st.held) == 0 && st.headers != seqFail {
		st.finish(nil)
	}
}

// isStuck notes that the stream makes no progress. The caller holds m.mu.
func (st *seqStream) isStuck() {
	if st.stuck.IsZero() {
		st.stuck = time.Now()
	}
	if st.stuckFirst.IsZero() {
		st.stuckFirst = st.stuck
	}
}

// release lets go of what the stream holds. The caller holds m.mu.
func (st *seqStream) release() {
	st.m.free(st.held)
	st.held, st.stuck, st.progress = nil, time.Time{}, time.Now()
	if st.stalling {
		st.isStuck()
	}
	if st.closeSent {
		st.finish(nil)
	}
}

func (st *seqStream) Wait(answered func(uint64)) error {
	m := st.m
	err := st.wait(answered)
	m.mu.Lock()
	defer m.mu.Unlock()
	st.finish(err) // for Send
	st.over, st.ended, st.result = true, m.now(), err
	// What gRPC holds it may let go of now, later, or never.
	if m.letGo {
		m.free(st.held)
	} else {
		m.late = append(m.late, st.held...)
	}
	st.held = nil
	return err
}

func (st *seqStream) wait(answered func(uint64)) error {
	m := st.m
	if !st.known {
		return fmt.Errorf("so it is: %w", peer.ErrUnimplemented)
	}
	if st.headers == seqSlow {
		timer := time.NewTimer(seqWhile)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-st.end:
		case <-st.ctx.Done():
		}
	}
	switch {
	case st.moved && st.headers == seqNever: // as TiKV does it
		return fmt.Errorf("so it is: %w", peer.ErrWrongStore)
	case st.moved || st.headers == seqOther:
		m.mu.Lock()
		st.wrong = true
		m.mu.Unlock()
		answered(99)
	case st.headers == seqNever || st.ctx.Err() != nil:
	default:
		m.mu.Lock()
		now := m.now()
		st.up = &now
		m.mu.Unlock()
		answered(st.store.id * (st.store.id % 2)) // a plain peer's headers don't say who it is
	}
	select {
	case <-st.end:
		m.mu.Lock()
		defer m.mu.Unlock()
		return st.result
	case <-st.ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := st.store
	quit := m.closing || s.removed || s.tombstone || st.moved || st.headers == seqOther
	if least := m.options.SendStallTimeout * 3 / 4; !quit && (st.stuckFirst.IsZero() || time.Since(st.stuckFirst) < least) {
		m.failf("C15: stream %v to store %d was cut, and had made progress", st.id, s.id)
	}
	return st.ctx.Err()
}

// SendSnapshot implements SnapshotSender.
func (m *seqModel) SendSnapshot(ctx context.Context, address string, message *raft_serverpb.RaftMessage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	sent, ok := m.sent[message.GetRegionEpoch().GetVersion()]
	if !ok || !sent.snapshot || !strings.HasSuffix(address, fmt.Sprint(" ", sent.store.id)) {
		m.failf("C9: no such snapshot was sent to %s: %v", address, message)
		return errSeq
	}
	if sent.handed++; sent.handed > 1 {
		m.failf("C9: snapshot %d was sent twice", sent.index)
	}
	m.pause(ctx, time.Hour, func() int { return m.snapshots })
	if m.snapshots == seqFail || ctx.Err() != nil {
		return errSeq
	}
	sent.arrived = true
	return nil
}

// Router

type seqKind int

const (
	seqUnreachable seqKind = iota
	seqStatus
	seqDown
	seqUp
	seqKinds
)

// seqEvent is a moment, and a callback if it is of one. Numbers are in order of
// what happened, at the same time too.
type seqEvent struct {
	number int
	at     time.Time

	kind         seqKind
	region, peer uint64
	store        uint64
	status       SnapshotStatus
}

// now returns the moment. The caller holds m.mu.
func (m *seqModel) now() seqEvent {
	m.number++
	return seqEvent{number: m.number, at: time.Now()}
}

// tell takes a callback.
func (m *seqModel) tell(e seqEvent) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		m.failf("C11: a callback after Close: %+v", e)
	}
	if m.notNow[e.kind] > 0 {
		m.notNow[e.kind]--
		return false
	}
	now := m.now()
	e.number, e.at = now.number, now.at
	m.told = append(m.told, e)
	return true
}

func (m *seqModel) ReportUnreachable(region, peer uint64) bool {
	return m.tell(seqEvent{kind: seqUnreachable, region: region, peer: peer})
}

func (m *seqModel) ReportSnapshotStatus(region, peer uint64, status SnapshotStatus) bool {
	return m.tell(seqEvent{kind: seqStatus, region: region, peer: peer, status: status})
}

func (m *seqModel) StoreUnreachable(storeID uint64) bool {
	return m.tell(seqEvent{kind: seqDown, store: storeID})
}

func (m *seqModel) StoreUp(storeID uint64) bool {
	return m.tell(seqEvent{kind: seqUp, store: storeID})
}

func (m *seqModel) store(id uint64) *seqStore {
	i := slices.IndexFunc(m.stores, func(s *seqStore) bool { return s.id == id })
	if i < 0 {
		m.failf("nobody knows store %d", id)
		return m.stores[0]
	}
	return m.stores[i]
}
