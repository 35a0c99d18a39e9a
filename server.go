package raftmux

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/wire"
)

// maxReceiveSize bounds what a Server takes at once: room for the largest
// message of a TiKV whose max-grpc-send-msg-len was raised from its 10 MiB.
const maxReceiveSize = 128 << 20

// maxBatchMessages bounds the messages of a batch, of any sender's: one of two bytes takes
// half a KiB once it is decoded, and a batch is decoded whole before any is handed over.
const maxBatchMessages = 1 << 20

// maxSendSize bounds what a Client may be asked to send at once: a message that no
// Server takes would break the stream that others use.
const maxSendSize = maxReceiveSize - 1<<20

// readBufferSize is what is read at once, twice gRPC's default. gRPC has the buffer
// from a pool while something comes in, but with TLS each connection keeps one.
const readBufferSize = 64 << 10

// GRPCServerOptions returns what a grpc.Server needs to carry a Server: the
// codec, windows and a size limit for batches, and patience with the keepalive
// pings of peers on streams that the server never writes to. Other services on
// the same grpc.Server work as they do without it.
//
// Over TLS gRPC keeps the read buffer of each connection, 64 KiB by these options. A
// store with many peers has less memory in use, at the same speed, if it appends
// grpc.ReadBufferSize(16 << 10).
//
// The grpc.Server allocates the memory for full frames by the MiB. It keeps up to 8 MiB,
// if so much was once in use at the same time; the rest is the garbage collector's.
func GRPCServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.MaxRecvMsgSize(maxReceiveSize),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.ReadBufferSize(readBufferSize),
		// gRPC's own pool clears what it hands out for each frame, which is then
		// read over, and scatters the frames of a batch.
		experimental.BufferPool(new(wire.FramePool)),
		// Both windows, or the connection's stays at 64 KiB.
		grpc.InitialWindowSize(DefaultWindowSize),
		grpc.InitialConnWindowSize(DefaultWindowSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:    DefaultKeepaliveTime,
			Timeout: DefaultKeepaliveTimeout,
		}),
		// TiKV pings every 10 s on a stream where nothing comes back, which
		// gRPC's default takes for an attack.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			MinTime:             time.Second,
			PermitWithoutStream: true,
		}),
	}
}

// Server is a store's receiving half: the service tikvpb.Tikv with BatchRaft,
// Raft, and Snapshot if it has a SnapshotReceiver. Its other methods answer
// UNIMPLEMENTED. It is safe for concurrent use.
//
// Each stream has two goroutines: gRPC's, and one that reads and hands over.
type Server struct {
	options ServerOptions
	metrics *serverMetrics
	memory  wire.Pool // of messages that came in pieces
	closing chan struct{}
	idle    chan struct{} // closed once the Server is, and nothing is running

	breaches minutely // lines in the log about peers that break the protocol
	misbuilt minutely // lines in the log about the grpc.Server
	twins    minutely // and about Clients that are the same store

	mu        sync.Mutex
	closed    bool
	receiving int                   // goroutines that have a snapshot
	reading   map[*inbound]struct{} // whose goroutines hand over
	streams   int
	living    map[senderKey]*inbound // streams of raftmux stores
	ended     map[senderKey]ending   // the last ones of connections that have none
	turns     map[senderKey]*turn    // of connections with streams that may hand over
}

// NewServer returns a Server, or an *OptionError that names a field.
func NewServer(options ServerOptions) (*Server, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	if handler := options.Handler; handler != nil {
		options.NewReceiver = HandlerReceiver(handler, options.LendMessages)
	}
	s := &Server{
		options: options,
		metrics: newServerMetrics(),
		closing: make(chan struct{}),
		idle:    make(chan struct{}),
		reading: make(map[*inbound]struct{}),
		living:  make(map[senderKey]*inbound),
		ended:   make(map[senderKey]ending),
		turns:   make(map[senderKey]*turn),
	}
	if options.Registerer != nil {
		if err := s.metrics.register(options.Registerer); err != nil {
			return nil, &OptionError{Field: "Registerer", Problem: registererProblem(err, "Server")}
		}
	}
	return s, nil
}

// Register adds the service to a grpc.Server that was built with
// GRPCServerOptions. Streams to one that was not end at their first message,
// with an error that says so, or, if that is larger than the 4 MiB that gRPC
// takes by itself, with gRPC's error. Either is a line in the log, once a minute at
// most.
func (s *Server) Register(registrar grpc.ServiceRegistrar) {
	streams := []grpc.StreamDesc{
		{StreamName: "BatchRaft", ClientStreams: true, Handler: s.handle(false)},
		{StreamName: "Raft", ClientStreams: true, Handler: s.handle(true)},
	}
	if s.options.SnapshotReceiver != nil {
		streams = append(streams, grpc.StreamDesc{StreamName: "Snapshot", ClientStreams: true, Handler: s.handleSnapshot})
	}
	registrar.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.ServiceName,
		HandlerType: (*any)(nil),
		Metadata:    "tikvpb.proto",
		Streams:     streams,
	}, s)
}

// ErrServerClosed means that Server.Close ran out of time: a Handler, Receiver or
// SnapshotReceiver has not returned, and may still be running. It is a failure, not
// the normal end of a Server as http.ErrServerClosed is; that is nil.
var ErrServerClosed = errors.New("raftmux: server close: a handler has not returned")

// Close ends all streams and waits for their goroutines until ctx ends; then it
// returns an error that wraps ErrServerClosed and ctx's, because a Handler has not
// returned. A ctx without a deadline is given ServerOptions.CloseTimeout, as
// Client.Close gives it 10 seconds. Nothing is handed over after it has returned
// nil. It may be called again, and then waits again.
//
// Call it before grpc.Server.GracefulStop, which would wait for streams that
// never end by themselves.
func (s *Server) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, s.options.CloseTimeout)
		defer cancel()
		ctx = limited
	}
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
		s.settle()
		s.metrics.unregister(s.options.Registerer)
	}
	s.mu.Unlock()
	select {
	case <-s.idle: // looked at first: a ctx that has ended is no failure then
		return nil
	default:
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w%s: %w", ErrServerClosed, s.unfinished(), ctx.Err())
	}
}

// ran notes the end of a goroutine that handed over.
func (s *Server) ran(in *inbound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reading, in)
	if in.known {
		if in.turn.streams--; in.turn.streams == 0 {
			delete(s.turns, in.key)
		}
	}
	s.settle()
}

// received is ran for a snapshot.
func (s *Server) received() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receiving--
	s.settle()
}

// unfinished says what still runs, for people.
func (s *Server) unfinished() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var running []string
	for in := range s.reading {
		if whose := "of " + in.whose(); !slices.Contains(running, whose) {
			running = append(running, whose)
		}
	}
	slices.Sort(running)
	if s.receiving > 0 {
		running = append(running, fmt.Sprintf("of %d snapshots", s.receiving))
	}
	if len(running) == 0 { // it has ended just now
		return ""
	}
	return " (" + strings.Join(running, ", ") + ")"
}

// settle sees whether the end has come. None begins any more once the Server is
// closed, so it comes once. The caller holds s.mu.
func (s *Server) settle() {
	if s.closed && len(s.reading) == 0 && s.receiving == 0 {
		close(s.idle)
	}
}

// handle returns the gRPC handler of BatchRaft, or of Raft if bare is set.
func (s *Server) handle(bare bool) grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		in, err := s.admit(stream, bare)
		if err != nil {
			return err
		}
		defer s.dismiss(in)
		select {
		case <-in.done:
			return in.result
		case <-in.superseded:
			return in.supersededStatus()
		case <-s.closing:
			return grpcstream.ShuttingDown()
		}
	}
}

// handleSnapshot is the gRPC handler of Snapshot. The receiver has a goroutine
// of its own: when the Server closes, the handler's return is what ends the
// stream.
func (s *Server) handleSnapshot(_ any, stream grpc.ServerStream) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return grpcstream.ShuttingDown()
	}
	s.receiving++
	s.mu.Unlock()
	received := make(chan error, 1)
	go func() {
		defer s.received()
		received <- s.options.SnapshotReceiver.ReceiveSnapshot(stream)
	}()
	select {
	case err := <-received:
		return err
	case <-s.closing:
		return grpcstream.ShuttingDown()
	}
}
