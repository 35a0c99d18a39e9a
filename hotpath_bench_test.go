package raftmux

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// perFlush is how many messages one round of a worker sends in the benchmarks.
const perFlush = 128

// StubTransport is for the benchmark of package etcdraft's Sender, which can't be in
// this package.
type StubTransport = stubTransport

// BenchmarkSendFlush is what a worker and the connection's goroutine spend on a
// message, down to a stream that takes everything at once.
func BenchmarkSendFlush(b *testing.B) {
	for _, shape := range shapes() {
		b.Run(shape.name, func(b *testing.B) { sendFlush(b, shape.message, 0) })
	}
	large := shapes()[3]
	b.Run(large.name+"/referring", func(b *testing.B) { sendFlush(b, large.message, minReferToPayloads) })
}

func sendFlush(b *testing.B, message *raft_serverpb.RaftMessage, referTo int) {
	client, err := NewClient(ClientOptions{
		StoreID: 1, Resolver: nowhere{}, Router: deaf{}, QueueMessages: 1 << 20,
		Transport: stubTransport{}, ReferToPayloads: referTo,
	})
	if err != nil {
		b.Fatal(err)
	}
	sender := client.NewSender()
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		for i := 0; i < perFlush && sent < b.N; i++ {
			if err := sender.Send(message); err != nil {
				sender.Flush() // full: the connection is behind
				continue
			}
			sent++
		}
		sender.Flush()
	}
	sender.Close()
	if err := client.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRefused is what Send and Flush spend on a message that finds no room, or
// whose store is paused: what one store costs the workers that serve others.
func BenchmarkRefused(b *testing.B) {
	for _, reason := range []error{ErrFull, ErrPaused} {
		for _, shape := range shapes()[1:3] {
			b.Run(ReasonLabel(reason)+"/"+shape.name, func(b *testing.B) { refused(b, shape.message, reason) })
		}
	}
}

func refused(b *testing.B, message *raft_serverpb.RaftMessage, reason error) {
	client, err := NewClient(ClientOptions{StoreID: 1, Resolver: never{}, Router: deaf{}, QueueMessages: 16, MaxMessageAge: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	if reason == ErrPaused {
		client.SetAllowlist([]uint64{99})
	}
	sender := client.NewSender()
	for range 16 {
		_ = sender.Send(message)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := sender.Send(message); !errors.Is(err, reason) {
			b.Fatal(err)
		}
		if i%perFlush == 0 {
			sender.Flush()
		}
	}
	b.StopTimer()
	sender.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = client.Close(ctx) // what waits is dropped
}

// BenchmarkReceive is what a Server spends on a message from the batch's bytes
// to the host.
func BenchmarkReceive(b *testing.B) {
	for _, shape := range shapes() {
		batch := &tikvpb.BatchRaftMessage{}
		for range min(perFlush, 480<<10/shape.message.Size()) {
			batch.Msgs = append(batch.Msgs, shape.message)
		}
		data, err := batch.Marshal()
		if err != nil {
			b.Fatal(err)
		}
		for _, mode := range []struct {
			name string
			lend bool
			size int
		}{
			{"lent", true, len(data)},
			{"owned", false, len(data)},
			{"lent/pieces", true, gRPCPiece},
			{"owned/pieces", false, gRPCPiece},
		} {
			b.Run(shape.name+"/"+mode.name, func(b *testing.B) { receive(b, inPieces(data, mode.size), len(batch.Msgs), mode.lend) })
		}
	}
}

// gRPCPiece is the size of the pieces that gRPC reads a batch in: HTTP/2's frames.
const gRPCPiece = 16 << 10

// inPieces cuts data as gRPC does, which has put 5 bytes of its own in front.
func inPieces(data []byte, size int) (pieces mem.BufferSlice) {
	first := size - 5
	if size >= len(data) {
		first = len(data)
	}
	pieces = append(pieces, mem.SliceBuffer(data[:first]))
	for data = data[first:]; len(data) > 0; data = data[min(size, len(data)):] {
		pieces = append(pieces, mem.SliceBuffer(data[:min(size, len(data))]))
	}
	return pieces
}

func receive(b *testing.B, pieces mem.BufferSlice, messages int, lend bool) {
	server, err := NewServer(ServerOptions{StoreID: 2, Handler: deaf{}, LendMessages: lend})
	if err != nil {
		b.Fatal(err)
	}
	in := &inbound{server: server, turn: newTurn()}
	in.use(server.options.NewReceiver())
	incoming := wire.Incoming{Pool: &server.memory}
	b.ReportAllocs()
	for done := 0; done < b.N; done += messages {
		if err := (wire.Codec{}).Unmarshal(pieces, &incoming); err != nil {
			b.Fatal(err)
		}
		if err := in.take(&incoming); err != nil {
			b.Fatal(err)
		}
		incoming.Release()
	}
}

type shape struct {
	name    string
	message *raft_serverpb.RaftMessage
}

func shapes() []shape {
	message := func(t eraftpb.MessageType, payload int) *raft_serverpb.RaftMessage {
		m := &raft_serverpb.RaftMessage{
			RegionId:    1234,
			FromPeer:    &metapb.Peer{Id: 11, StoreId: 1},
			ToPeer:      &metapb.Peer{Id: 12, StoreId: 2},
			RegionEpoch: &metapb.RegionEpoch{ConfVer: 3, Version: 7},
			Message:     &eraftpb.Message{MsgType: t, From: 11, To: 12, Term: 6, Commit: 100_000},
		}
		if payload > 0 {
			m.Message.LogTerm, m.Message.Index = 6, 100_001
			m.Message.Entries = []*eraftpb.Entry{{Term: 6, Index: 100_002, Data: make([]byte, payload)}}
		}
		return m
	}
	return []shape{
		{"heartbeat", message(eraftpb.MessageType_MsgHeartbeat, 0)},
		{"append128B", message(eraftpb.MessageType_MsgAppend, 128)},
		{"append1KiB", message(eraftpb.MessageType_MsgAppend, 1<<10)},
		{"append16KiB", message(eraftpb.MessageType_MsgAppend, 16<<10)},
		{"append256KiB", message(eraftpb.MessageType_MsgAppend, 256<<10)},
	}
}

// nowhere resolves every store to the same address.
type nowhere struct{}

func (nowhere) Resolve(context.Context, uint64, string) (string, error) { return "nowhere", nil }

// never doesn't answer.
type never struct{}

func (never) Resolve(ctx context.Context, _ uint64, _ string) (string, error) {
	<-ctx.Done()
	return "", ctx.Err()
}

// deaf is a host that takes everything and keeps nothing.
type deaf struct{}

func (deaf) ReportUnreachable(uint64, uint64) bool                    { return true }
func (deaf) ReportSnapshotStatus(uint64, uint64, SnapshotStatus) bool { return true }
func (deaf) StoreUnreachable(uint64) bool                             { return true }
func (deaf) StoreUp(uint64) bool                                      { return true }
func (deaf) Step(*raft_serverpb.RaftMessage) error                    { return nil }

// stubTransport has a link, which has a stream, that takes everything at once.
type stubTransport struct{}

func (stubTransport) Connect(context.Context, string) (peer.Link, error) { return stubTransport{}, nil }

func (stubTransport) Close() {}

func (stubTransport) Open(ctx context.Context, _ peer.Kind, _ wire.StreamID) (peer.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	return &stubStream{ctx: ctx, cancel: cancel}, nil
}

type stubStream struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func (s *stubStream) Send(batch queue.Batch) error {
	batch.Buffers.Free()
	return nil
}

func (s *stubStream) CloseSend() { s.cancel() }

func (s *stubStream) Wait(answered func(uint64)) error {
	answered(0)
	<-s.ctx.Done()
	return nil
}
