package raftmux_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// snapshots is a SnapshotSender that records what it is given, and answers with
// send.
type snapshots struct {
	send func(context.Context) error

	mu        sync.Mutex
	addresses []string
	messages  []*raft_serverpb.RaftMessage
}

func (s *snapshots) SendSnapshot(ctx context.Context, address string, m *raft_serverpb.RaftMessage) error {
	s.mu.Lock()
	s.addresses = append(s.addresses, address)
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	if s.send == nil {
		return nil
	}
	return s.send(ctx)
}

func (s *snapshots) given() ([]string, []*raft_serverpb.RaftMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addresses), slices.Clone(s.messages)
}

func withSnapshots(s raftmux.SnapshotSender) func(*raftmux.ClientOptions) {
	return func(o *raftmux.ClientOptions) { o.SnapshotSender = s }
}

// waitStatus waits for the statuses of the snapshots to a region's peer 2.
func (h *sending) waitStatus(t *testing.T, region uint64, want ...raftmux.SnapshotStatus) {
	t.Helper()
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return len(e.Snapshots(region, 2)) >= len(want) }, "a status")
	if got := h.router.Events().Snapshots(region, 2); !slices.Equal(got, want) {
		t.Errorf("region %d: statuses %v, not %v", region, got, want)
	}
}

// S6, S9, C9: a snapshot message goes to the SnapshotSender, with the address
// that the Resolver gave, and never on the stream; its end is Finish.
func TestS6SnapshotGoesToItsSender(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	sender := new(snapshots)
	h := toPeer(t, peer, withSnapshots(sender))
	s := h.sender(t)
	message := rig.Snapshot(7, there, 2, 100_000)
	want := message.String()
	sendAll(t, s, message)
	message.Message.Snapshot.Data[0], message.RegionId = '!', 77 // the caller's again
	h.waitStatus(t, 7, raftmux.SnapshotFinish)
	addresses, messages := sender.given()
	if len(addresses) != 1 || addresses[0] != peer.Addr() || messages[0].String() != want {
		t.Errorf("sent %d snapshots to %v", len(addresses), addresses)
	}
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	if peer.Regions()[7] != 0 {
		t.Error("the snapshot came on the stream too")
	}
	status, _ := h.Store(there)
	if l := status.Snapshots; l.Accepted != 1 || l.Sent != 1 || l.Queued != 0 || l.DroppedTotal() != 0 {
		t.Errorf("ledger %+v", l)
	}
	if l, _, _ := h.ledger(there); l.Accepted != 1 {
		t.Errorf("the stream's ledger has the snapshot: %+v", l)
	}
}

// S6, S9, C9: whatever keeps a snapshot from being sent is a Failure, once.
func TestS9SnapshotFailures(t *testing.T) {
	t.Parallel()
	fails := &snapshots{send: func(context.Context) error { return errors.New("no room on disk") }}
	for name, test := range map[string]struct {
		sender raftmux.SnapshotSender
		before func(*sending)
		reason string // of the ledger; "" is sent
	}{
		"sender fails": {sender: fails, before: func(h *sending) { h.resolver.Set(there, "here:1") }},
		"no sender":    {before: func(h *sending) { h.resolver.Set(there, "here:1") }, reason: "no_sender"},
		"resolve":      {sender: new(snapshots), before: func(*sending) {}, reason: "resolve"},
		"tombstone": {
			sender: new(snapshots),
			before: func(h *sending) { h.resolver.SetError(there, raftmux.ErrTombstone) },
			reason: "tombstone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newSending(t, withSnapshots(test.sender))
			test.before(h)
			s := h.sender(t)
			mustSend(t, s, rig.Snapshot(7, there, 2, 10))
			h.waitStatus(t, 7, raftmux.SnapshotFailure)
			status, _ := h.Store(there)
			l := status.Snapshots
			if l.Accepted != 1 || l.Queued != 0 || test.reason == "" && l.Sent != 1 || test.reason != "" && l.Dropped[test.reason] != 1 {
				t.Errorf("ledger %+v", l)
			}
			if test.reason == "tombstone" {
				if err := s.Send(rig.Ack(1, there, 2)); !errors.Is(err, raftmux.ErrDisconnected) {
					t.Errorf("a tombstone: %v", err)
				}
			}
			h.close(t)
			h.waitStatus(t, 7, raftmux.SnapshotFailure)
		})
	}
}

// S6, S9, C9: more snapshots than may be under way at a time are Failures at
// once, and the ones under way go on.
func TestS9SnapshotsBusy(t *testing.T) {
	t.Parallel()
	finish := make(chan struct{})
	sender := &snapshots{send: func(ctx context.Context) error {
		select {
		case <-finish:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	h := newSending(t, withSnapshots(sender), func(o *raftmux.ClientOptions) { o.MaxSnapshots = 2 })
	h.resolver.Set(there, "here:1")
	h.resolver.Set(3, "here:2")
	s := h.sender(t)
	mustSend(t, s, rig.Snapshot(1, there, 2, 10), rig.Snapshot(2, there, 2, 10))
	mustSend(t, s, rig.Snapshot(3, there, 2, 10), rig.Snapshot(4, 3, 2, 10)) // the bound is the Client's
	h.waitStatus(t, 3, raftmux.SnapshotFailure)
	h.waitStatus(t, 4, raftmux.SnapshotFailure)
	if e := h.router.Events(); e.Total(rig.SnapshotStatus) != 2 {
		t.Errorf("events %+v", e)
	}
	close(finish)
	h.waitStatus(t, 1, raftmux.SnapshotFinish)
	h.waitStatus(t, 2, raftmux.SnapshotFinish)
	rig.Eventually(t, rig.WaitTimeout, func() bool { // the room is given back
		mustSend(t, s, rig.Snapshot(5, there, 2, 10))
		return slices.Contains(h.router.Events().Snapshots(5, 2), raftmux.SnapshotFinish)
	}, "a snapshot after the busy time")
}

// S9, C9, C24: Close cancels a transfer that doesn't end, which is a Failure.
func TestS9CloseCancelsSnapshot(t *testing.T) {
	t.Parallel()
	sender := &snapshots{send: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	h := newSending(t, withSnapshots(sender))
	h.resolver.Set(there, "here:1")
	mustSend(t, h.sender(t), rig.Snapshot(1, there, 2, 10))
	rig.Eventually(t, rig.WaitTimeout, func() bool { a, _ := sender.given(); return len(a) == 1 }, "a transfer")
	h.close(t)
	h.waitStatus(t, 1, raftmux.SnapshotFailure)
}

// S7, C8, C9: clearing reports each region's peer once, however many messages
// it had, and each pending snapshot as a Failure.
func TestS7ClearingReportsOnce(t *testing.T) {
	t.Parallel()
	h := newSending(t, withSnapshots(new(snapshots)), func(o *raftmux.ClientOptions) { o.BackoffStep = time.Minute })
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	for range 20 {
		for region := uint64(1); region <= 3; region++ {
			sendAll(t, s, rig.Ack(region, there, 2), rig.Append(region, there, 2, 1, 10))
		}
	}
	mustSend(t, s, rig.Ack(1, there, 9)) // another peer of a region, not flushed
	mustSend(t, s, rig.Snapshot(1, there, 2, 10), rig.Snapshot(4, there, 2, 10), rig.Snapshot(4, there, 2, 10))
	h.resolver.FailOnce(there, status.Error(codes.Unavailable, "PD is away"))
	release()
	h.waitStatus(t, 1, raftmux.SnapshotFailure)
	h.waitStatus(t, 4, raftmux.SnapshotFailure, raftmux.SnapshotFailure)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Total(rig.Unreachable) == 4 }, "the peers")
	h.close(t)
	e := h.router.Events()
	for region := uint64(1); region <= 3; region++ {
		if n := e.Unreachable(region, 2); n != 1 {
			t.Errorf("region %d: %d reports", region, n)
		}
	}
	if e.Unreachable(1, 9) != 1 || e.Total(rig.Unreachable) != 4 || e.Total(rig.SnapshotStatus) != 3 {
		t.Errorf("events %+v", e)
	}
}

// S25: a test of another package can make a look-up fail.
func TestS25HookFailsResolve(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	var mu sync.Mutex
	asked, fail := 0, true
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.Hooks.BeforeResolve = func(store uint64) error {
			mu.Lock()
			defer mu.Unlock()
			if asked++; store != there || !fail {
				return nil
			}
			return raftmux.ErrStoreNotFound
		}
	})
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(1, 2) == 1 }, "reported")
	if l, _, _ := h.ledger(there); l.Dropped["resolve"] != 1 || h.resolver.Lookups(there) != 0 {
		t.Errorf("ledger %+v, %d look-ups", l, h.resolver.Lookups(there))
	}
	mu.Lock()
	fail = false
	mu.Unlock()
	peer.WaitOpen(t, rig.BatchRaft, 1)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
}

// S25, C9: a test of another package can let a snapshot's connection vanish at
// that point: the snapshot fails, and what the connection held is reported.
func TestS25HookLosesSnapshot(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	sender := &snapshots{send: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	h := toPeer(t, peer, withSnapshots(sender), func(o *raftmux.ClientOptions) {
		o.Hooks.LoseSnapshot = func(e raftmux.Envelope) bool { return e.RegionID == 5 }
	})
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	mustSend(t, s, rig.Ack(1, there, 2)) // staged
	mustSend(t, s, rig.Snapshot(5, there, 2, 10))
	h.waitStatus(t, 5, raftmux.SnapshotFailure)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(1, 2) == 1 }, "what was staged")
	peer.WaitOpen(t, rig.BatchRaft, 0)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 2)
	if peer.Conns() != 2 {
		t.Errorf("%d TCP connections", peer.Conns())
	}
}
