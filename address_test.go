package raftmux_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C14: each reconnect resolves anew, so a store that has moved is found at its
// new address.
func TestC14ReconnectResolvesAnew(t *testing.T) {
	t.Parallel()
	before, after := rig.NewPeer(t, rig.PeerOptions{}), rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, before)
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	before.WaitMessages(t, 1)
	h.resolver.Set(there, after.Addr())
	before.EndStreams(status.Error(codes.Unavailable, "moved"))
	after.WaitOpen(t, rig.BatchRaft, 1)
	sendAll(t, s, rig.Ack(1, there, 2))
	after.WaitMessages(t, 1)
	if n := h.resolver.Lookups(there); n != 2 || before.Count() != 1 {
		t.Errorf("%d look-ups, %d messages at the old address", n, before.Count())
	}
	if status, _ := h.Store(there); status.Address != after.Addr() {
		t.Errorf("the status says %s", status.Address)
	}
	if hints := h.resolver.Hints(there); strings.Join(hints, "") != "" {
		t.Errorf("look-ups called %q stale: a broken stream says nothing of the address", hints)
	}
}

// C14: a refused connection resolves anew too.
func TestC14RefusedResolvesAnew(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := newSending(t)
	h.resolver.Set(there, rig.DeadAddress(t))
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) >= 3 }, "three look-ups")
	h.resolver.Set(there, peer.Addr())
	peer.WaitOpen(t, rig.BatchRaft, 1)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
}

// C14, S14: connections of one store that fail together share the next look-up.
func TestC14OneLookupPerReconnect(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.ConnectionsPerStore = 4
		o.BackoffStep = 4 * time.Second // failures within a quarter of it count as one
	})
	s := h.sender(t)
	for region := range uint64(64) {
		sendAll(t, s, rig.Ack(region, there, 2))
	}
	peer.WaitMessages(t, 64)
	peer.EndStreams(status.Error(codes.Unavailable, "broken"))
	peer.WaitOpened(t, rig.BatchRaft, 8)
	if n := h.resolver.Lookups(there); n != 2 {
		t.Errorf("%d look-ups for two connects of four connections", n)
	}
	if _, most := h.resolver.InFlight(there); most != 1 {
		t.Errorf("%d look-ups at one time", most)
	}
}

// C16: a sender that was led to another store, by the answer of a kvproto peer
// or a raftmux one, resolves past any cache and finds its own.
func TestC16SenderLooksPastTheCache(t *testing.T) {
	t.Parallel()
	const other = 3
	for name, start := range map[string]func(t *testing.T) (address string, delivered func() int){
		"kvproto": func(t *testing.T) (string, func() int) {
			peer := rig.NewPeer(t, rig.PeerOptions{StoreID: other})
			return peer.Addr(), peer.Count
		},
		"kvproto, legacy": func(t *testing.T) (string, func() int) {
			peer := rig.NewPeer(t, rig.PeerOptions{StoreID: other, NoBatchRaft: true})
			return peer.Addr(), peer.Count
		},
		"raftmux": func(t *testing.T) (string, func() int) {
			var box inbox
			server := newReceiving(t, raftmux.ServerOptions{StoreID: other, Handler: &box})
			return server.addr, func() int { return len(box.all()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong, delivered := start(t)
			right := rig.NewPeer(t, rig.PeerOptions{StoreID: there, HeadersNow: true})
			h := newSending(t)
			h.resolver.SetMoved(there, wrong, right.Addr())
			s := h.sender(t)
			rig.Eventually(t, rig.WaitTimeout, func() bool {
				sendAll(t, s, rig.Append(1, there, 2, 1, 10))
				return right.Count() > 0
			}, "a message at the right store")
			if n := delivered(); n != 0 {
				t.Errorf("%d messages were delivered to another store", n)
			}
			hints := h.resolver.Hints(there)
			if hints[0] != "" || hints[len(hints)-1] != wrong {
				t.Errorf("look-ups called %q stale, %s was", hints, wrong)
			}
			rig.Eventually(t, rig.WaitTimeout, func() bool {
				status, _ := h.Store(there)
				return status.State == raftmux.StoreUp && status.Address == right.Addr()
			}, "the right store is up")
			right.EndStreams(status.Error(codes.Unavailable, "broken"))
			right.WaitOpened(t, rig.BatchRaft, 2)
			if hints := h.resolver.Hints(there); hints[len(hints)-1] != "" {
				t.Errorf("an address is called stale still, after the right store answered: %q", hints)
			}
		})
	}
}

// C16: between raftmux stores the headers tell already who answers, whatever
// becomes of the messages.
func TestC16HeadersTellTheStore(t *testing.T) {
	t.Parallel()
	silent := rig.NewPeer(t, rig.PeerOptions{
		HeadersNow: true,
		ServerOptions: []grpc.ServerOption{grpc.StreamInterceptor(
			func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				if err := stream.SetHeader(metadata.Pairs("raftmux-store-id", "3")); err != nil {
					return err
				}
				return handler(srv, stream)
			})},
	})
	right := rig.NewPeer(t, rig.PeerOptions{})
	// A stream that is open for so long tells up by itself, whoever answers.
	h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Second })
	h.resolver.Set(there, silent.Addr())
	s := h.sender(t)
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Append(1, there, 2, 1, 10))
		hints := h.resolver.Hints(there)
		return len(hints) > 0 && hints[len(hints)-1] == silent.Addr()
	}, "a look-up beyond the address of another store")
	if n := h.router.Events().StoreUp(there); n != 0 {
		t.Errorf("told up %d times by the headers of another store", n)
	}
	h.resolver.Set(there, right.Addr())
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Append(1, there, 2, 1, 10))
		return right.Count() > 0
	}, "a message at the right store")
}

// C16: a batch with a message for another store is not delivered at all, and
// ends the stream with an error that names both ids, in words and in detail.
func TestC16ServerDeliversNone(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		for place := range 3 {
			t.Run(fmt.Sprintf("%s, message %d", rpc, place), func(t *testing.T) {
				t.Parallel()
				var box inbox
				server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
				stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
				batch := []*raft_serverpb.RaftMessage{
					rig.Ack(1, there, 2), rig.Ack(2, there, 2), rig.Ack(3, there, 2),
				}
				if err := stream.Send(rig.Ack(9, there, 2)); err != nil { // before it all is well
					t.Fatal(err)
				}
				box.wait(t, 1)
				batch[place].ToPeer.StoreId = 31
				_ = stream.Send(batch...)
				answer := status.Convert(stream.Status(t))
				if text := answer.Message(); !strings.Contains(text, "StoreNotMatch") ||
					!strings.Contains(text, "store 31") || !strings.Contains(text, "store 2") {
					t.Errorf("answered %q", text)
				}
				var found bool
				for _, detail := range answer.Details() {
					info, ok := detail.(*errdetails.ErrorInfo)
					found = found || ok && info.GetMetadata()["to_store_id"] == "31" && info.GetMetadata()["my_store_id"] == "2"
				}
				if !found {
					t.Errorf("details %v", answer.Details())
				}
				want := 1
				if rpc == rig.Raft {
					want += place // each message is a batch of its own
				}
				if stats := server.Stats(); stats.WrongStore != 1 || stats.Messages != uint64(want) || len(box.all()) != want {
					t.Errorf("%d messages at the host, stats %+v", len(box.all()), stats)
				}
			})
		}
	}
}
