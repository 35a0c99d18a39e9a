package raftmux_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// heal ends all faults, and waits until every store is up, was told so, and
// nothing waits any more. Then the ledgers balance (C7), and stores that had no
// fault have received what was sent (C6, C7).
func (m *propModel) heal() {
	for _, kind := range []rig.Kind{rig.Unreachable, rig.SnapshotStatus, rig.StoreUnreachable, rig.StoreUp} {
		m.router.Refuse(kind, 0)
	}
	m.snapshots.setMode(0)
	close(m.snapshots.healed)
	for _, s := range m.stores {
		m.healStore(s)
	}
	m.flush() // a message that reaches its store below may be an old one, and nothing then be flushed there
	for _, s := range m.stores {
		// A message may be lost on a stream that breaks yet, or grow too old.
		before := s.received()
		rig.Eventually(m.tb, rig.WaitTimeout, func() bool {
			if s.received() > before {
				return true
			}
			if s.tombstone {
				m.client.ReviveStore(s.id)
			}
			m.send(m.senders[0], s, 1, "append")
			m.flush()
			return false
		}, "a message reaches store %d", s.id)
	}
	for _, s := range m.stores {
		rig.Eventually(m.tb, rig.WaitTimeout, func() bool {
			status, _ := m.client.Store(s.id)
			return status.State == raftmux.StoreUp && m.quiet(status) && m.lastEdge(s) == rig.StoreUp
		}, "store %d is up, was told so, and is quiet", s.id)
		m.checkBroken(s)
		m.checkArrived(s)
	}
}

func (m *propModel) healStore(s *propStore) {
	for i, peer := range s.peers {
		peer.Configure(func(o *rig.PeerOptions) { o.NoBatchRaft, o.NoRaft, o.WrongStore = false, false, false })
		peer.Resume()
		if s.stopped[i] {
			peer.Restart(m.tb)
		}
		if proxy := s.proxies[i]; proxy != nil {
			proxy.CutAfter(-1)
			proxy.SetMode(rig.Pass)
		}
	}
	s.found = true
	m.resolver.Set(s.id, s.address(0))
	s.unblock()
	s.forgotten = s.forgotten || s.tombstone
}

// quiet says whether nothing of a store waits and its ledgers balance.
func (m *propModel) quiet(status raftmux.StoreStatus) bool {
	ledgers := []raftmux.Ledger{status.Snapshots}
	for _, c := range status.Connections {
		ledgers = append(ledgers, c.Ledger)
	}
	return !slices.ContainsFunc(ledgers, func(l raftmux.Ledger) bool {
		return l.Queued != 0 || l.QueuedBytes != 0 || l.Accepted != l.Sent+l.DroppedTotal()
	})
}

func (m *propModel) lastEdge(s *propStore) rig.Kind {
	last := rig.Unreachable
	for _, e := range m.router.Events() {
		if e.Store == s.id && !e.Refused {
			last = e.Kind
		}
	}
	return last
}

func sentTo(status raftmux.StoreStatus) (sent, dropped, accepted uint64) {
	for _, c := range status.Connections {
		sent += c.Ledger.Sent
		dropped += c.Ledger.DroppedTotal()
		accepted += c.Ledger.Accepted
	}
	return sent, dropped, accepted
}

// checkArrived: C6, C7: without a fault, all that was sent arrives.
func (m *propModel) checkArrived(s *propStore) {
	if s.faulted || s.forgotten {
		return
	}
	status, _ := m.client.Store(s.id)
	sent, _, _ := sentTo(status)
	rig.Eventually(m.tb, rig.WaitTimeout, func() bool { return s.received() == sent },
		"store %d has received what was sent", s.id)
}

// checkBroken: C10: a stream that had brought messages was broken, so the host
// hears of it. A host that is deaf for edges is told the newest only.
func (m *propModel) checkBroken(s *propStore) {
	if !s.broken || m.deaf {
		return
	}
	rig.Eventually(m.tb, rig.WaitTimeout, func() bool { return m.router.Events().StoreUnreachable(s.id) > 0 },
		"store %d: a stream with messages was broken, and the host is told", s.id)
}

// checkAccepted: C7: the ledger has accepted what Send has, at any time.
func (m *propModel) checkAccepted() {
	for _, s := range m.stores {
		if s.forgotten {
			continue
		}
		status, _ := m.client.Store(s.id)
		if _, _, accepted := sentTo(status); accepted != s.accepted || status.Snapshots.Accepted != s.snaps {
			m.t.Fatalf("store %d: the ledger accepted %d and %d snapshots, Send %d and %d",
				s.id, accepted, status.Snapshots.Accepted, s.accepted, s.snaps)
		}
	}
}

// close: C24: every call returns within ctx, give or take, and all the same.
func (m *propModel) close(timeout time.Duration) *raftmux.UntakenError {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	begun := time.Now()
	var results [3]error
	var calls sync.WaitGroup
	for i := range results {
		calls.Go(func() { results[i] = m.client.Close(ctx) })
	}
	calls.Wait()
	m.router.Closed()
	if took := time.Since(begun); took > timeout+propSlack {
		m.t.Fatalf("Close took %v, with %v to do it", took, timeout)
	}
	results2 := append(results[:], m.client.Close(context.Background()))
	for _, err := range results2 {
		if err != results[0] {
			m.t.Fatalf("Close returned %v", results2)
		}
	}
	for _, sender := range m.senders {
		if err := sender.Send(rig.Heartbeat(1, m.stores[0].id, 1)); !errors.Is(err, raftmux.ErrDisconnected) {
			m.t.Fatalf("send after Close: %v", err)
		}
		sender.Close()
	}
	untaken := new(raftmux.UntakenError)
	if results[0] != nil && !errors.As(results[0], &untaken) {
		m.t.Fatalf("Close: %v", results[0])
	}
	return untaken
}

// propSlack is what a loaded machine may add to a deadline.
const propSlack = 10 * time.Second

// checkAll looks at the whole sequence once the Client is closed.
func (m *propModel) checkAll(untaken *raftmux.UntakenError) {
	m.checkAccepted()
	unreachable := m.checkReports(untaken)
	m.checkSnapshots(untaken)
	for _, s := range m.stores {
		m.checkOrder(s, unreachable)
		m.checkEdges(s)
		status, known := m.client.Store(s.id)
		if s.forgotten {
			continue
		}
		if known != (s.accepted+s.snaps > 0) && !s.tombstone {
			m.t.Fatalf("store %d is known: %v, and accepted %d", s.id, known, s.accepted)
		}
		if !m.quiet(status) {
			m.t.Fatalf("store %d doesn't balance after Close: %+v", s.id, status)
		}
		sent, dropped, _ := sentTo(status)
		if received := s.received(); received > sent {
			m.t.Fatalf("store %d received %d of %d", s.id, received, sent)
		}
		reported := uint64(0)
		for key := range unreachable {
			if m.accepted[key][0].store == s {
				reported++
			}
		}
		if !m.shared && reported != dropped || reported > dropped {
			m.t.Fatalf("store %d: %d peers were reported, and %d messages dropped", s.id, reported, dropped)
		}
	}
}

// checkReports: C8: only what was accepted is reported, and as often as there
// were clearings. It returns what was reported.
func (m *propModel) checkReports(untaken *raftmux.UntakenError) map[propKey]int {
	reported := make(map[propKey]int)
	for _, e := range m.router.Events() {
		if e.Kind == rig.Unreachable && !e.Refused {
			reported[propKey{e.Region, e.Peer}]++
		}
	}
	for _, peer := range untaken.Unreachable {
		reported[propKey{peer.RegionID, peer.PeerID}]++
	}
	for key, times := range reported {
		if sent := len(m.accepted[key]); times > sent {
			m.t.Fatalf("region %d, peer %d: %d messages were accepted, and reported %d times", key.region, key.peer, sent, times)
		}
	}
	return reported
}

// checkSnapshots: C9: each snapshot has one status, and the one that it should.
func (m *propModel) checkSnapshots(untaken *raftmux.UntakenError) {
	calls := uint64(0)
	for key, sent := range m.accepted {
		if !sent[0].snapshot {
			continue
		}
		statuses := m.router.Events().Snapshots(key.region, key.peer)
		for _, outcome := range untaken.Snapshots {
			if outcome.RegionID == key.region && outcome.PeerID == key.peer {
				statuses = append(statuses, outcome.Status)
			}
		}
		want := raftmux.SnapshotFailure
		if result, called := m.snapshots.results[key]; called {
			calls++
			if result == "" {
				want = raftmux.SnapshotFinish
			}
		}
		if !slices.Equal(statuses, []raftmux.SnapshotStatus{want}) {
			m.t.Fatalf("region %d, peer %d: the snapshot ended in %v, want %v", key.region, key.peer, statuses, want)
		}
	}
	if calls != uint64(m.snapshots.calls) {
		m.t.Fatalf("%d snapshots were sent in %d calls", calls, m.snapshots.calls)
	}
}

// checkOrder: C5, C6, C8: a region's messages by one sender came in order,
// generation after generation and none twice, on one connection of the lane; and what was
// reported did not come.
func (m *propModel) checkOrder(s *propStore, reported map[propKey]int) {
	type arrival struct {
		generation, index uint64
		order             int
	}
	type way struct {
		lane           string
		region, sender uint64
	}
	ways := make(map[way][]arrival)
	connections := make(map[way]int)
	for _, peer := range s.peers {
		streams := peer.Streams()
		for i, received := range peer.Messages() {
			message := received.Message
			region, index, to := message.GetRegionId(), message.GetMessage().GetIndex(), message.GetToPeer()
			key := propKey{region, to.GetId()}
			if !slices.ContainsFunc(m.accepted[key], func(sent propSent) bool { return sent.index == index && sent.store == s }) {
				m.t.Fatalf("store %d received %v, which was not accepted", s.id, message)
			}
			if reported[key] > 0 && !m.shared {
				m.t.Fatalf("store %d received %v, which was reported as dropped", s.id, message)
			}
			id, err := wire.ParseStreamID(streams[received.Stream-1].Metadata.Get(wire.StreamKey)[0])
			if err != nil {
				m.t.Fatal(err)
			}
			shared := way{id.Lane, region, 0}
			if other, known := connections[shared]; known && other != id.Index {
				m.t.Fatalf("region %d used %s connections %d and %d", region, id.Lane, other, id.Index)
			}
			connections[shared] = id.Index
			l := way{id.Lane, region, message.GetFromPeer().GetId()}
			ways[l] = append(ways[l], arrival{id.Generation, index, i})
		}
	}
	for l, arrivals := range ways {
		slices.SortStableFunc(arrivals, func(a, b arrival) int {
			return cmp.Or(cmp.Compare(a.generation, b.generation), cmp.Compare(a.order, b.order))
		})
		for i := 1; i < len(arrivals); i++ {
			if arrivals[i-1].index >= arrivals[i].index {
				m.t.Fatalf("region %d, sender %d, %s: message %d of generation %d came before %d of generation %d", l.region, l.sender, l.lane,
					arrivals[i-1].index, arrivals[i-1].generation, arrivals[i].index, arrivals[i].generation)
			}
		}
	}
}

// checkEdges: C10: a store that could not be resolved was not told of; nobody is
// told twice that a store is up; and a store is down once per step at most.
func (m *propModel) checkEdges(s *propStore) {
	var edges propEvents
	for _, e := range m.router.Events() {
		if e.Store == s.id && !e.Refused {
			edges = append(edges, e)
		}
	}
	if len(edges) == 0 {
		return
	}
	if !s.found {
		m.t.Fatalf("store %d was never found, and yet: %v", s.id, edges)
	}
	if s.forgotten {
		return
	}
	for i := 1; i < len(edges); i++ {
		if edges[i-1].Kind == rig.StoreUp && edges[i].Kind == rig.StoreUp {
			m.t.Fatalf("store %d came up twice: %v", s.id, edges)
		}
	}
	// What is told late, on closing, is one more than what the steps allow.
	last := edges[len(edges)-1].At
	if n, most := edges.StoreUnreachable(s.id), 2+int(last.Sub(m.begun)/m.step); n > most {
		m.t.Fatalf("store %d went down %d times, of %d at most", s.id, n, most)
	}
}
