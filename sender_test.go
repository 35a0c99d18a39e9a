package raftmux_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// S19: all Senders share one pool of connections.
func TestS19SendersShareConnections(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer)
	var workers sync.WaitGroup
	for region := uint64(1); region <= 6; region++ {
		workers.Go(func() {
			s := h.NewSender()
			defer s.Close()
			for _, m := range numbered(region, 1, 100, 20) {
				if err := s.Send(m); err != nil {
					t.Error(err)
				}
				if m.Message.Index%9 == 0 {
					s.Flush()
				}
			}
		})
	}
	workers.Wait()
	peer.WaitMessages(t, 600)
	if peer.Conns() != 1 || len(peer.Streams()) != 1 || h.resolver.Lookups(there) != 1 {
		t.Errorf("%d connections, %d streams, %d look-ups", peer.Conns(), len(peer.Streams()), h.resolver.Lookups(there))
	}
	for region := uint64(1); region <= 6; region++ {
		wantRange(t, indexes(peer, region, 0), 1, 100)
	}
}

// S20: a Sender survives that the connections which it caches are replaced: what
// it staged is reported, and what it sends next goes to the new ones, whether or
// not another Sender has made them.
func TestS20SenderSurvivesReplacement(t *testing.T) {
	t.Parallel()
	for name, otherFirst := range map[string]bool{"finds out first": false, "finds out later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const regions = 8
			peer := rig.NewPeer(t, rig.PeerOptions{})
			h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 2 })
			mine, other := h.sender(t), h.sender(t)
			came := 0
			for round := uint64(1); round <= 5; round++ {
				for region := range uint64(regions) {
					sendAll(t, mine, rig.Append(region, there, 2, 1, 10))
				}
				came += regions
				peer.WaitMessages(t, came)
				mustSend(t, mine, rig.Ack(100+round, there, 2)) // staged when the store is removed
				h.RemoveStore(there)
				h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(100+round, 2) == 1 }, "what was staged")
				if otherFirst {
					for region := range uint64(regions) {
						sendAll(t, other, rig.Append(region, there, 2, 1, 10))
					}
					came += regions
					peer.WaitMessages(t, came)
				}
			}
			mine.Flush()
			peer.WaitOpen(t, rig.BatchRaft, map[bool]int{false: 0, true: 2}[otherFirst])
			if n := peer.Conns(); n != map[bool]int{false: 10, true: 12}[otherFirst] {
				t.Errorf("%d TCP connections", n)
			}
		})
	}
}

// What is refused as disconnected says why.
func TestDisconnectedSaysWhy(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, withSnapshots(new(snapshots)))
	h.resolver.SetError(3, raftmux.ErrTombstone)
	known, fresh, closed := h.sender(t), h.sender(t), h.sender(t)
	closed.Close()
	sendAll(t, known, rig.Ack(1, there, 2), rig.Append(1, there, 2, 1, 10))
	want := func(s *raftmux.Sender, m *raft_serverpb.RaftMessage, detail string) {
		t.Helper()
		err := s.Send(m)
		var refused *raftmux.SendError
		if !errors.As(err, &refused) || !errors.Is(err, raftmux.ErrDisconnected) || refused.Detail != detail {
			t.Errorf("answered %v, not %q", err, detail)
		}
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		_ = known.Send(rig.Ack(1, 3, 2))
		status, _ := h.Store(3)
		return status.State == raftmux.StoreTombstone
	}, "a tombstone")
	messages := func(store uint64) []*raft_serverpb.RaftMessage {
		return []*raft_serverpb.RaftMessage{rig.Ack(1, store, 2), rig.Append(1, store, 2, 1, 10), rig.Snapshot(1, store, 2, 10)}
	}
	for _, s := range []*raftmux.Sender{known, fresh} {
		for _, m := range messages(3) {
			want(s, m, "the store is a tombstone")
		}
	}
	want(closed, rig.Ack(1, 3, 2), "the sender is closed")
	h.close(t)
	for _, s := range []*raftmux.Sender{known, fresh} {
		for _, m := range append(messages(there), messages(4)...) {
			want(s, m, "the client is closed")
		}
	}
}

// S20: a removed store is forgotten, and comes back with a look-up.
func TestS20RemovedStore(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	h.RemoveStore(there)
	h.RemoveStore(there)
	if _, ok := h.Store(there); ok || len(h.Stores()) != 0 {
		t.Error("the store is known still")
	}
	peer.WaitOpen(t, rig.BatchRaft, 0)
	s.Flush()
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 2)
	if n := h.resolver.Lookups(there); n != 2 {
		t.Errorf("%d look-ups", n)
	}
}

// S21, C5: a region sticks to one connection, over reconnects and for every
// Sender; regions are spread evenly though their ids have a common divisor.
func TestS21RegionsStickAndSpread(t *testing.T) {
	t.Parallel()
	const connections, regions = 4, 512
	for _, step := range []uint64{1, 4, 64, 1000, 1 << 32} {
		peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
		h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = connections })
		home := make(map[uint64]string)
		for round := 1; round <= 2; round++ {
			for range 2 {
				s := h.sender(t)
				for i := range uint64(regions) {
					sendAll(t, s, rig.Append(i*step+1, there, 2, 1, 10))
				}
			}
			peer.WaitMessages(t, 2*regions*round)
			if round == 1 {
				peer.EndStreams(status.Error(codes.Unavailable, "broken"))
				peer.WaitOpened(t, rig.BatchRaft, 2*connections)
			}
		}
		spread := make(map[string]int)
		for _, m := range peer.Messages() {
			id := peer.Streams()[m.Stream-1].Metadata.Get("raftmux-stream")[0]
			connection := connectionOf(t, id)
			if first, ok := home[m.Message.RegionId]; ok && first != connection {
				t.Fatalf("step %d: region %d came on connection %s, and on %s", step, m.Message.RegionId, first, connection)
			} else if !ok {
				home[m.Message.RegionId] = connection
				spread[connection]++
			}
		}
		for connection, n := range spread {
			if n < regions/connections*3/5 || n > regions/connections*7/5 {
				t.Errorf("step %d: connection %s has %d of %d regions", step, connection, n, regions)
			}
		}
		if len(spread) != connections {
			t.Errorf("step %d: %d connections are used", step, len(spread))
		}
	}
}
