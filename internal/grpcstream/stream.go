package grpcstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// NewStream opens a stream of a client-streaming method, for messages of wire.Codec. It
// waits for timeout at most: a peer may allow no stream for now. cancel ends ctx, and is
// still to be called; if it was called here, that is the error.
func NewStream(
	ctx context.Context, cancel context.CancelFunc, timeout time.Duration, client *grpc.ClientConn, method string,
) (grpc.ClientStream, error) {
	late := time.AfterFunc(timeout, cancel)
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method,
		grpc.ForceCodecV2(wire.Codec{}),
		// Without this gRPC keeps what was sent, to replay it on a transport of
		// its own choice.
		grpc.MaxRetryRPCBufferSize(0),
	)
	if !late.Stop() {
		return nil, fmt.Errorf("no stream within %v", timeout)
	}
	return stream, err
}

// Open implements peer.Link.
func (l *link) Open(ctx context.Context, kind peer.Kind, id wire.StreamID) (peer.Stream, error) {
	method := wire.BatchRaftMethod
	if kind == peer.Raft {
		method = wire.RaftMethod
	}
	md := metadata.Pairs(
		wire.SourceStoreKey, strconv.FormatUint(l.transport.options.StoreID, 10),
		wire.VersionKey, wire.Version,
		wire.CapabilitiesKey, "",
		wire.StreamKey, id.String(),
	)
	if mutant.Active == mutant.C23 { // who sends is left out
		md.Delete(wire.SourceStoreKey)
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, md))
	inner, err := NewStream(ctx, cancel, l.transport.options.ConnectTimeout, l.client, method)
	if err != nil {
		cancel()
		return nil, explain(err)
	}
	return &stream{link: l, inner: inner, cancel: cancel}, nil
}

// stream implements peer.Stream.
type stream struct {
	link   *link
	inner  grpc.ClientStream
	cancel context.CancelFunc

	outgoing wire.Outgoing // belongs to Send
}

// Send implements peer.Stream.
func (s *stream) Send(batch queue.Batch) error {
	s.outgoing.Buffers = batch.Buffers
	err := s.inner.SendMsg(&s.outgoing)
	s.outgoing.Free()
	if err != nil && !errors.Is(err, io.EOF) {
		// gRPC may have left the stream half broken. Otherwise it has ended, and
		// must not be cancelled: its status is on the way to Wait.
		s.cancel()
	}
	return err
}

// CloseSend implements peer.Stream.
func (s *stream) CloseSend() {
	_ = s.inner.CloseSend() // always nil; a broken stream shows in Wait
}

// Wait implements peer.Stream.
func (s *stream) Wait(answered func(storeID uint64)) error {
	defer s.cancel()
	// A stream that ended without headers has neither headers nor an error here.
	if header, err := s.inner.Header(); err == nil && header != nil {
		answered(storeIn(header))
	}
	err := s.inner.RecvMsg(new(raft_serverpb.Done))
	if err != nil && strings.Contains(err.Error(), tooManyPings) {
		s.link.transport.pace.slowDown(s.link.address, s.link.transport.options.KeepaliveTime)
	}
	return explain(err)
}

func storeIn(header metadata.MD) uint64 {
	values := header.Get(wire.StoreKey)
	if len(values) == 0 {
		return 0
	}
	storeID, err := strconv.ParseUint(values[0], 10, 64)
	if err != nil {
		return 0
	}
	return storeID
}

// explain tells the ends apart that mean more than that the stream broke.
// Another store is recognised by the detail of raftmux's answer, and by the text
// of TiKV's; one that stops by the text of raftmux's.
func explain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	switch {
	case !ok:
		return err
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("%w: %w", peer.ErrUnimplemented, err)
	case wire.IsWrongStore(s), strings.Contains(s.Message(), "StoreNotMatch"):
		return fmt.Errorf("%w: %w", peer.ErrWrongStore, err)
	case s.Code() == codes.Unavailable && s.Message() == shuttingDown:
		return fmt.Errorf("%w: %w", peer.ErrShuttingDown, err)
	}
	return err
}

const shuttingDown = "raftmux: the store is shutting down"

// ShuttingDown is the answer of a store that stops, as its peers know it.
func ShuttingDown() error { return status.Error(codes.Unavailable, shuttingDown) }
