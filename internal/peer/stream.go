package peer

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

	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// kind is one way to carry messages. Its place in kinds is its turn in the
// fall-back chain.
type kind struct {
	name   string
	method string
	bare   bool // one message at a time, without a frame
}

var kinds = [...]kind{
	{name: "BatchRaft", method: wire.BatchRaftMethod},
	{name: "Raft", method: wire.RaftMethod, bare: true},
}

// errFinished means that the peer has read everything and said so.
var errFinished = errors.New("finished")

// generation is one stream, from open to end. One goroutine sends, another
// waits for the end.
type generation struct {
	kind   kind
	stream grpc.ClientStream
	cancel context.CancelFunc
	ended  chan struct{} // closed by the receiving goroutine
	result error         // why it ended, nil for Done; readable once ended is closed

	carried bool // belongs to the sending goroutine

	up, over bool // guarded by Store.mu
	upTimer  *time.Timer
}

// openGeneration opens a stream. The generation ends when its cancel is called,
// the stream breaks, or the peer ends it.
func (c *Connection) openGeneration(client *grpc.ClientConn, kind kind) (*generation, error) {
	o := c.store.options
	number := c.generation.Add(1)
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(c.ctx, metadata.Pairs(
		wire.SourceStoreKey, strconv.FormatUint(o.StoreID, 10),
		wire.VersionKey, wire.Version,
		wire.CapabilitiesKey, "",
		wire.StreamKey, wire.StreamID{
			Incarnation: o.Incarnation,
			Lane:        LaneData,
			Index:       c.index,
			Generation:  number,
		}.String(),
	)))
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{StreamName: kind.name, ClientStreams: true}, kind.method,
		grpc.ForceCodecV2(wire.Codec{}),
		// Without this gRPC keeps what was sent, to replay it on a transport of
		// its own choice.
		grpc.MaxRetryRPCBufferSize(0),
	)
	if err != nil {
		cancel()
		return nil, err
	}
	g := &generation{kind: kind, stream: stream, cancel: cancel, ended: make(chan struct{})}
	c.open.Store(true)
	// A peer that doesn't send its headers counts as up when the stream has
	// stayed open for one backoff step.
	g.upTimer = time.AfterFunc(o.BackoffStep, func() { c.store.cameUp(g) })
	go g.receive(c.store)
	return g, nil
}

// receive waits for the headers and for the end. live waits for it.
func (g *generation) receive(s *Store) {
	defer close(g.ended)
	header, err := g.stream.Header()
	if err == nil && header != nil {
		if got := header.Get(wire.StoreKey); len(got) > 0 && got[0] != strconv.FormatUint(s.id, 10) {
			g.cancel()
			g.result = &wrongStoreError{want: s.id, got: got[0]}
			return
		}
		s.cameUp(g)
	}
	g.result = g.stream.RecvMsg(new(raft_serverpb.Done))
}

// wrongStoreError means that another store answered, and said so at once.
type wrongStoreError struct {
	want uint64
	got  string
}

func (e *wrongStoreError) Error() string {
	return fmt.Sprintf("StoreNotMatch: connected to store %s, not to store %d", e.got, e.want)
}

// send hands a batch over and returns when the stream has room again. After an
// error the stream has ended.
func (g *generation) send(batch queue.Batch) error {
	outgoing := wire.Outgoing{Buffers: batch.Buffers}
	err := g.stream.SendMsg(&outgoing)
	outgoing.Free()
	if err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) {
		g.cancel() // lest the stream lives on, half broken
		<-g.ended
		return err
	}
	<-g.ended // the reason comes this way
	return g.err()
}

func (g *generation) hasEnded() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// err returns why the generation ended, never nil.
func (g *generation) err() error {
	if g.result == nil {
		return fmt.Errorf("the peer ended %s with Done", g.kind.name)
	}
	return g.result
}

func (g *generation) closeSend() {
	_ = g.stream.CloseSend() // always nil; a broken stream shows in result
}

func isUnimplemented(err error) bool {
	return status.Code(err) == codes.Unimplemented
}

// isWrongStore recognises the end of a stream that led to another store: by its
// detail between raftmux stores, by its text from TiKV.
func isWrongStore(err error) bool {
	if other := (*wrongStoreError)(nil); errors.As(err, &other) {
		return true
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	return wire.IsWrongStore(s) || strings.Contains(s.Message(), "StoreNotMatch")
}
