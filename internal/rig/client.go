package rig

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// RaftClientOptions make a client other than a plain TiKV of store 1.
type RaftClientOptions struct {
	StoreID     uint64            // for source_store_id; 0 is 1
	NoStoreID   bool              // leave source_store_id out
	Metadata    map[string]string // sent with every stream besides
	Ping        bool              // keepalive pings each 10 s, as TiKV sends them
	DialOptions []grpc.DialOption // say last, so credentials of the test's own prevail
}

// RaftClient is the sending half of a store that is not ours: kvproto's
// generated client with gRPC's own codec.
type RaftClient struct {
	conn    *grpc.ClientConn
	client  tikvpb.TikvClient
	options RaftClientOptions
	streams []*RaftStream // of the test's goroutine alone
}

// NewRaftClient returns a client to address. It closes with the test.
func NewRaftClient(t testing.TB, address string, options RaftClientOptions) *RaftClient {
	t.Helper()
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
	}
	if options.Ping {
		dial = append(dial, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true,
		}))
	}
	if options.StoreID == 0 {
		options.StoreID = 1
	}
	conn, err := grpc.NewClient("passthrough:///"+address, append(dial, options.DialOptions...)...)
	if err != nil {
		t.Fatalf("raft client: %v", err)
	}
	c := &RaftClient{conn: conn, client: tikvpb.NewTikvClient(conn), options: options}
	t.Cleanup(c.Close)
	return c
}

// Conn returns the connection, for RPCs that the client doesn't wrap.
func (c *RaftClient) Conn() *grpc.ClientConn { return c.conn }

// Close ends all streams and the connection, and waits. It may be called again.
func (c *RaftClient) Close() {
	for _, s := range c.streams {
		s.Cancel()
	}
	_ = c.conn.Close()
	for _, s := range c.streams {
		<-s.done
	}
}

// Open opens a stream. It returns at once: that the other end has no such RPC,
// or isn't there, is the stream's status.
func (c *RaftClient) Open(t testing.TB, rpc RPC) *RaftStream {
	t.Helper()
	md := metadata.New(c.options.Metadata)
	if !c.options.NoStoreID {
		md.Set("source_store_id", strconv.FormatUint(c.options.StoreID, 10))
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), md))
	s := &RaftStream{cancel: cancel, done: make(chan struct{})}
	var err error
	if rpc == BatchRaft {
		s.batches, err = c.client.BatchRaft(ctx)
		s.stream = s.batches
	} else {
		s.messages, err = c.client.Raft(ctx)
		s.stream = s.messages
	}
	if err != nil {
		cancel()
		s.err = err
		close(s.done)
		return s
	}
	c.streams = append(c.streams, s)
	go func() {
		defer close(s.done)
		s.err = s.stream.RecvMsg(new(raft_serverpb.Done))
	}()
	return s
}

// RaftStream is one stream of a client.
type RaftStream struct {
	stream   grpc.ClientStream
	batches  tikvpb.Tikv_BatchRaftClient // one of
	messages tikvpb.Tikv_RaftClient      // these is set
	cancel   context.CancelFunc
	done     chan struct{} // closed when the status is there
	err      error         // the status, once done is closed
}

// Send sends messages: as one batch on BatchRaft, one by one on Raft. It
// answers io.EOF when the stream has ended; see Status.
func (s *RaftStream) Send(messages ...*raft_serverpb.RaftMessage) error {
	if s.batches != nil {
		return s.SendBatch(&tikvpb.BatchRaftMessage{Msgs: messages})
	}
	if s.messages == nil {
		return s.err
	}
	for _, m := range messages {
		if err := s.messages.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// SendBatch sends a batch, with whatever is in it, on a BatchRaft stream.
func (s *RaftStream) SendBatch(batch *tikvpb.BatchRaftMessage) error {
	if s.batches == nil {
		return s.err
	}
	return s.batches.Send(batch)
}

// Header waits for the other end's headers.
func (s *RaftStream) Header(t testing.TB) metadata.MD {
	t.Helper()
	var md metadata.MD
	var err error
	got := make(chan struct{})
	go func() {
		defer close(got)
		md, err = s.stream.Header()
	}()
	timer := time.NewTimer(WaitTimeout)
	defer timer.Stop()
	select {
	case <-got:
	case <-timer.C:
		s.Cancel()
		<-got
		t.Fatalf("no headers within %v", WaitTimeout)
	}
	if err != nil {
		t.Fatalf("headers: %v", err)
	}
	return md
}

// Ended reports whether the stream's status is there.
func (s *RaftStream) Ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Status waits until the other end has ended the stream, and returns its
// status: nil for Done and OK.
func (s *RaftStream) Status(t testing.TB) error {
	t.Helper()
	timer := time.NewTimer(WaitTimeout)
	defer timer.Stop()
	select {
	case <-s.done:
		return s.err
	case <-timer.C:
		t.Fatalf("the stream's status didn't come within %v", WaitTimeout)
		return nil
	}
}

// Finish says that no more comes, and waits for the status.
func (s *RaftStream) Finish(t testing.TB) error {
	t.Helper()
	if s.stream != nil {
		_ = s.stream.CloseSend()
	}
	return s.Status(t)
}

// Cancel ends the stream from this side.
func (s *RaftStream) Cancel() { s.cancel() }
