package raftmux

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/raftmux/raftmux/internal/peer"
)

// all returns what the Client knows and knew of a store.
func (m *seqModel) all(s *seqStore) []*peer.Store {
	stores := slices.Clone(s.past)
	if now := m.client.stores.Lookup(s.id); now != nil && !slices.Contains(stores, now) {
		stores = append(stores, now)
	}
	return stores
}

// checkQuiet looks at what must hold whenever nothing more can happen at this
// moment: C7, C13, C15, C17.
func (m *seqModel) checkQuiet() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if free := seqFree(m.client); free < 0 || free > m.options.MemoryBudget {
		m.failf("C17: %d of %d bytes are free", free, m.options.MemoryBudget)
	}
	for _, s := range m.stores {
		var accepted, sent, held uint64
		for _, store := range m.all(s) {
			status := statusOf(store)
			s.buried = s.buried || s.doomed && status.State == StoreTombstone
			snapshots := status.Snapshots
			if snapshots.Accepted != snapshots.Sent+snapshots.DroppedTotal()+snapshots.Queued {
				m.failf("C7: snapshots to store %d don't balance: %+v", s.id, snapshots)
			}
			accepted += snapshots.Accepted
			sent += snapshots.Sent
			var data uint64
			for _, c := range status.Connections {
				m.checkConnection(s, c)
				if c.Lane == "data" {
					data += c.Ledger.QueuedBytes + c.HeldBytes
				}
				accepted += c.Ledger.Accepted
				sent += c.Ledger.Sent
				held += c.HeldBytes
			}
			if most := m.mostBytes(); data > uint64(most) {
				m.failf("C17: %d bytes wait for store %d, %d may", data, s.id, most)
			}
		}
		var wantAccepted, wantSent uint64
		for _, message := range m.sent {
			if message.store == s {
				wantAccepted++
				wantSent += uint64(message.handed)
			}
		}
		if accepted != wantAccepted || sent != wantSent {
			m.failf("C7: store %d accepted %d and sent %d, says the ledger; it was %d and %d",
				s.id, accepted, sent, wantAccepted, wantSent)
		}
		m.checkStalls(s, held)
	}
}

// mostBytes is what the data connections of a store may hold together, in grains
// of 64 KiB.
func (m *seqModel) mostBytes() int {
	o := m.options
	return max(o.QueueBytes, o.MaxMessageSize+(o.ConnectionsPerStore-1)*connectionMinimum) + 64<<10
}

func (m *seqModel) checkConnection(s *seqStore, c ConnectionStatus) {
	l, o := c.Ledger, m.options
	if l.Accepted != l.Sent+l.DroppedTotal()+l.Queued {
		m.failf("C7: connection %s/%d to store %d doesn't balance: %+v", c.Lane, c.Index, s.id, l)
	}
	most := o.QueueMessages
	if c.Lane == "data" {
		most /= o.ConnectionsPerStore
	}
	if mostBytes := max(o.QueueBytes/o.ConnectionsPerStore, o.MaxMessageSize); l.Queued > uint64(most) ||
		l.QueuedBytes+c.HeldBytes > uint64(mostBytes) {
		m.failf("C17: connection %s/%d to store %d holds %+v and %d bytes", c.Lane, c.Index, s.id, l, c.HeldBytes)
	}
}

// checkStalls: C15: no stream is stalled for longer than allowed.
func (m *seqModel) checkStalls(s *seqStore, held uint64) {
	allowed := m.options.SendStallTimeout*3/2 + time.Duration(held)*time.Second>>20
	for _, st := range s.streams {
		if st.over || st.stuck.IsZero() {
			continue
		}
		since := st.stuck
		if st.progress.After(since) {
			since = st.progress
		}
		if idle := time.Since(since); idle > allowed {
			m.failf("C15: stream %v to store %d is stalled for %v", st.id, s.id, idle)
		}
	}
}

// checkHealed: C10, C12, C17: after all faults everything has left, and the host
// knows that the store is up.
func (m *seqModel) checkHealed(s *seqStore) {
	status, _ := m.client.Store(s.id)
	if status.State != StoreUp {
		m.failf("C12: all is well, and store %d is %v", s.id, status.State)
	}
	for _, c := range status.Connections {
		if c.Ledger.Queued != 0 || c.HeldBytes != 0 {
			m.failf("C12: all is well, and store %d has %+v, and %d bytes held", s.id, c.Ledger, c.HeldBytes)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	edges := m.edges(s)
	if len(edges) == 0 || edges[len(edges)-1].kind != seqUp {
		m.failf("C10: all is well, and the host was told %+v of store %d", edges, s.id)
	}
	for _, sent := range m.sent {
		if sent.store == s && !sent.snapshot && sent.handed == 0 && time.Since(sent.at) <= time.Millisecond {
			m.failf("C12: all is well, and message %d wasn't sent", sent.index)
		}
	}
}

func (m *seqModel) edges(s *seqStore) (edges []seqEvent) {
	for _, e := range m.told {
		if (e.kind == seqDown || e.kind == seqUp) && e.store == s.id {
			edges = append(edges, e)
		}
	}
	return edges
}

// checkAll looks at the whole sequence, once the Client is closed.
func (m *seqModel) checkAll(untaken *UntakenError, closing seqEvent) {
	m.checkQuiet()
	m.mu.Lock()
	defer m.mu.Unlock()
	if free := seqFree(m.client); free != m.options.MemoryBudget {
		m.failf("C17: %d bytes are gone from the budget of %d", m.options.MemoryBudget-free, m.options.MemoryBudget)
	}
	m.checkReports(untaken)
	for _, s := range m.stores {
		for _, store := range m.all(s) {
			for _, word := range seqLoads(store) {
				if word != 0 {
					m.failf("C17: a queue to store %d is charged for %#x", s.id, word)
				}
			}
			for _, c := range statusOf(store).Connections {
				if c.Ledger.Queued != 0 || c.Ledger.QueuedBytes != 0 || c.HeldBytes != 0 {
					m.failf("C7: after Close, store %d has %+v", s.id, c)
				}
			}
		}
		m.checkOrder(s)
		m.checkEdges(s, closing)
	}
}

// checkReports: C8, C9: what was accepted and not sent is reported, and only
// that; each snapshot has one status.
func (m *seqModel) checkReports(untaken *UntakenError) {
	type key struct{ region, peer uint64 }
	reports := make(map[key][]int)
	statuses := make(map[key][]SnapshotStatus)
	for _, e := range m.told {
		switch k := (key{e.region, e.peer}); e.kind {
		case seqUnreachable:
			reports[k] = append(reports[k], e.number)
		case seqStatus:
			statuses[k] = append(statuses[k], e.status)
		}
	}
	m.number++
	for _, p := range untaken.Unreachable {
		k := key{p.RegionID, p.PeerID}
		reports[k] = append(reports[k], m.number)
	}
	for _, outcome := range untaken.Snapshots {
		k := key{outcome.RegionID, outcome.PeerID}
		statuses[k] = append(statuses[k], outcome.Status)
	}
	dropped := make(map[key]int)
	for _, sent := range m.sent {
		k := key{sent.region, sent.peer}
		if sent.snapshot {
			want := SnapshotFailure
			if sent.arrived {
				want = SnapshotFinish
			}
			if !slices.Equal(statuses[k], []SnapshotStatus{want}) {
				m.failf("C9: snapshot %d ended in %v, not %v", sent.index, statuses[k], want)
			}
			delete(statuses, k)
			continue
		}
		if sent.handed > 0 {
			continue
		}
		dropped[k]++
		if list := reports[k]; len(list) == 0 || list[len(list)-1] < sent.before {
			m.failf("C8: message %d to store %d was accepted, not sent, and not reported", sent.index, sent.store.id)
		}
	}
	for k, list := range reports {
		if len(list) > dropped[k] {
			m.failf("C8: region %d, peer %d: %d messages were dropped, and reported %d times", k.region, k.peer, dropped[k], len(list))
		}
	}
	if len(statuses) > 0 {
		m.failf("C9: statuses of no snapshot: %v", statuses)
	}
}

// checkOrder: C5, C6: a region's messages by one sender are in order, generation
// after generation, on one connection of the lane, and nothing volatile was
// handed to a later stream than the one that it waited for.
func (m *seqModel) checkOrder(s *seqStore) {
	handed := slices.Clone(s.handed)
	slices.SortStableFunc(handed, func(a, b seqHanded) int {
		return cmp.Compare(a.stream.id.Generation, b.stream.id.Generation)
	})
	type way struct {
		lane           string
		region, sender uint64
	}
	last := make(map[way]seqHanded)
	for _, h := range handed {
		w := way{h.lane, h.region, h.sender}
		before, ok := last[w]
		last[w] = h
		if ok && before.index >= h.index {
			m.failf("C5: store %d was handed message %d after %d", s.id, h.index, before.index)
		}
		if ok && before.stream.id.Index != h.stream.id.Index {
			m.failf("C5: region %d changed its connection to store %d", h.region, s.id)
		}
		if !h.volatile || s.removed {
			continue
		}
		for _, st := range s.streams {
			if st.id.Lane == h.stream.id.Lane && st.id.Index == h.stream.id.Index &&
				st.id.Generation < h.stream.id.Generation && st.known && st.over && h.after > 0 && h.after < st.ended.number {
				m.failf("C6: volatile message %d to store %d outlived stream %v", h.index, s.id, st.id)
			}
		}
	}
}

// checkEdges: C10.
func (m *seqModel) checkEdges(s *seqStore, closing seqEvent) {
	edges := m.edges(s)
	step := m.options.BackoffStep
	causes := slices.Clone(s.causes)
	for _, st := range s.streams {
		lost := st.carried > 0 && (st.result != nil || !st.closeSent || st.wrong)
		if !lost && st.known {
			continue
		}
		causes = append(causes, st.ended)
		if !lost || m.config.Deaf || m.toldSoon(edges, st.ended, step) || st.covered(edges) || s.removed {
			continue
		}
		m.failf("C10: stream %v to store %d had carried messages and ended at %v; the host was told %v%s",
			st.id, s.id, st.ended.at.Format(time.StampMicro), seqEdges(edges), s.streamList())
	}
	if !s.found && len(edges) > 0 {
		m.failf("C10: store %d was never found, and the host was told %v", s.id, seqEdges(edges))
	}
	if m.config.Deaf {
		return
	}
	var down, before *seqEvent
	for i, e := range edges {
		switch e.kind {
		case seqUp:
			if before != nil && before.kind == seqUp && !s.removed {
				m.failf("C10: store %d came up twice: %v", s.id, seqEdges(edges))
			}
			if !slices.ContainsFunc(s.streams, func(st *seqStream) bool { return st.wasUp(e, step) }) && !s.removed {
				m.failf("C10: no stream to store %d was up: %v", s.id, seqEdges(edges))
			}
		default:
			if down != nil && e.at.Sub(down.at) < step && e.number < closing.number && !s.removed && !s.tombstone {
				m.failf("C10: store %d went down twice within a step: %v", s.id, seqEdges(edges))
			}
			if !slices.ContainsFunc(causes, func(cause seqEvent) bool {
				return cause.number < e.number && e.at.Sub(cause.at) <= step
			}) {
				m.failf("C10: store %d went down for no reason: %v%s", s.id, seqEdges(edges), s.streamList())
			}
			down = &edges[i]
		}
		before = &edges[i]
	}
	for _, cause := range s.causes { // failures to reach it
		up := slices.ContainsFunc(s.streams, func(st *seqStream) bool {
			// Of two things at one instant either may be noticed first.
			return !st.over || st.ended.number > cause.number || st.ended.at.Equal(cause.at)
		})
		if !up && !s.removed && !m.toldSoon(edges, cause, step) && !m.toldDown(edges, cause) {
			m.failf("C10: store %d was not reached at %v, and the host was told %v",
				s.id, cause.at.Format(time.StampMicro), seqEdges(edges))
		}
	}
}

// toldDown says whether the newest edge before a moment is down.
func (m *seqModel) toldDown(edges []seqEvent, at seqEvent) bool {
	down := false
	for _, e := range edges {
		if e.number < at.number {
			down = e.kind == seqDown
		}
	}
	return down
}

// toldSoon says whether the host was told of an end: within a step after it, or
// within a step before it if it wasn't told since that the store is up.
func (m *seqModel) toldSoon(edges []seqEvent, end seqEvent, step time.Duration) bool {
	covered := false
	for _, e := range edges {
		if e.number > end.number {
			if e.kind == seqDown {
				return covered || e.at.Sub(end.at) <= step
			}
			continue
		}
		covered = e.kind == seqDown && end.at.Sub(e.at) < step
	}
	return covered
}

// covered says whether the host was told, after the stream was handed its last
// batch, that what the store was sent is lost.
func (st *seqStream) covered(edges []seqEvent) bool {
	return slices.ContainsFunc(edges, func(e seqEvent) bool { return e.kind == seqDown && e.number > st.handed })
}

// wasUp says whether a stream was up when the host was told so.
func (st *seqStream) wasUp(told seqEvent, step time.Duration) bool {
	if st.over && st.ended.at.Before(told.at) {
		return false
	}
	return st.up != nil && st.up.number < told.number || told.at.Sub(st.opened.at) >= step
}

// seqEdges prints edges.
func seqEdges(edges []seqEvent) (list []string) {
	for _, e := range edges {
		word := " down"
		if e.kind == seqUp {
			word = " up"
		}
		list = append(list, fmt.Sprintf("%s%s #%d", e.at.Format(time.StampMicro)[len("Jan _2 "):], word, e.number))
	}
	return list
}

// checkFlushed: C24: what was flushed to healthy stores before Close was sent by it.
func (m *seqModel) checkFlushed(closing seqEvent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sent := range m.sent {
		if !sent.snapshot && sent.handed == 0 && sent.sender == m.ids[0] && closing.at.Equal(sent.at) {
			m.failf("C24: message %d was flushed, and Close didn't send it", sent.index)
		}
	}
}

// streamList prints a store's streams.
func (s *seqStore) streamList() (list string) {
	for _, st := range s.streams {
		list += fmt.Sprintf("\n  stream %v known %v over %v carried %d ended %v #%d result %v closeSent %v",
			st.id, st.known, st.over, st.carried, st.ended.at.Format(time.StampMicro), st.ended.number, st.result, st.closeSent)
	}
	return list
}
