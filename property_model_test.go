package raftmux_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// propTB lets rig's constructors serve one sequence of a property: what they
// start ends with it, and their failures are its own.
type propTB struct {
	testing.TB
	t        *rapid.T
	cleanups []func()
}

func (p *propTB) Cleanup(f func())                  { p.cleanups = append(p.cleanups, f) }
func (p *propTB) Helper()                           {}
func (p *propTB) Logf(format string, args ...any)   { p.t.Logf(format, args...) }
func (p *propTB) Errorf(format string, args ...any) { p.t.Errorf(format, args...) }
func (p *propTB) Fatalf(format string, args ...any) { p.t.Fatalf(format, args...) }

func (p *propTB) end() {
	for len(p.cleanups) > 0 {
		last := p.cleanups[len(p.cleanups)-1]
		p.cleanups = p.cleanups[:len(p.cleanups)-1]
		last()
	}
}

type (
	propRouter = rig.Router[raftmux.SnapshotStatus]
	propEvents = rig.Events[raftmux.SnapshotStatus]
)

// propKey names a peer of a region.
type propKey struct{ region, peer uint64 }

// propStore is one remote store and what the test knows of it. It has two
// addresses, with a peer built from kvproto's own code behind each.
type propStore struct {
	id       uint64
	peers    [2]*rig.Peer
	proxies  [2]*rig.Proxy // nil in the layer without proxies
	stopped  [2]bool
	release  func() // of the blocked resolver
	accepted uint64 // messages, without snapshots
	snaps    uint64

	found     bool // the resolver has named an address, ever
	tombstone bool // the resolver has said so, ever
	forgotten bool // the Client may have begun its ledger anew
	faulted   bool // what was sent may have been lost
	broken    bool // a stream that had brought messages was broken
}

func (s *propStore) address(i int) string {
	if s.proxies[i] != nil {
		return s.proxies[i].Addr()
	}
	return s.peers[i].Addr()
}

// received counts the messages at both addresses.
func (s *propStore) received() uint64 {
	return uint64(s.peers[0].Count() + s.peers[1].Count())
}

// propSent is an accepted message.
type propSent struct {
	store    *propStore
	sender   uint64
	index    uint64
	snapshot bool
}

// propSender is a Sender with the id that its messages carry.
type propSender struct {
	*raftmux.Sender
	id uint64
}

// propSnapshots is a SnapshotSender that does what it was told last.
type propSnapshots struct {
	mu      sync.Mutex
	mode    int // 0 succeeds, 1 fails, 2 lasts until ctx ends, or healed is closed
	healed  chan struct{}
	results map[propKey]string // "" is success
	calls   int
}

var errPropSnapshot = errors.New("the snapshot was refused")

func (p *propSnapshots) setMode(mode int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
}

func (p *propSnapshots) SendSnapshot(ctx context.Context, _ string, m *raft_serverpb.RaftMessage) error {
	p.mu.Lock()
	mode := p.mode
	p.calls++
	p.mu.Unlock()
	var err error
	switch mode {
	case 1:
		err = errPropSnapshot
	case 2:
		err = errPropSnapshot
		select {
		case <-p.healed:
		case <-ctx.Done():
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := propKey{m.GetRegionId(), m.GetToPeer().GetId()}
	if _, twice := p.results[key]; twice {
		p.results[key] = "it was sent twice"
	} else if err != nil {
		p.results[key] = err.Error()
	} else {
		p.results[key] = ""
	}
	return err
}

// propModel is one sequence: a Client, the stores around it, and what the test
// did to them.
type propModel struct {
	tb        *propTB
	t         *rapid.T
	client    *raftmux.Client
	router    *propRouter
	resolver  *rig.Resolver
	snapshots *propSnapshots
	stores    []*propStore
	wrong     *rig.Peer // takes messages for no store
	senders   []*propSender

	step     time.Duration
	begun    time.Time
	shared   bool // messages of a region go to one peer; otherwise each has its own
	deaf     bool // the router was told to refuse edges of stores
	next     uint64
	nextID   uint64
	accepted map[propKey][]propSent
}

const propRegions = 6

func newPropModel(t *rapid.T, tb *propTB, proxies bool) *propModel {
	m := &propModel{
		tb:        tb,
		t:         t,
		router:    rig.NewRouter[raftmux.SnapshotStatus](tb),
		resolver:  rig.NewResolver(),
		snapshots: &propSnapshots{healed: make(chan struct{}), results: make(map[propKey]string)},
		step:      time.Duration(rapid.IntRange(2, 10).Draw(t, "step ms")) * time.Millisecond,
		begun:     time.Now(),
		shared:    rapid.IntRange(0, 3).Draw(t, "shared peers") == 0,
		accepted:  make(map[propKey][]propSent),
	}
	m.wrong = rig.NewPeer(tb, rig.PeerOptions{StoreID: 99})
	for i := range rapid.IntRange(1, 2).Draw(t, "stores") {
		s := &propStore{id: uint64(2 + i)}
		headers := rapid.Bool().Draw(t, "headers now")
		for j := range s.peers {
			s.peers[j] = rig.NewPeer(tb, rig.PeerOptions{
				StoreID: s.id, KeepMessages: true, HeadersNow: headers,
				// A stop waits for connections that never got beyond their first bytes.
				ServerOptions: []grpc.ServerOption{grpc.ConnectionTimeout(200 * time.Millisecond)},
			})
			if proxies {
				s.proxies[j] = rig.NewProxy(tb, s.peers[j].Addr())
			}
		}
		switch rapid.SampledFrom([]string{"found", "found", "found", "failing", "not found"}).Draw(t, "at first") {
		case "found":
			s.found = true
			m.resolver.Set(s.id, s.address(0))
		case "failing":
			m.resolver.SetError(s.id, errors.New("resolver is away"))
		case "not found":
			m.resolver.SetError(s.id, fmt.Errorf("so far: %w", raftmux.ErrStoreNotFound))
		}
		m.stores = append(m.stores, s)
	}
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID:             1,
		Resolver:            m.resolver,
		Router:              m.router,
		SnapshotSender:      m.snapshots,
		MaxSnapshots:        rapid.SampledFrom([]int{1, 32}).Draw(t, "max snapshots"),
		ConnectionsPerStore: rapid.IntRange(1, 3).Draw(t, "connections"),
		QueueMessages:       rapid.SampledFrom([]int{6, 30, 4096}).Draw(t, "queue"),
		MaxBatchMessages:    rapid.SampledFrom([]int{1, 3, 128}).Draw(t, "batch"),
		MaxBatchBytes:       rapid.SampledFrom([]int{500, 10 << 20}).Draw(t, "batch bytes"),
		MaxMessageAge:       rapid.SampledFrom([]time.Duration{5 * time.Millisecond, time.Minute}).Draw(t, "age"),
		BackoffStep:         m.step,
		ConnectTimeout:      100 * time.Millisecond,
		WindowSize:          64 << 10,
		ReferToPayloads:     rapid.SampledFrom([]int{0, 4 << 10}).Draw(t, "refer to"),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.client = client
	m.newSender()
	return m
}

func (m *propModel) newSender() {
	m.nextID++
	m.senders = append(m.senders, &propSender{m.client.NewSender(), m.nextID})
}

// send lets a sender send one message, and writes down what was accepted.
func (m *propModel) send(sender *propSender, s *propStore, region uint64, kind string) {
	m.next++
	index := m.next
	peer := 100*s.id + region
	if !m.shared || kind == "snapshot" {
		peer = 1000 + index
	}
	message := propMessage(kind, region, s.id, peer)
	rig.Index(rig.From(message, 1, sender.id), index)
	switch err := sender.Send(message); {
	case err == nil:
		key := propKey{region, peer}
		m.accepted[key] = append(m.accepted[key], propSent{s, sender.id, index, kind == "snapshot"})
		if kind == "snapshot" {
			s.snaps++
		} else {
			s.accepted++
		}
	case errors.Is(err, raftmux.ErrFull):
	case errors.Is(err, raftmux.ErrDisconnected):
		if !s.tombstone {
			m.t.Fatalf("send to a store that is no tombstone: %v", err)
		}
	default:
		m.t.Fatalf("send: %v", err)
	}
}

func propMessage(kind string, region, store, peer uint64) *raft_serverpb.RaftMessage {
	switch kind {
	case "heartbeat":
		return rig.Heartbeat(region, store, peer)
	case "vote":
		return rig.Vote(region, store, peer)
	case "snapshot":
		return rig.Snapshot(region, store, peer, 10)
	case "big":
		return rig.Append(region, store, peer, 1, 20_000)
	default:
		return rig.Append(region, store, peer, 2, 60)
	}
}

func (m *propModel) flush() {
	for _, sender := range m.senders {
		sender.Flush()
	}
}
