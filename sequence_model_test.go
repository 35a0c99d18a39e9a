package raftmux

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/rig"
)

const seqRegions = 5

// seqSent is a message that was accepted.
type seqSent struct {
	store                       *seqStore
	index, region, peer, sender uint64
	lane                        string
	volatile, snapshot          bool
	at                          time.Time
	before, after               int // numbers of the moments around its acceptance; after is 0 until then
	handed                      int
	arrived                     bool // a snapshot did
}

// seqModel is one sequence: a Client with a stub in place of its sockets, in
// fake time, and what was done to it and seen of it.
type seqModel struct {
	config   seqConfig
	options  ClientOptions
	client   *Client
	senders  []*Sender
	ids      []uint64 // of the senders
	lastID   uint64
	allowed  []uint64 // nil allows all
	problems chan string

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced when the script goes on
	stores    []*seqStore
	snapshots int
	sent      map[uint64]*seqSent
	index     uint64
	number    int
	told      []seqEvent
	notNow    [seqKinds]int
	letGo     bool
	late      []seqHeld // of streams that are over
	closing   bool
	closed    bool
}

// failf notes the first thing that is wrong.
func (m *seqModel) failf(format string, args ...any) {
	select {
	case m.problems <- fmt.Sprintf(format, args...):
	default:
	}
}

func newSeqModel(config seqConfig) *seqModel {
	m := &seqModel{
		config: config, problems: make(chan string, 1), changed: make(chan struct{}),
		sent: make(map[uint64]*seqSent), letGo: config.LetGo,
	}
	for i := range config.Stores {
		m.stores = append(m.stores, &seqStore{id: uint64(2 + i), knowsBatch: true, knowsRaft: true})
	}
	m.options = ClientOptions{
		StoreID: 1, Resolver: m, Router: m, SnapshotSender: m, Transport: m,
		MaxSnapshots:        config.MaxSnapshots,
		ConnectionsPerStore: config.Connections,
		QueueMessages:       config.QueueMessages,
		QueueBytes:          config.QueueKiB << 10,
		MaxBatchMessages:    config.BatchMsgs,
		MaxBatchBytes:       config.BatchBytes,
		MaxMessageSize:      config.MaxMessageKiB << 10,
		MemoryBudget:        config.MaxMessageKiB << 10 * config.BudgetOver,
		MaxMessageAge:       config.Age,
		BackoffStep:         config.Step,
		SendStallTimeout:    config.Stall,
		ReferToPayloads:     config.ReferTo,
	}
	client, err := NewClient(m.options)
	if err != nil {
		panic(err)
	}
	m.client = client
	m.openSender()
	return m
}

func (m *seqModel) openSender() {
	m.lastID++
	m.senders = append(m.senders, m.client.NewSender())
	m.ids = append(m.ids, m.lastID)
}

// change lets the script go on.
func (m *seqModel) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

// do does one thing.
func (m *seqModel) do(op seqOp) {
	s := m.stores[op.Store%len(m.stores)]
	i := op.Sender % len(m.senders)
	begun := time.Now()
	mode := func(of ...int) int { return of[op.N%len(of)] }
	switch op.Do {
	case "send":
		kind := []string{"heartbeat", "vote", "append", "append", "big", "extra", "timeout"}[op.N%7]
		for n := range uint64(op.N/7*4 + 1) {
			m.send(i, s, 1+(op.Region+n*n)%seqRegions, kind)
		}
	case "flush":
		m.senders[i].Flush()
	case "snapshot":
		m.send(i, s, op.Region, "snapshot")
	case "open sender":
		m.openSender()
	case "close sender":
		m.closeSender(i)
	case "remove":
		m.forget(s, true)
	case "revive":
		m.forget(s, false)
	case "allow":
		m.allow(op.N)
	case "connect":
		m.change(func() { s.connect = mode(seqWell, seqWell, seqFail, seqSlow, seqHang, seqOther) })
	case "headers":
		m.change(func() { s.headers = mode(seqWell, seqWell, seqFail, seqSlow, seqOther, seqNever) })
	case "take":
		m.change(func() { s.take = mode(seqWell, seqWell, seqHang, seqOther, seqNever) })
	case "know":
		m.change(func() { s.knowsBatch, s.knowsRaft = op.N%3 == 0, op.N%4 != 1 })
	case "resolver":
		m.change(func() {
			s.resolving = mode(seqWell, seqWell, seqFail, seqSlow, seqHang, seqOther, seqNever, seqGone, seqWell)
		})
	case "snapshots":
		m.change(func() { m.snapshots = mode(seqWell, seqFail, seqSlow, seqHang) })
	case "end":
		m.change(func() { s.endStreams([]error{nil, errSeq, errSeq, peer.ErrWrongStore}[op.N%4], op.N/4%2 == 0) })
	case "release":
		m.change(func() { m.release(s) })
	case "not now":
		kind := seqKind(op.N) % seqKinds
		if kind == seqUnreachable || kind == seqStatus || m.config.Deaf {
			m.change(func() { m.notNow[kind] = []int{0, 1, 3, math.MaxInt}[op.N/4%4] })
		}
	}
	if took := time.Since(begun); took > 0 {
		m.failf("C1: %q took %v", op.Do, took)
	}
	if op.Do == "sleep" {
		time.Sleep([]time.Duration{
			time.Microsecond, time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 10 * time.Millisecond,
			m.config.Step / 2, m.config.Step, m.config.Step, 3 * m.config.Step, 10 * m.config.Step,
			m.config.Age + time.Nanosecond, m.config.Stall / 2, m.config.Stall * 3,
		}[op.N%13])
	}
	if op.Wait {
		synctest.Wait()
		m.checkQuiet()
	}
}

func (s *seqStore) endStreams(err error, all bool) {
	for i, st := range s.streams {
		if all || i%2 == 0 {
			st.finish(err)
		}
	}
}

func (m *seqModel) release(s *seqStore) {
	m.free(m.late)
	m.late = nil
	for _, st := range s.streams {
		st.release()
	}
}

func (m *seqModel) closeSender(i int) {
	m.senders[i].Close()
	if err := m.senders[i].Send(rig.Heartbeat(1, 2, 1)); !errors.Is(err, ErrDisconnected) {
		m.failf("C2: a closed sender says %v", err)
	}
	m.senders = slices.Delete(m.senders, i, i+1)
	m.ids = slices.Delete(m.ids, i, i+1)
	if len(m.senders) == 0 {
		m.openSender()
	}
}

// forget removes a store, or revives it if it is a tombstone.
func (m *seqModel) forget(s *seqStore, remove bool) {
	m.mu.Lock()
	old := m.client.stores.Lookup(s.id)
	if old != nil && !slices.Contains(s.past, old) {
		s.past = append(s.past, old)
	}
	s.buried = false
	s.removed = s.removed || remove
	if remove || old != nil && old.Tombstone() {
		s.doomed = false
		s.removed = true
	}
	m.mu.Unlock()
	if remove {
		m.client.RemoveStore(s.id)
	} else {
		m.client.ReviveStore(s.id)
	}
}

func (m *seqModel) allow(n int) {
	m.allowed = nil
	if n%3 != 0 {
		m.allowed = []uint64{}
		for _, s := range m.stores {
			if (uint64(n)>>s.id)&1 != 0 {
				m.allowed = append(m.allowed, s.id)
			}
		}
	}
	m.client.SetAllowlist(m.allowed)
}

// send sends one message, and writes down what was accepted.
func (m *seqModel) send(i int, s *seqStore, region uint64, kind string) {
	m.mu.Lock()
	m.index++
	sent := &seqSent{
		store: s, index: m.index, region: region, peer: 100*s.id + region, sender: m.ids[i], lane: "data",
		snapshot: kind == "snapshot", at: time.Now(), before: m.now().number,
	}
	if !m.config.Shared || sent.snapshot {
		sent.peer = 1000 + sent.index
	}
	m.sent[sent.index] = sent
	doomed := s.doomed
	m.mu.Unlock()
	message := seqMessage(kind, region, s.id, sent.peer)
	rig.From(message, 1, sent.sender).RegionEpoch.Version = sent.index
	switch kind {
	case "heartbeat", "vote":
		sent.lane, sent.volatile = "control", true
	case "timeout":
		sent.volatile = true
	}
	err := m.senders[i].Send(message)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		sent.after = m.now().number
		if !m.allows(s) {
			m.failf("C2: store %d is paused, and took a message", s.id)
		}
		return
	}
	delete(m.sent, sent.index)
	switch {
	case errors.Is(err, ErrFull) && !sent.snapshot:
	case errors.Is(err, ErrDisconnected) && (doomed || s.doomed):
	case errors.Is(err, ErrPaused) && !m.allows(s):
	case errors.Is(err, ErrTooLarge) && message.Size() > m.options.MaxMessageSize:
	default:
		m.failf("C2: send %s to store %d: %v", kind, s.id, err)
	}
}

func (m *seqModel) allows(s *seqStore) bool {
	return m.allowed == nil || slices.Contains(m.allowed, s.id)
}

// heal ends all faults, and lets so much time pass that everything must be well.
func (m *seqModel) heal() {
	m.allow(0)
	for _, sender := range m.senders {
		sender.Flush() // what shares a flush with the old counts as old
	}
	m.change(func() {
		m.snapshots, m.notNow = seqWell, [seqKinds]int{}
		for _, s := range m.stores {
			s.connect, s.headers, s.take, s.resolving, s.knowsBatch, s.knowsRaft = 0, 0, 0, 0, true, true
			m.release(s)
		}
	})
	synctest.Wait()
	for _, s := range m.stores {
		m.forget(s, false)
	}
	time.Sleep(20*m.config.Step + 2*seqConnectTimeout)
	synctest.Wait()
	m.checkQuiet()
	m.sendAll()
	time.Sleep(time.Millisecond)
	synctest.Wait()
	m.checkQuiet()
	for _, s := range m.stores {
		m.checkHealed(s)
	}
}

// sendAll sends and flushes to everyone.
func (m *seqModel) sendAll() {
	for _, s := range m.stores {
		m.send(0, s, 1, "vote")
		for region := range uint64(seqRegions) {
			m.send(0, s, 1+region, "append")
		}
	}
	m.senders[0].Flush()
}

// close closes the Client, and waits until nothing can happen any more.
func (m *seqModel) close(timeout time.Duration) *UntakenError {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	begun := time.Now()
	results := make([]error, m.config.Closes)
	var calls sync.WaitGroup
	for i := range results {
		calls.Go(func() { results[i] = m.client.Close(ctx) })
	}
	calls.Wait()
	m.change(func() { m.closed = true })
	if took := time.Since(begun); took > timeout {
		m.failf("C24: Close took %v of %v", took, timeout)
	}
	results = append(results, m.client.Close(context.Background()))
	for _, err := range results {
		if err != results[0] {
			m.failf("C24: Close returned %v", results)
		}
	}
	for _, sender := range m.senders {
		if err := sender.Send(rig.Heartbeat(1, 2, 1)); !errors.Is(err, ErrDisconnected) && !errors.Is(err, ErrPaused) {
			m.failf("C24: send after Close: %v", err)
		}
		sender.Close()
	}
	time.Sleep(time.Hour)
	m.change(func() {
		m.free(m.late)
		m.late = nil
	})
	synctest.Wait()
	untaken := new(UntakenError)
	if results[0] != nil && !errors.As(results[0], &untaken) {
		m.failf("C24: Close: %v", results[0])
	}
	return untaken
}

// seqFree returns what is free of a Client's budget.
func seqFree(c *Client) int {
	budget := reflect.ValueOf(c.stores).Elem().FieldByName("options").Elem().FieldByName("Budget")
	return (*queue.Budget)(budget.UnsafePointer()).Free()
}

// seqLoads returns the messages and bytes that are charged to a store's queues.
func seqLoads(s *peer.Store) (words []uint64) {
	connections := reflect.ValueOf(s).Elem().FieldByName("connections")
	for i := range connections.Len() {
		if c := connections.Index(i); !c.IsNil() {
			load := c.Elem().FieldByName("queue").Elem().FieldByName("load")
			words = append(words, load.FieldByName("word").FieldByName("v").Uint())
		}
	}
	return words
}
