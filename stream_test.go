package raftmux_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// smallWindow makes a peer that takes 64 KiB per stream while it isn't reading.
func smallWindow() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(64 << 10), grpc.StaticConnWindowSize(1 << 20)}
}

// S3, S10, C18: what waits is drained into batches until each is full, by count
// or by bytes, however it was flushed.
func TestS3S10Batches(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change              func(*raftmux.ClientOptions)
		size                int
		maxMessages, maxLen int
	}{
		"by default":       {func(*raftmux.ClientOptions) {}, 10, 128, raftmux.DefaultMaxBatchBytes},
		"by count":         {func(o *raftmux.ClientOptions) { o.MaxBatchMessages = 7 }, 10, 7, 10 << 20},
		"by bytes":         {func(o *raftmux.ClientOptions) { o.MaxBatchBytes = 10_000 }, 900, 128, 10_000},
		"by default bytes": {func(*raftmux.ClientOptions) {}, 100_000, 128, raftmux.DefaultMaxBatchBytes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 100
			rounds := 1
			if test.size == 10 {
				rounds = 5
			}
			peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
			h := toPeer(t, peer, test.change)
			release := h.resolver.Block(there)
			t.Cleanup(release)
			s := h.sender(t)
			for _, m := range numbered(1, 1, uint64(n*rounds), test.size) {
				sendAll(t, s, m)
			}
			release()
			peer.WaitMessages(t, n*rounds)
			wantRange(t, indexes(peer, 1, 0), 1, uint64(n*rounds))
			frame := len(encoded(t, test.size)) + 8 // and some for a larger index
			batches := peer.Batches()
			for i, b := range batches {
				if b.Messages > test.maxMessages || b.Bytes > test.maxLen {
					t.Errorf("batch %d has %d messages and %d bytes", i, b.Messages, b.Bytes)
				}
				room := b.Messages < test.maxMessages && b.Bytes+2*frame < test.maxLen
				if i < len(batches)-1 && room {
					t.Errorf("batch %d of %d has %d messages and %d bytes: it was not drained until it was full",
						i, len(batches), b.Messages, b.Bytes)
				}
			}
			if _, counted, _ := h.ledger(there); counted != uint64(len(batches)) {
				t.Errorf("%d batches counted, %d came", counted, len(batches))
			}
		})
	}
}

// stuck returns a host whose connection to the peer, which reads nothing, has
// taken some of n messages of region 1, and holds the rest in its queue.
func stuck(t *testing.T, peer *rig.Peer, n int, changes ...func(*raftmux.ClientOptions)) (h *sending, sent uint64) {
	t.Helper()
	h = toPeer(t, peer, changes...)
	sendAll(t, h.sender(t), numbered(1, 1, uint64(n), 16<<10)...)
	return h, settled(t, h, uint64(n))
}

// settled waits until a connection whose peer doesn't read has handed over all
// that it can, and returns how much that is.
func settled(t *testing.T, h *sending, accepted uint64) (sent uint64) {
	t.Helper()
	since := time.Now()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		l, _, _ := h.ledger(there)
		if l.Sent != sent {
			sent, since = l.Sent, time.Now()
		}
		return sent > 0 && time.Since(since) > 100*time.Millisecond
	}, "a connection that is stuck")
	if sent == accepted {
		t.Fatalf("all %d messages were handed over to a peer that reads nothing", sent)
	}
	return sent
}

// S3, S15, S18, C12: what waits when a stream breaks is kept for the next one
// and leaves there in order, beginning with the message that no batch had room for.
func TestS3S18BreakKeepsTheRest(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true, KeepMessages: true, ServerOptions: smallWindow()})
	const n = 100
	h, _ := stuck(t, peer, n, func(o *raftmux.ClientOptions) { o.MaxBatchBytes = 40 << 10 })
	peer.WaitOpen(t, rig.BatchRaft, 1)
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	peer.WaitOpened(t, rig.BatchRaft, 2)
	peer.Resume()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		l, _, _ := h.ledger(there)
		list := indexes(peer, 1, 2)
		return l.Sent == n && len(list) > 0 && list[len(list)-1] == n
	}, "the last message on the second stream")
	list := indexes(peer, 1, 2)
	wantRange(t, list, n+1-uint64(len(list)), n)
	if len(list) < n/2 {
		t.Errorf("the next stream carried only %d of %d messages", len(list), n)
	}
	if l, _, _ := h.ledger(there); l.DroppedTotal() != 0 {
		t.Errorf("dropped %v", l.Dropped)
	}
	for _, b := range peer.Batches() {
		if b.Stream == 2 && b.Bytes > 40<<10 {
			t.Errorf("a batch of %d bytes", b.Bytes)
		}
	}
	if e := h.router.Events(); e.Total(rig.Unreachable) != 0 || e.StoreUnreachable(there) != 1 {
		t.Errorf("events %+v", e)
	}
}

// S15, C12, C8: a stream that breaks again before it has proved itself loses the
// queue: the second time it is cleared, and each peer is reported once.
func TestS15SecondBreakClears(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true, ServerOptions: smallWindow()})
	const n = 100
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.BackoffStep = 2 * time.Second // no attempt here lives that long
		o.MaxBatchBytes = 40 << 10
	})
	for region := uint64(1); region <= 2; region++ {
		sendAll(t, h.sender(t), numbered(region, 1, n/2, 16<<10)...)
	}
	settled(t, h, n)
	peer.WaitOpen(t, rig.BatchRaft, 1)
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	peer.WaitOpened(t, rig.BatchRaft, 2)
	if l, _, _ := h.ledger(there); l.DroppedTotal() != 0 || l.Queued == 0 {
		t.Errorf("after the first break: %+v", l)
	}
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.Unreachable(2, 1002) == 1 }, "the queue is cleared")
	l, _, _ := h.ledger(there)
	if l.Queued != 0 || l.Dropped["unreachable"] == 0 || l.Sent+l.DroppedTotal() != n {
		t.Errorf("ledger %+v", l)
	}
	if e := h.router.Events(); e.Unreachable(1, 1001) > 1 || e.Unreachable(2, 1002) != 1 {
		t.Errorf("events %+v", e)
	}
}

// S4: the legacy stream carries one message at a time, in order.
func TestS4LegacyStream(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, KeepMessages: true})
	h := toPeer(t, peer)
	s := h.sender(t)
	h.sendFirst(t, s, rig.Ack(2, there, 3)) // lost in finding out
	peer.WaitOpen(t, rig.Raft, 1)
	sendAll(t, s, numbered(1, 1, 500, 100)...)
	peer.WaitMessages(t, 500)
	wantRange(t, indexes(peer, 1, 1), 1, 500)
	if streams := peer.Streams(); len(streams) != 1 || streams[0].RPC != rig.Raft || streams[0].Batches != streams[0].Messages {
		t.Errorf("streams %+v", streams)
	}
}

// S5: small batches that are handed over while the connection is busy cost
// fewer writes than their number.
func TestS5FewerWritesThanBatches(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	dialer := rig.NewCountingDialer(t)
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.Dialer = dialer.Dial })
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	const n = 50
	release := dialer.Hold()
	t.Cleanup(release)
	before := dialer.Writes()
	for i := range n {
		sendAll(t, s, rig.Ack(1, there, 2))
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			_, batches, _ := h.ledger(there)
			return batches == uint64(i)+2
		}, "batch %d is handed over", i)
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return dialer.Held() > 0 }, "a write is held")
	release()
	peer.WaitMessages(t, n+1)
	if got := len(peer.Batches()); got != n+1 {
		t.Errorf("%d batches came, not %d", got, n+1)
	}
	if writes := dialer.Writes() - before; writes >= n {
		t.Errorf("%d batches cost %d writes", n, writes)
	}
}

// S11, S12, C10, C12: a stream that ends, with Done or an error, reconnects. It
// had carried messages, so the store is told down, once, and then up again.
func TestS11S12EndedStreamReconnects(t *testing.T) {
	t.Parallel()
	for _, end := range []error{nil, status.Error(codes.Unavailable, "going"), status.Error(codes.OK, "")} {
		for _, headers := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v, headers %v", end, headers), func(t *testing.T) {
				t.Parallel()
				peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: headers})
				h := toPeer(t, peer)
				s := h.sender(t)
				sendAll(t, s, rig.Ack(1, there, 2))
				peer.WaitMessages(t, 1)
				h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 1 }, "up")
				peer.EndStreams(end)
				h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 2 }, "up again")
				peer.WaitOpened(t, rig.BatchRaft, 2)
				sendAll(t, s, rig.Ack(1, there, 2))
				peer.WaitMessages(t, 2)
				if e := h.router.Events(); e.StoreUnreachable(there) != 1 || e.Total(rig.Unreachable) != 0 {
					t.Errorf("events %+v", e)
				}
				if status, _ := h.Store(there); status.State != raftmux.StoreUp || status.Connections[0].Generation != 2 {
					t.Errorf("status %+v", status)
				}
				if peer.Conns() != 2 {
					t.Errorf("%d TCP connections: one that was established is not used again", peer.Conns())
				}
			})
		}
	}
}

// S12, C10: the end of a stream that carried nothing is no down edge.
func TestS12IdleStreamEnds(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	h := toPeer(t, peer)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	peer.EndStreams(nil)
	peer.WaitOpened(t, rig.BatchRaft, 2)
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUp(there) == 2 }, "up again")
	for n := 3; n <= 5; n++ { // these carry nothing
		peer.WaitOpen(t, rig.BatchRaft, 1)
		peer.EndStreams(nil)
		peer.WaitOpened(t, rig.BatchRaft, n)
	}
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 2)
	if n := h.router.Events().StoreUnreachable(there); n != 1 {
		t.Errorf("told %d times that the store went down", n)
	}
}

// C18: a message larger than a batch goes alone; above the limit it is refused,
// and the stream that others use goes on. The host can read the limit.
func TestC18LargeMessages(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.MaxBatchBytes, o.MaxMessageSize = 10_000, 1<<20 })
	if h.MaxMessageSize() != 1<<20 {
		t.Errorf("the limit reads %d", h.MaxMessageSize())
	}
	release := h.resolver.Block(there)
	t.Cleanup(release)
	s := h.sender(t)
	exact := rig.Append(1, there, 2, 1, 1<<20)
	exact.Message.Entries[0].Data = exact.Message.Entries[0].Data[:2<<20-exact.Size()]
	if exact.Size() != 1<<20 {
		t.Fatalf("the test's message has %d bytes", exact.Size())
	}
	above := rig.Append(1, there, 2, 1, len(exact.Message.Entries[0].Data)+1)
	messages := numbered(1, 1, 5, 100)
	messages = append(messages, rig.Index(exact, 6))
	messages = append(messages, numbered(1, 7, 10, 100)...)
	for i, m := range messages {
		if i == 5 {
			if err := s.Send(above); raftmux.ReasonLabel(err) != "too_large" {
				t.Errorf("answered %v to a message of %d bytes", err, above.Size())
			}
		}
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	s.Flush()
	release()
	peer.WaitMessages(t, len(messages))
	list := []*raft_serverpb.RaftMessage{}
	for _, m := range peer.Messages() {
		list = append(list, m.Message)
	}
	if len(list) != 10 || list[5].Size() != 1<<20 {
		t.Fatalf("%d messages", len(list))
	}
	batches := peer.Batches()
	if len(batches) != 3 || batches[0].Messages != 5 || batches[1].Messages != 1 || batches[2].Messages != 4 {
		t.Errorf("batches %+v", batches)
	}
	if len(peer.Streams()) != 1 || !peer.Streams()[0].Open {
		t.Errorf("streams %+v", peer.Streams())
	}
}
