package raftmux_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// mixture returns n messages of all shapes for regions 1 to 4, numbered within
// each region.
func mixture(n int) (messages []*raft_serverpb.RaftMessage) {
	for i := range n {
		region, number := uint64(i%4)+1, uint64(i/4)+1
		var m *raft_serverpb.RaftMessage
		switch i % 5 {
		case 0:
			m = rig.Ack(region, there, 2)
		case 1:
			m = rig.Message(region, there, 2, eraftpb.MessageType_MsgReadIndex)
		case 2:
			m = rig.Append(region, there, 2, 3, i)
		case 3:
			m = rig.Append(region, there, 2, 1, 20_000)
		default:
			m = rig.Message(region, there, 2, eraftpb.MessageType_MsgAppendResponse)
		}
		messages = append(messages, rig.Index(m, number))
	}
	return messages
}

// same fails unless got is want, region by region and in order.
func same(t *testing.T, got, want []*raft_serverpb.RaftMessage) {
	t.Helper()
	split := func(all []*raft_serverpb.RaftMessage) map[uint64][]string {
		regions := make(map[uint64][]string)
		for _, m := range all {
			regions[m.RegionId] = append(regions[m.RegionId], m.String())
		}
		return regions
	}
	g, w := split(got), split(want)
	if len(got) != len(want) || len(g) != len(w) {
		t.Fatalf("%d messages of %d regions, not %d of %d", len(got), len(g), len(want), len(w))
	}
	for region := range w {
		for i, text := range w[region] {
			if g[region][i] != text {
				t.Fatalf("region %d: message %d is not what was sent", region, i)
			}
		}
	}
}

// C23: kvproto's generated code at the other end of all four pairings.
func TestC23Pairings(t *testing.T) {
	t.Parallel()
	const n = 400
	t.Run("we send BatchRaft", func(t *testing.T) {
		t.Parallel()
		peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
		h := toPeer(t, peer)
		sendAll(t, h.sender(t), mixture(n)...)
		peer.WaitMessages(t, n)
		same(t, received(peer), mixture(n))
		if s := peer.Streams(); len(s) != 1 || s[0].RPC != rig.BatchRaft {
			t.Errorf("streams %+v", s)
		}
	})
	t.Run("we send Raft", func(t *testing.T) {
		t.Parallel()
		peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true, NoBatchRaft: true})
		h := toPeer(t, peer)
		s := h.sender(t)
		h.sendFirst(t, s, rig.Ack(9, there, 2)) // what BatchRaft is handed is lost
		peer.WaitOpen(t, rig.Raft, 1)
		sendAll(t, s, mixture(n)...)
		peer.WaitMessages(t, n)
		same(t, received(peer), mixture(n))
		if l, _, _ := h.ledger(there); l.Sent-uint64(peer.Count()) != 1 {
			t.Errorf("%d came, ledger %+v", peer.Count(), l)
		}
	})
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		t.Run("we receive "+string(rpc), func(t *testing.T) {
			t.Parallel()
			var box inbox
			server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			messages := mixture(n)
			for i := 0; i < n; i += 50 {
				if err := stream.Send(messages[i : i+50]...); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.Finish(t); err != nil {
				t.Errorf("ended with %v", err)
			}
			same(t, box.wait(t, n), messages)
		})
	}
}

func received(peer *rig.Peer) (messages []*raft_serverpb.RaftMessage) {
	for _, m := range peer.Messages() {
		messages = append(messages, m.Message)
	}
	return messages
}

// C23: two raftmux stores, each with both halves, talk in both directions.
func TestC23RaftmuxStores(t *testing.T) {
	t.Parallel()
	const n = 400
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	h := newSending(t, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 2 })
	h.resolver.Set(there, server.addr)
	sendAll(t, h.sender(t), mixture(n)...)
	same(t, box.wait(t, n), mixture(n))
	stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Messages == n })
	if l, batches, _ := h.ledger(there); l.Sent != n || stats.Batches != batches || stats.Streams != 2 {
		t.Errorf("ledger %+v, %d batches, stats %+v", l, batches, stats)
	}
}

// C23: every stream says who sends, in decimal, and which version and
// capabilities it has; every batch when it left.
func TestC23Metadata(t *testing.T) {
	t.Parallel()
	for _, legacy := range []bool{false, true} {
		t.Run(fmt.Sprintf("legacy %v", legacy), func(t *testing.T) {
			t.Parallel()
			const id = 12345678901234567890
			peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: legacy})
			h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.StoreID = id })
			s := h.sender(t)
			before := uint64(time.Now().UnixNano())
			for i := 1; i <= 10; i++ {
				rig.Eventually(t, rig.WaitTimeout, func() bool {
					sendAll(t, s, rig.Ack(1, there, 2))
					return peer.Count() >= i
				}, "message %d", i)
			}
			after := uint64(time.Now().UnixNano())
			stream := peer.Streams()[0]
			for key, want := range map[string]string{
				"source_store_id": "12345678901234567890", "raftmux-version": "1", "raftmux-capabilities": "",
			} {
				if got := stream.Metadata.Get(key); len(got) != 1 || got[0] != want {
					t.Errorf("%s is %q, not %q", key, got, want)
				}
			}
			if legacy {
				return // one message at a time: there is no batch to say it of
			}
			for i, b := range peer.Batches() {
				if b.LastObserved < before || b.LastObserved > after {
					t.Errorf("batch %d left at %d, not between %d and %d", i, b.LastObserved, before, after)
				}
			}
		})
	}
}

// C23: a peer that sends without source_store_id is taken, and so are the
// snapshot messages that TiKV puts on the stream for witnesses.
func TestC23AnyPeerIsTaken(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	messages := []*raft_serverpb.RaftMessage{rig.Ack(1, there, 2), rig.Snapshot(2, there, 2, 0), rig.Extra(3, there, 2)}
	for i, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		client := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{NoStoreID: true})
		for j := range 2 { // two streams of nobody don't end each other
			if err := client.Open(t, rpc).Send(messages...); err != nil {
				t.Fatal(err)
			}
			box.wait(t, (2*i+j+1)*len(messages))
		}
	}
	if stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Messages == 12 }); stats.Streams != 4 {
		t.Errorf("stats %+v", stats)
	}
}

// C23: a batch of 10 MiB is taken, and so is one message of more.
func TestC23LargeBatches(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	client := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{})
	var want []*raft_serverpb.RaftMessage
	for region := range uint64(10) {
		want = append(want, rig.Append(region, there, 2, 2, 512<<10))
	}
	if err := client.Open(t, rig.BatchRaft).Send(want...); err != nil {
		t.Fatal(err)
	}
	box.wait(t, len(want))
	large := rig.Append(11, there, 2, 1, 20<<20)
	want = append(want, large)
	if err := client.Open(t, rig.Raft).Send(large); err != nil {
		t.Fatal(err)
	}
	got := box.wait(t, len(want))
	for i, m := range want {
		if !bytes.Equal(got[i].Message.Entries[0].Data, m.Message.Entries[0].Data) || got[i].RegionId != m.RegionId {
			t.Errorf("message %d came otherwise", i)
		}
	}
}

// unknown returns a message with fields that nobody knows, at every level.
func unknown(region uint64) *raft_serverpb.RaftMessage {
	m := rig.Append(region, there, 2, 2, 10)
	field := func(number byte) []byte { return []byte{0xfa, 7, 3, 'u', 'n', number} } // field 127, bytes
	m.XXX_unrecognized = field(1)
	m.FromPeer.XXX_unrecognized = field(2)
	m.ToPeer.XXX_unrecognized = field(3)
	m.RegionEpoch.XXX_unrecognized = field(4)
	m.Message.XXX_unrecognized = append(field(5), 0x80, 1, 9) // 16, a varint: what TiKV's own raft has there
	m.Message.Entries[1].XXX_unrecognized = field(6)
	return m
}

// C23: fields that nobody here knows pass through unchanged, in both directions.
func TestC23UnknownFields(t *testing.T) {
	t.Parallel()
	want, err := unknown(1).Marshal()
	if err != nil || bytes.Count(want, []byte{3, 'u', 'n'}) != 6 {
		t.Fatal("the test's message doesn't say what it should", err)
	}
	check := func(t *testing.T, m *raft_serverpb.RaftMessage) {
		t.Helper()
		if got, err := m.Marshal(); err != nil || !bytes.Equal(got, want) {
			t.Errorf("came as %v, was %v", m, unknown(1))
		}
	}
	t.Run("we send", func(t *testing.T) {
		t.Parallel()
		peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
		h := toPeer(t, peer)
		sendAll(t, h.sender(t), unknown(1))
		peer.WaitMessages(t, 1)
		check(t, peer.Messages()[0].Message)
	})
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		for _, lend := range []bool{false, true} {
			t.Run(fmt.Sprintf("we receive %s, lent %v", rpc, lend), func(t *testing.T) {
				t.Parallel()
				stepped := make(chan struct{})
				server := newReceiving(t, raftmux.ServerOptions{
					LendMessages: lend,
					Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
						check(t, m)
						close(stepped)
						return nil
					}),
				})
				stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
				if err := stream.Send(unknown(1)); err != nil {
					t.Fatal(err)
				}
				if err := stream.Finish(t); err != nil {
					t.Fatal(err)
				}
				<-stepped
			})
		}
	}
}

// C23: a Server bears keepalive pings on a stream where it never writes. gRPC's
// own policy allows one in five minutes and sends GOAWAY at the fourth.
func TestC23KeepalivePings(t *testing.T) {
	if testing.Short() {
		t.Skip("pings have to be a second apart")
	}
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
	if err := pings(t, server.addr); err != nil {
		t.Error(err)
	}
	if err := pings(t, serve(t, grpc.NewServer())); err == nil {
		t.Error("the test's pings pass at a server with gRPC's own policy too")
	}
}

// pings sends five pings, 1.1 s apart, and returns the other end's GOAWAY.
func pings(t *testing.T, address string) error {
	t.Helper()
	conn := rawHTTP2(t, address)
	framer := http2.NewFramer(conn, conn)
	acknowledged := 0
	for n := byte(1); n <= 5; n++ {
		if err := framer.WritePing(false, [8]byte{n}); err != nil {
			return err
		}
		next := time.Now().Add(1100 * time.Millisecond)
		for time.Now().Before(next) {
			_ = conn.SetReadDeadline(next)
			frame, err := framer.ReadFrame()
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				break
			}
			if err != nil {
				return err
			}
			switch f := frame.(type) {
			case *http2.PingFrame:
				if f.IsAck() {
					acknowledged++
				}
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = framer.WriteSettingsAck()
				}
			case *http2.GoAwayFrame:
				return fmt.Errorf("GOAWAY: %s", f.DebugData())
			}
		}
	}
	if acknowledged != 5 {
		return fmt.Errorf("%d of 5 pings were acknowledged", acknowledged)
	}
	return nil
}
