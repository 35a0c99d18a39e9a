package rig

import (
	"errors"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// PeerOptions make a peer other than a plain TiKV, which the zero value is: it
// serves both streams, sends headers only with its answer, and takes messages
// of any size and any number of pings.
type PeerOptions struct {
	NoBatchRaft bool // answer UNIMPLEMENTED to BatchRaft, as old stores do
	NoRaft      bool // the same for Raft
	HeadersNow  bool // send headers as soon as a stream is open
	NeverRead   bool // start paused; see Pause

	// StoreID, unless 0, is the store that messages must be for. The first one
	// that isn't ends its stream as TiKV would.
	StoreID    uint64
	WrongStore bool // end every stream so at its first message

	EndAfter int   // end a stream after so many batches, or, on Raft, messages
	EndWith  error // the status of EndAfter; nil is Done and OK

	KeepMessages bool // keep all messages, not only their counts

	// OnBatch and OnMessage are called on the goroutine of the stream before
	// anything is recorded; OnBatch is for BatchRaft alone. Only one of them
	// runs at a time for each stream.
	OnBatch   func(*tikvpb.BatchRaftMessage)
	OnMessage func(*raft_serverpb.RaftMessage)

	// The rest is read when the server starts, so by NewPeer and Restart.

	MaxRecv       int  // the largest batch taken, in bytes; 0 is any
	StrictPings   bool // gRPC's own policy: GOAWAY to pings more often than each 5 min
	ServerOptions []grpc.ServerOption
}

// Peer is a store that is not ours: kvproto's generated server on a plain gRPC
// server with gRPC's own codec.
type Peer struct {
	tikvpb.UnimplementedTikvServer // everything but the message streams

	record *record

	mu       sync.Mutex
	options  PeerOptions
	address  string
	server   *grpc.Server // nil when stopped
	conns    int          // TCP connections, ever
	resumed  chan struct{}
	paused   bool
	end      chan struct{} // closed by EndStreams, then replaced
	endWith  error         // of the end that was closed last
	serving  sync.WaitGroup
	handlers sync.WaitGroup
}

// NewPeer starts a peer on a port of its own. It stops with the test.
func NewPeer(t testing.TB, options PeerOptions) *Peer {
	t.Helper()
	p := &Peer{
		record:  newRecord(),
		options: options,
		address: "127.0.0.1:0",
		resumed: make(chan struct{}),
		paused:  options.NeverRead,
		end:     make(chan struct{}),
	}
	p.Restart(t)
	t.Cleanup(p.Stop)
	return p
}

// Addr returns the peer's address, which stays the same.
func (p *Peer) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// Configure changes the options, for the streams to come; see PeerOptions for
// those that wait for a Restart.
func (p *Peer) Configure(change func(*PeerOptions)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.options)
}

// Conns returns how many TCP connections were ever taken.
func (p *Peer) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

// Pause stops reading, on all streams, at most one message later: the peer is
// alive, and takes nothing.
func (p *Peer) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = true
}

// Resume ends Pause and NeverRead.
func (p *Peer) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	close(p.resumed)
	p.resumed = make(chan struct{})
}

// EndStreams ends all open streams with the status of err, or with Done and OK
// when err is nil.
func (p *Peer) EndStreams(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endWith = err
	close(p.end)
	p.end = make(chan struct{})
}

// Stop closes the listener and all connections, and waits for the streams. A
// peer that is stopped can be restarted.
func (p *Peer) Stop() {
	p.mu.Lock()
	server := p.server
	p.server = nil
	p.mu.Unlock()
	if server != nil {
		server.Stop()
	}
	p.serving.Wait()
	p.handlers.Wait()
}

// Restart stops the peer if it runs, and starts it on the same address.
func (p *Peer) Restart(t testing.TB) {
	t.Helper()
	p.Stop()
	listener := listen(t, p.Addr())

	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = listener.Addr().String()
	p.server = grpc.NewServer(p.options.server()...)
	tikvpb.RegisterTikvServer(p.server, p)
	server := p.server
	p.serving.Go(func() { _ = server.Serve(countingListener{listener, p}) })
}

// WaitMessages waits until n messages have come.
func (p *Peer) WaitMessages(t testing.TB, n int) {
	t.Helper()
	deadline := time.Now().Add(WaitTimeout)
	for p.Count() < n {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %d messages at the peer, of %d", WaitTimeout, p.Count(), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// WaitOpened waits until the RPC was called n times, ever.
func (p *Peer) WaitOpened(t testing.TB, rpc RPC, n int) {
	t.Helper()
	Eventually(t, WaitTimeout, func() bool { return p.Opened(rpc) >= n }, "%d calls of %s", n, rpc)
}

// WaitOpen waits until exactly n streams of the RPC are open.
func (p *Peer) WaitOpen(t testing.TB, rpc RPC, n int) {
	t.Helper()
	Eventually(t, WaitTimeout, func() bool { return p.OpenStreams(rpc) == n }, "%d open streams of %s", n, rpc)
}

func (o *PeerOptions) server() []grpc.ServerOption {
	limit := math.MaxInt32
	if o.MaxRecv > 0 {
		limit = o.MaxRecv
	}
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(limit), grpc.WaitForHandlers(true)}
	if !o.StrictPings {
		options = append(options, grpc.KeepaliveEnforcementPolicy(
			keepalive.EnforcementPolicy{MinTime: time.Millisecond, PermitWithoutStream: true}))
	}
	return append(options, o.ServerOptions...)
}

// BatchRaft implements [tikvpb.TikvServer].
func (p *Peer) BatchRaft(stream tikvpb.Tikv_BatchRaftServer) error {
	return p.serve(BatchRaft, stream, func(o *PeerOptions) (*tikvpb.BatchRaftMessage, int, error) {
		batch, err := stream.Recv()
		if err != nil {
			return nil, 0, err
		}
		if o.OnBatch != nil {
			o.OnBatch(batch)
		}
		return batch, batch.Size(), nil
	})
}

// Raft implements [tikvpb.TikvServer].
func (p *Peer) Raft(stream tikvpb.Tikv_RaftServer) error {
	return p.serve(Raft, stream, func(*PeerOptions) (*tikvpb.BatchRaftMessage, int, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, 0, err
		}
		return &tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{m}}, m.Size(), nil
	})
}

// serve is the life of a stream. It reads on a goroutine of its own, so that
// the stream can be ended while a read waits; gRPC ends that read when serve returns.
func (p *Peer) serve(
	rpc RPC, stream grpc.ServerStream, next func(*PeerOptions) (*tikvpb.BatchRaftMessage, int, error),
) error {
	p.mu.Lock()
	options, end := p.options, p.end
	p.mu.Unlock()
	if rpc == BatchRaft && options.NoBatchRaft || rpc == Raft && options.NoRaft {
		p.record.refused(rpc)
		return status.Errorf(codes.Unimplemented, "method %s not implemented", rpc)
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	remote := ""
	if from, ok := grpcpeer.FromContext(stream.Context()); ok {
		remote = from.Addr.String()
	}
	if options.HeadersNow {
		if err := stream.SendHeader(nil); err != nil {
			return err
		}
	}
	info := p.record.opened(rpc, md.Copy(), remote)
	defer p.record.ended(info)

	stop := make(chan struct{})
	defer close(stop)
	result := make(chan error, 1)
	p.handlers.Go(func() {
		result <- p.read(stream, &options, info, stop, func() (*tikvpb.BatchRaftMessage, int, error) {
			return next(&options)
		})
	})
	var err error
	select {
	case err = <-result:
	case <-end:
		p.mu.Lock()
		err = p.endWith
		p.mu.Unlock()
	case <-stream.Context().Done():
		err = stream.Context().Err()
	}
	if err != nil {
		return err
	}
	return stream.SendMsg(&raft_serverpb.Done{})
}

// read takes batches until the stream is to end, and returns with what status.
func (p *Peer) read(
	stream grpc.ServerStream, o *PeerOptions, info *StreamInfo, stop <-chan struct{},
	next func() (*tikvpb.BatchRaftMessage, int, error),
) error {
	for n := 1; ; n++ {
		if !p.mayRead(stream, stop) {
			return stream.Context().Err()
		}
		batch, size, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		taken, wrong := o.take(batch.GetMsgs())
		p.record.batch(info, batch, size, taken, o.KeepMessages)
		if wrong != nil {
			return wrong
		}
		if n == o.EndAfter {
			return o.EndWith
		}
	}
}

// take returns how many of the messages precede the first for another store,
// and, if there is one, the status with which TiKV ends the stream then.
func (o *PeerOptions) take(messages []*raft_serverpb.RaftMessage) (int, error) {
	for i, m := range messages {
		to := m.GetToPeer().GetStoreId()
		if o.WrongStore || o.StoreID != 0 && to != o.StoreID {
			mine := o.StoreID
			if mine == to {
				mine++
			}
			return i, StoreNotMatch(to, mine)
		}
		if o.OnMessage != nil {
			o.OnMessage(m)
		}
	}
	return len(messages), nil
}

// StoreNotMatch is the status with which TiKV answers messages for another store.
func StoreNotMatch(to, mine uint64) error {
	return status.Errorf(codes.Unknown, "StoreNotMatch { to_store_id: %d, my_store_id: %d }", to, mine)
}

// mayRead waits while the peer is paused, and reports false when the stream
// ended first.
func (p *Peer) mayRead(stream grpc.ServerStream, stop <-chan struct{}) bool {
	for {
		p.mu.Lock()
		paused, resumed := p.paused, p.resumed
		p.mu.Unlock()
		if !paused {
			return true
		}
		select {
		case <-resumed:
		case <-stop:
			return false
		case <-stream.Context().Done():
			return false
		}
	}
}

// countingListener counts a peer's connections.
type countingListener struct {
	net.Listener
	peer *Peer
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.peer.mu.Lock()
		l.peer.conns++
		l.peer.mu.Unlock()
	}
	return conn, err
}

// listen listens on an address that may have been in use a moment ago.
func listen(t testing.TB, address string) (listener net.Listener) {
	t.Helper()
	Eventually(t, WaitTimeout, func() bool {
		var err error
		listener, err = net.Listen("tcp", address)
		return err == nil
	}, "listening on %s", address)
	return listener
}
