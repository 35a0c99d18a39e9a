package raftmux

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/peer"
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
