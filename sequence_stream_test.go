package raftmux

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

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
