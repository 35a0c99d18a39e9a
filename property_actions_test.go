package raftmux_test

import (
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

var errPropEnd = status.Error(codes.Internal, "the peer ended the stream")

// actions are what may happen. Names that differ in their number are the same
// action, which is then drawn so much more often.
func (m *propModel) actions(proxies bool) map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"":             func(*rapid.T) { m.checkAccepted() },
		"send 1":       m.doSend,
		"send 2":       m.doSend,
		"send 3":       m.doSend,
		"send 4":       m.doSend,
		"flush 1":      func(*rapid.T) { m.flush() },
		"flush 2":      func(*rapid.T) { m.flush() },
		"breathe 1":    m.doBreathe,
		"breathe 2":    m.doBreathe,
		"snapshot":     m.doSnapshot,
		"resolver":     m.doResolver,
		"end streams":  m.doEndStreams,
		"stop, start":  m.doStopStart,
		"know less":    m.doKnowLess,
		"pause":        m.doPause,
		"not now":      m.doNotNow,
		"store":        m.doStore,
		"open a new":   func(*rapid.T) { m.newSender() },
		"close sender": m.doCloseSender,
	}
	if proxies {
		actions["proxy 1"] = m.doProxy
		actions["proxy 2"] = m.doProxy
	}
	return actions
}

func (m *propModel) someStore(t *rapid.T) *propStore {
	return m.stores[rapid.IntRange(0, len(m.stores)-1).Draw(t, "store")]
}

func (m *propModel) someSender(t *rapid.T) *propSender {
	return m.senders[rapid.IntRange(0, len(m.senders)-1).Draw(t, "sender")]
}

func (m *propModel) doSend(t *rapid.T) {
	s, sender := m.someStore(t), m.someSender(t)
	kind := rapid.SampledFrom([]string{"heartbeat", "vote", "append", "append", "big"}).Draw(t, "kind")
	for range rapid.IntRange(1, 6).Draw(t, "messages") {
		m.send(sender, s, rapid.Uint64Range(1, propRegions).Draw(t, "region"), kind)
	}
	if rapid.Bool().Draw(t, "flush") {
		sender.Flush()
	}
}

// doBreathe lets time pass, so that what is under way gets on.
func (m *propModel) doBreathe(t *rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(0, 3000).Draw(t, "µs")) * time.Microsecond)
}

func (m *propModel) doSnapshot(t *rapid.T) {
	m.snapshots.setMode(rapid.IntRange(0, 2).Draw(t, "outcome"))
	m.send(m.someSender(t), m.someStore(t), rapid.Uint64Range(1, propRegions).Draw(t, "region"), "snapshot")
}

func (m *propModel) doResolver(t *rapid.T) {
	s := m.someStore(t)
	switch rapid.SampledFrom([]string{
		"fail", "fail once", "not found", "tombstone", "move", "moved with a cache", "block", "release",
	}).Draw(t, "resolver") {
	case "fail":
		m.resolver.SetError(s.id, errors.New("resolver is away"))
	case "fail once":
		m.resolver.FailOnce(s.id, errors.New("resolver was away"))
	case "not found":
		m.resolver.SetError(s.id, fmt.Errorf("so far: %w", raftmux.ErrStoreNotFound))
	case "tombstone":
		s.tombstone = true
		m.resolver.SetError(s.id, fmt.Errorf("it is: %w", raftmux.ErrTombstone))
	case "move":
		s.found = true
		m.resolver.Set(s.id, s.address(rapid.IntRange(0, 1).Draw(t, "address")))
	case "moved with a cache":
		s.found, s.faulted = true, true
		m.resolver.SetMoved(s.id, m.wrong.Addr(), s.address(1))
	case "block":
		s.unblock()
		s.release = m.resolver.Block(s.id)
	case "release":
		s.unblock()
	}
}

func (s *propStore) unblock() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

// willBreak notes that the streams to a peer are about to be broken.
func (s *propStore) willBreak(peers ...*rig.Peer) {
	s.faulted = true
	for _, peer := range peers {
		for _, stream := range peer.Streams() {
			s.broken = s.broken || stream.Open && stream.Messages > 0
		}
	}
}

func (m *propModel) doEndStreams(t *rapid.T) {
	s := m.someStore(t)
	peer := s.peers[rapid.IntRange(0, 1).Draw(t, "address")]
	if rapid.Bool().Draw(t, "with Done") {
		s.faulted = true
		peer.EndStreams(nil)
		return
	}
	s.willBreak(peer)
	peer.EndStreams(errPropEnd)
}

func (m *propModel) doStopStart(t *rapid.T) {
	s, i := m.someStore(t), rapid.IntRange(0, 1).Draw(t, "address")
	s.willBreak(s.peers[i])
	if s.stopped[i] = !s.stopped[i] && rapid.Bool().Draw(t, "stop"); s.stopped[i] {
		s.peers[i].Stop()
		return
	}
	s.peers[i].Restart(m.tb)
}

func (m *propModel) doKnowLess(t *rapid.T) {
	s, i := m.someStore(t), rapid.IntRange(0, 1).Draw(t, "address")
	less := rapid.SampledFrom([]string{"nothing less", "batches", "both", "the store"}).Draw(t, "less")
	s.peers[i].Configure(func(o *rig.PeerOptions) {
		o.NoBatchRaft = less == "batches" || less == "both"
		o.NoRaft = less == "both"
		o.WrongStore = less == "the store"
	})
	s.willBreak(s.peers[i])
	s.peers[i].EndStreams(errPropEnd)
}

func (m *propModel) doPause(t *rapid.T) {
	s := m.someStore(t)
	if rapid.Bool().Draw(t, "pause") {
		s.peers[0].Pause()
	} else {
		s.peers[0].Resume()
	}
}

func (m *propModel) doNotNow(t *rapid.T) {
	kind := rapid.SampledFrom([]rig.Kind{
		rig.Unreachable, rig.SnapshotStatus, rig.StoreUnreachable, rig.StoreUp,
	}).Draw(t, "callback")
	m.deaf = m.deaf || kind == rig.StoreUnreachable || kind == rig.StoreUp
	m.router.Refuse(kind, rapid.SampledFrom([]int{1, 3, math.MaxInt}).Draw(t, "times"))
}

func (m *propModel) doStore(t *rapid.T) {
	s := m.someStore(t)
	if rapid.Bool().Draw(t, "remove") {
		s.forgotten, s.faulted = true, true
		m.client.RemoveStore(s.id)
		return
	}
	s.forgotten = s.forgotten || s.tombstone
	m.client.ReviveStore(s.id)
}

func (m *propModel) doCloseSender(t *rapid.T) {
	i := rapid.IntRange(0, len(m.senders)-1).Draw(t, "sender")
	m.senders[i].Close()
	if err := m.senders[i].Send(rig.Heartbeat(1, m.stores[0].id, 1)); !errors.Is(err, raftmux.ErrDisconnected) {
		t.Fatalf("send by a closed sender: %v", err)
	}
	m.senders = append(m.senders[:i], m.senders[i+1:]...)
	if len(m.senders) == 0 {
		m.newSender()
	}
}

func (m *propModel) doProxy(t *rapid.T) {
	s, i := m.someStore(t), rapid.IntRange(0, 1).Draw(t, "address")
	proxy := s.proxies[i]
	switch fault := rapid.SampledFrom([]string{
		"cut", "cut after", "refuse", "black hole", "swallow", "stall", "delay", "pass",
	}).Draw(t, "proxy"); fault {
	case "cut":
		s.willBreak(s.peers[i])
		proxy.Cut()
	case "cut after":
		s.faulted = true
		proxy.CutAfter(rapid.Int64Range(0, 4000).Draw(t, "bytes"))
	case "refuse":
		proxy.SetMode(rig.Refuse)
	case "black hole":
		s.faulted = true
		proxy.SetMode(rig.BlackHole)
	case "swallow":
		s.faulted = true
		proxy.SetMode(rapid.SampledFrom([]rig.Mode{rig.SwallowUp, rig.SwallowDown}).Draw(t, "direction"))
	case "stall":
		proxy.SetMode(rig.Stall)
	case "delay":
		proxy.SetDelay(time.Duration(rapid.IntRange(0, 2).Draw(t, "ms")) * time.Millisecond)
	case "pass":
		proxy.SetMode(rig.Pass)
	}
}
