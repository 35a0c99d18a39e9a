package snapshot_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
	"github.com/raftmux/raftmux/snapshot"
)

// madeStream is a stream without a network, for what a network does too rarely. It
// brings one chunk and the end.
type madeStream struct {
	grpc.ServerStream
	ctx    context.Context
	chunk  []byte
	header error // what SendHeader fails with
}

func (s *madeStream) Context() context.Context     { return s.ctx }
func (s *madeStream) SendHeader(metadata.MD) error { return s.header }
func (s *madeStream) SendMsg(any) error            { return nil }

func (s *madeStream) RecvMsg(m any) error {
	if s.chunk == nil {
		return io.EOF
	}
	chunk := mem.SliceBuffer(s.chunk)
	s.chunk = nil
	return wire.Codec{}.Unmarshal(mem.BufferSlice{chunk}, m)
}

// firstChunk returns the chunk that m travels in.
func firstChunk(t testing.TB, m *raft_serverpb.RaftMessage) []byte {
	t.Helper()
	encoded, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(wire.AppendSnapshotMessage(nil, len(encoded)), encoded...)
}

// However many streams come for a peer at the same moment, no two snapshots of it
// are written at a time.
func TestOneWriterForEachPeer(t *testing.T) {
	t.Parallel()
	into := &sink{create: func(context.Context) error {
		for range 100 { // the others come meanwhile
			runtime.Gosched()
		}
		return nil
	}}
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: into})
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	chunk := firstChunk(t, message(7, -1))
	for range 3000 {
		var streams sync.WaitGroup
		start := make(chan struct{})
		streams.Go(func() {
			<-start
			for range 100 { // and have to wait for one another
				receiver.Transfers()
			}
		})
		for range 4 {
			streams.Go(func() {
				<-start
				// Those that another one supersedes fail.
				_ = receiver.ReceiveSnapshot(&madeStream{ctx: context.Background(), chunk: chunk})
			})
		}
		close(start)
		streams.Wait()
		if into.most != 1 {
			t.Fatalf("%d were written at a time", into.most)
		}
	}
}

// A stream that takes over what is kept, and breaks before anything has come by it,
// leaves that for the next one.
func TestBrokenTakeoverKeeps(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	s := newStore(t)
	proxy := rig.NewProxy(t, s.address)
	want := random(1, size)
	sender := newSender(t, memory{7: want})
	s.breakOff(t, sender, proxy, message(7, size), 3<<20+50_000)
	have := s.kept(t)

	broken := &madeStream{
		ctx: metadata.NewIncomingContext(context.Background(), metadata.Pairs(
			wire.VersionKey, wire.Version, wire.SnapshotSizeKey, strconv.Itoa(size))),
		chunk:  firstChunk(t, message(7, size)),
		header: errors.New("the sender is gone"),
	}
	if err := s.ReceiveSnapshot(broken); err == nil {
		t.Error("it succeeded")
	}
	if left := s.kept(t); left != have {
		t.Errorf("%d of %d bytes are kept", left, have)
	}
	s.expectRest(t, sender, proxy, want, have)
}

// What a sender knows of a receiver isn't forgotten over a snapshot that the
// receiver has already.
func TestHaveItAndResumes(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	s := newStore(t)
	proxy := rig.NewProxy(t, s.address)
	want := random(7, size)
	sender := newSender(t, memory{7: want, 8: random(8, 10)})
	s.breakOff(t, sender, proxy, message(7, size), 3<<20+50_000)
	have := s.kept(t)
	for range 2 {
		if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(8, 10)); err != nil {
			t.Fatal(err)
		}
	}
	s.expectRest(t, sender, proxy, want, have)
}
