package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/wire"
)

// outgoing is one transfer's stream.
type outgoing struct {
	*transfer
	sender *Sender
	ctx    context.Context
	stream grpc.ClientStream
	data   Data

	sending context.Context // ends when the receiver has ended the stream, too
	answer  chan error      // how it did

	chunksPerSecond rate.Limit

	offset int64  // of what was handed over
	sum    uint32 // CRC32C of the data up to there
	watch  watch
}

// carry is the life of a transfer: open the data, connect, open the stream, send
// the message, agree on where to begin, send the data, wait for Done.
func (s *Sender) carry(ctx context.Context, t *transfer, address string, message *raft_serverpb.RaftMessage) error {
	o := &outgoing{transfer: t, sender: s, ctx: ctx, chunksPerSecond: plainPerSecond}
	stop := o.watch.start(o) // what comes before the data takes its part of the time, too
	defer stop()
	data, err := s.options.Source.OpenSnapshot(ctx, message)
	if err != nil {
		return fmt.Errorf("open the snapshot: %w", err)
	}
	defer func() { _ = data.Close() }()
	size := data.Size()
	if t.size != unknownSize && t.size != size || size < 0 {
		return fmt.Errorf("%w: the message says %d bytes, the data has %d", ErrSize, t.size, size)
	}
	t.total.Store(size)

	client, closeAll, err := s.transport.Dial(ctx, address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	defer closeAll()
	streamCtx, endStream := context.WithCancel(ctx)
	defer endStream()
	stream, err := s.open(streamCtx, endStream, client, wire.SnapshotSizeKey, strconv.FormatInt(size, 10))
	if err != nil {
		return err
	}
	o.stream, o.data = stream, data
	o.listen()
	err = o.run(address, message)
	endStream() // or Header would wait for a stream that failed on our side
	s.learn(stream, address)
	return err
}

// open opens a stream of Snapshot, which cancel ends. It waits for as long as connecting
// may take at most.
func (s *Sender) open(
	ctx context.Context, cancel context.CancelFunc, client *grpc.ClientConn, key, value string,
) (grpc.ClientStream, error) {
	ctx = metadata.AppendToOutgoingContext(ctx,
		wire.SourceStoreKey, strconv.FormatUint(s.options.StoreID, 10), wire.VersionKey, wire.Version, key, value)
	return grpcstream.NewStream(ctx, cancel, s.options.ConnectTimeout, client, wire.SnapshotMethod)
}

// learn remembers whether the receiver can resume, which the headers of a stream
// that is over say. What a receiver says first may come with its Done only, so
// a first transfer doesn't wait for it. A stream that ended without headers has
// neither headers nor an error, and says nothing.
func (s *Sender) learn(stream grpc.ClientStream, address string) {
	if header, err := stream.Header(); err == nil && header != nil {
		s.setResumes(address, len(header.Get(wire.SnapshotOffsetKey)) > 0)
	}
}

// listen notes how the receiver ends the stream, which may be at any time: also
// while the transfer waits for the limiter.
func (o *outgoing) listen() {
	sending, over := context.WithCancel(o.ctx)
	o.sending, o.answer = sending, make(chan error, 1)
	o.watch.running.Go(func() { // ends with the stream
		defer over()
		o.answer <- o.stream.RecvMsg(new(raft_serverpb.Done))
	})
}

func (o *outgoing) run(address string, message *raft_serverpb.RaftMessage) error {
	if err := o.sendMessage(message); err != nil {
		return o.why(err)
	}
	if o.sender.canResume(address) { // a raftmux store
		o.chunksPerSecond = evenPerSecond
		if err := o.resumeAt(o.receiverHas()); err != nil {
			return err
		}
	}
	o.enter(Moving)
	for o.offset < o.total.Load() {
		if err := o.sendChunk(); errors.Is(err, io.EOF) {
			return o.conclude() // the receiver has ended the stream
		} else if err != nil {
			return err
		}
	}
	if err := o.stream.CloseSend(); err != nil {
		return err
	}
	o.enter(Committing)
	return o.conclude()
}

func (o *outgoing) sendMessage(message *raft_serverpb.RaftMessage) error {
	encoded, err := message.Marshal()
	if err != nil {
		return err
	}
	header := wire.AppendSnapshotMessage(make([]byte, 0, wire.MaxSnapshotHeaderSize), len(encoded))
	buffers, lent := lendMessage(encoded, o.taken)
	o.watch.handed.Add(int64(lent))
	o.watch.message.Store(int64(len(encoded)))
	o.touch()
	o.watch.offered.Store(true)
	return o.send(append(mem.BufferSlice{mem.SliceBuffer(header)}, buffers...))
}

func (o *outgoing) send(buffers mem.BufferSlice) error {
	chunk := wire.Outgoing{Buffers: buffers}
	defer chunk.Free()
	return o.stream.SendMsg(&chunk)
}

// sendChunk reads, sums and sends the next chunk. io.EOF means that the stream has
// an end, which conclude tells.
func (o *outgoing) sendChunk() error {
	b := o.sender.blocks.get()
	n := int(min(int64(o.sender.options.Limiter.chunk(o.chunksPerSecond)), o.total.Load()-o.offset))
	if err := o.read(b.bytes[:n], o.offset); err != nil {
		b.release()
		return err
	}
	if err := o.throttle(n); err != nil {
		b.release()
		return err
	}
	sum := crc32.Update(o.sum, castagnoli(), b.bytes[:n])
	header := wire.AppendSnapshotData(make([]byte, 0, wire.MaxSnapshotHeaderSize), n, o.offset, sum)
	o.watch.handed.Add(int64(n))
	buffers := append(mem.BufferSlice{mem.SliceBuffer(header)}, b.lend(n, o.moved)...)
	if err := o.send(buffers); err != nil {
		return err
	}
	o.offset, o.sum = o.offset+int64(n), sum
	return nil
}

// read fills b from the data. Data that ends early is damaged.
func (o *outgoing) read(b []byte, offset int64) error {
	n, err := o.data.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: the data ends at %d of %d bytes", ErrSize, offset+int64(n), o.total.Load())
	}
	return fmt.Errorf("read the snapshot: %w", err)
}

func (o *outgoing) throttle(n int) error {
	o.watch.held.Store(true)
	defer o.watch.held.Store(false)
	waited, err := o.sender.options.Limiter.wait(o.sending, n)
	o.watch.throttled.Add(int64(waited))
	o.touch()
	if err != nil && o.ctx.Err() == nil {
		return io.EOF // as SendMsg would say
	}
	return err
}

// moved is told by gRPC's buffers that bytes of the data are on their way.
func (o *outgoing) moved(n int) {
	o.done.Add(int64(n))
	o.sender.metrics.bytes.Add(float64(n))
	o.taken(n)
}

// taken is told of those of the message, too.
func (o *outgoing) taken(n int) {
	o.watch.freed.Add(int64(n))
	o.touch()
}

// receiverHas asks the headers how much the receiver has. It waits for them no
// longer than for a connection: a peer that doesn't say is sent everything.
func (o *outgoing) receiverHas() wire.SnapshotOffset {
	headers := make(chan metadata.MD, 1)
	o.watch.running.Go(func() { // ends with the stream
		header, err := o.stream.Header()
		if err != nil {
			header = nil
		}
		headers <- header
	})
	timer := time.NewTimer(o.sender.options.ConnectTimeout)
	defer timer.Stop()
	var header metadata.MD
	select {
	case header = <-headers:
	case <-timer.C:
	case <-o.ctx.Done():
	}
	for _, text := range header.Get(wire.SnapshotOffsetKey) {
		if has, err := wire.ParseSnapshotOffset(text); err == nil {
			return has
		}
	}
	return wire.SnapshotOffset{}
}

// maxPrefixTime bounds the summing of what the receiver has: it waits meanwhile.
const maxPrefixTime = 10 * time.Second

// resumeAt goes on behind what the receiver has, if it is the same that we have,
// and at 0 otherwise.
func (o *outgoing) resumeAt(has wire.SnapshotOffset) error {
	if has.Offset <= 0 || has.Offset > o.total.Load() {
		return nil
	}
	b := o.sender.blocks.get()
	defer b.release()
	start, sum := time.Now(), uint32(0)
	for offset := int64(0); offset < has.Offset; {
		if time.Since(start) > maxPrefixTime {
			return nil
		}
		part := b.bytes[:min(chunkSize, has.Offset-offset)]
		if err := o.read(part, offset); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli(), part)
		offset += int64(len(part))
		o.touch()
	}
	if sum == has.Sum {
		o.offset, o.sum = has.Offset, sum
		o.resume(has.Offset)
	}
	return nil
}

// conclude waits for how the receiver ends the stream.
func (o *outgoing) conclude() error {
	err := <-o.answer
	if err == nil {
		o.done.Store(o.total.Load())
		return nil
	}
	return explain(err)
}

// why turns SendMsg's io.EOF into the reason.
func (o *outgoing) why(err error) error {
	if errors.Is(err, io.EOF) {
		return o.conclude()
	}
	return err
}

// explain adds to a receiver's status the reason that it stands for.
func explain(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the receiver ended the stream without an answer")
	}
	st := status.Convert(err)
	switch {
	case st.Code() == codes.ResourceExhausted && strings.Contains(strings.ToLower(st.Message()), "larger than max"):
		return err // gRPC's own, of whatever language: it won't pass later either
	case st.Code() == codes.ResourceExhausted:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case wire.IsWrongStore(st) || strings.Contains(st.Message(), "StoreNotMatch"):
		return fmt.Errorf("%w: %w", ErrWrongStore, err)
	}
	return err
}

// castagnoli is the table of CRC32C.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }
