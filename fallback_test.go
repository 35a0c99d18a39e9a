package raftmux_test

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// S8, C12, C10: a peer without BatchRaft gets Raft on the same TCP connection.
// What BatchRaft was handed is lost, counts as sent, and is a down edge.
func TestS8FallsBackOnTheSameConnection(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, KeepMessages: true})
	h := toPeer(t, peer)
	s := h.sender(t)
	h.sendFirst(t, s, numbered(1, 1, 100, 10)...) // one batch
	peer.WaitOpen(t, rig.Raft, 1)
	sendAll(t, s, numbered(1, 101, 150, 10)...)
	peer.WaitMessages(t, 50)
	wantRange(t, indexes(peer, 1, 0), 101, 150)
	l, batches, _ := h.ledger(there)
	if l.Sent != 150 || l.DroppedTotal() != 0 || batches != 51 {
		t.Errorf("%d batches, ledger %+v", batches, l)
	}
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUnreachable(there) == 1 }, "the loss is told")
	if n := peer.Conns(); n != 1 {
		t.Errorf("%d TCP connections", n)
	}
	if peer.Opened(rig.BatchRaft) != 1 || peer.Opened(rig.Raft) != 1 {
		t.Errorf("BatchRaft was called %d times, Raft %d", peer.Opened(rig.BatchRaft), peer.Opened(rig.Raft))
	}
}

// S8, C7, C23: falling back under load, sent less received is what BatchRaft was
// handed: the first messages, and no others.
func TestS8FallsBackUnderLoad(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, KeepMessages: true})
	h := toPeer(t, peer)
	s := h.sender(t)
	const first, n = 50, 5000
	h.sendFirst(t, s, numbered(1, 1, first, 100)...)
	deadline := time.Now().Add(rig.WaitTimeout)
	for _, m := range numbered(1, first+1, n, 100) {
		for {
			err := s.Send(m)
			if err == nil {
				break
			}
			if !errors.Is(err, raftmux.ErrFull) || time.Now().After(deadline) {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
		if m.Message.Index%10 == 0 {
			s.Flush()
		}
	}
	s.Flush()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		list := indexes(peer, 1, 0)
		return len(list) > 0 && list[len(list)-1] == n
	}, "the last message")
	list := indexes(peer, 1, 0)
	lost := list[0] - 1
	wantRange(t, list, lost+1, n)
	if lost < first {
		t.Errorf("BatchRaft was handed %d messages", lost)
	}
	if l, _, _ := h.ledger(there); l.Sent != n || l.DroppedTotal() != 0 || l.Sent-uint64(peer.Count()) != lost {
		t.Errorf("%d came, %d lost at the front, ledger %+v", peer.Count(), lost, l)
	}
	if e := h.router.Events(); e.StoreUnreachable(there) != 1 || e.Total(rig.Unreachable) != 0 {
		t.Errorf("events %+v", e)
	}
	if peer.Conns() != 1 {
		t.Errorf("%d TCP connections", peer.Conns())
	}
}

// S8, C12: the next connect tries BatchRaft again, and a peer that has learnt it
// gets it.
func TestS8TriesBatchRaftAgain(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, KeepMessages: true})
	h := toPeer(t, peer)
	s := h.sender(t)
	h.sendFirst(t, s, rig.Ack(1, there, 2))
	peer.WaitOpen(t, rig.Raft, 1)
	peer.Configure(func(o *rig.PeerOptions) { o.NoBatchRaft = false })
	peer.EndStreams(status.Error(codes.Unavailable, "upgraded"))
	peer.WaitOpen(t, rig.BatchRaft, 1)
	sendAll(t, s, numbered(1, 1, 10, 10)...)
	peer.WaitMessages(t, 10)
	streams := peer.Streams()
	if last := streams[len(streams)-1]; last.RPC != rig.BatchRaft || last.Messages != 10 {
		t.Errorf("streams %+v", streams)
	}
	if peer.Conns() != 2 {
		t.Errorf("%d TCP connections", peer.Conns())
	}
}

// S8, C12, C10: a peer that knows neither RPC is cleared and reported, its store
// told down once however often it is tried, and it recovers when it learns them.
func TestS8NeitherRPC(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{
		NoBatchRaft: true, NoRaft: true, KeepMessages: true, ServerOptions: smallWindow(),
	})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.MaxBatchBytes = 100_000
		o.BackoffStep = time.Second // a stream that lived for so long would count as up
	})
	s := h.sender(t)
	// More than gRPC takes before it learns that the peer has no such stream.
	h.sendFirst(t, s, slices.Concat(
		numbered(1, 1, 50, 50_000), numbered(2, 1, 50, 50_000), numbered(3, 1, 50, 50_000))...)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool {
		return e.Unreachable(2, 1002) == 1 && e.Unreachable(3, 1003) == 1
	}, "the peers are reported")
	l, _, _ := h.ledger(there)
	if l.Queued != 0 || l.Dropped["unimplemented"] == 0 || l.Sent+l.DroppedTotal() != 150 {
		t.Errorf("ledger %+v", l)
	}
	peer.WaitOpened(t, rig.Raft, 3) // it is tried again and again
	if peer.Opened(rig.BatchRaft) < 3 {
		t.Error("BatchRaft is not tried again")
	}
	if e := h.router.Events(); e.StoreUnreachable(there) != 1 || e.StoreUp(there) != 0 || e.Unreachable(1, 1001) > 1 ||
		e.Unreachable(2, 1002) != 1 || e.Unreachable(3, 1003) != 1 {
		t.Errorf("%d times down, events %+v", e.StoreUnreachable(there), e)
	}
	if status, _ := h.Store(there); status.State != raftmux.StoreDown {
		t.Errorf("state %v", status.State)
	}
	peer.Configure(func(o *rig.PeerOptions) { o.NoBatchRaft, o.NoRaft = false, false })
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 1 }, "up")
	sendAll(t, s, numbered(4, 1, 10, 10)...)
	peer.WaitMessages(t, 10)
	wantRange(t, indexes(peer, 4, 0), 1, 10)
}

// S8, S16: the tries of a peer that knows neither RPC are spaced by the backoff.
func TestS8NeitherRPCBacksOff(t *testing.T) {
	t.Parallel()
	const step = 40 * time.Millisecond
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, NoRaft: true})
	clock := newLookupClock()
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.BackoffStep = step
		o.Hooks.BeforeResolve = clock.tick
	})
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	wantBackoff(t, clock.wait(t, 8), step)
}
