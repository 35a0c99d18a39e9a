package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/raftmux/raftmux/internal/wire"
)

// errSuperseded is why a transfer ends when the same peer's snapshot comes again.
var errSuperseded = errors.New("a newer stream has come for the same peer")

// incoming is one stream of a Receiver.
type incoming struct {
	receiver *Receiver
	stream   grpc.ServerStream
	ctx      context.Context // ends before the stream does, if it is cancelled
	cancel   context.CancelCauseFunc
	began    time.Time
	// waits is since when the sender is waited for, in nanoseconds since began;
	// negative while it isn't.
	waits atomic.Int64

	memory     wire.Incoming
	verifiable bool   // the sender sends offsets and checksums
	size       int64  // of the data, or unknownSize
	said       uint64 // a hash of the message: what a host says there of the data must fit it

	writer Writer
	offset int64  // how much has been written
	sum    uint32 // CRC32C of that
	sound  bool   // the writer has exactly that, and can go on
	// anew replaces the writer, while all that it has is of an earlier transfer.
	anew func() error
}

// still returns for how long the sender has sent nothing. What the sink takes, or
// the end of an older stream, is not held against it.
func (in *incoming) still() time.Duration {
	now := time.Since(in.began) // first, or a wait that ends just now would seem longer
	since := in.waits.Load()
	if since < 0 {
		return 0
	}
	return now - time.Duration(since)
}

// run is the life of a stream: the message, checks, room, a writer, the data, commit.
func (in *incoming) run() error {
	defer in.memory.Release()
	md, _ := metadata.FromIncomingContext(in.stream.Context())
	if texts := md.Get(wire.SnapshotPrecheckKey); len(texts) > 0 {
		return in.receiver.answerPrecheck(in, texts[0])
	}
	chunk, err := in.next()
	if errors.Is(err, io.EOF) || err == nil && chunk.Message == nil {
		return fmt.Errorf("%w: the first chunk has no message", ErrInvalid)
	}
	if err != nil {
		return err
	}
	if wire.CountParts(chunk.Message, wire.MaxBatchParts) > wire.MaxBatchParts { // or it takes sixty times as much memory
		return fmt.Errorf("%w: the first chunk's message has too many entries", ErrInvalid)
	}
	message := new(raft_serverpb.RaftMessage)
	if err := message.Unmarshal(chunk.Message); err != nil {
		return fmt.Errorf("%w: the first chunk's message: %w", ErrInvalid, err)
	}
	d, err := describe(message)
	if err == nil {
		err = in.announced(md, d)
	}
	if err != nil {
		return err
	}
	if own := in.receiver.options.StoreID; d.toStoreID != own {
		return wire.WrongStore(d.toStoreID, own).Err()
	}
	in.said = maphash.Bytes(in.receiver.seed, chunk.Message)
	return in.admit(d, message, chunk)
}

// announced reads how much is going to come.
func (in *incoming) announced(md metadata.MD, d description) error {
	in.size = d.size
	texts := md.Get(wire.SnapshotSizeKey)
	if len(texts) == 0 {
		return nil
	}
	size, err := strconv.ParseInt(texts[0], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("%w: %s %q is not a size", ErrInvalid, wire.SnapshotSizeKey, texts[0])
	}
	if d.size != unknownSize && d.size != size {
		return fmt.Errorf("%w: the message says %d bytes, %s %d", ErrSize, d.size, wire.SnapshotSizeKey, size)
	}
	in.size, in.verifiable = size, true
	return nil
}

func (in *incoming) admit(d description, message *raft_serverpb.RaftMessage, first wire.SnapshotChunk) (err error) {
	r := in.receiver
	who := recipient{d.regionID, d.peerID}
	if err := r.admission.acquire(who, d.forBalance, time.Now()); err != nil {
		r.metrics.ended(err, 0)
		return err
	}
	defer r.admission.release(who)
	t := newTransfer(d, Receiving, in.cancel)
	t.total.Store(in.size)
	r.transfers.add(t)
	defer r.transfers.remove(t)
	defer func() {
		if cause := context.Cause(in.ctx); err != nil && cause != nil {
			err = cause
		}
		r.metrics.ended(err, time.Since(t.started))
		in.log(t, len(first.Message), err)
	}()

	if err := in.supersede(t); err != nil {
		return err
	}
	if err := in.open(t, message); errors.Is(err, ErrHave) {
		if err := in.answerHeaders(); err != nil { // or the sender would forget that we resume
			return err
		}
		return in.stream.SendMsg(&raft_serverpb.Done{})
	} else if err != nil {
		return fmt.Errorf("the sink refused it: %w", err)
	}
	defer in.end(t)
	if err := in.answerHeaders(); err != nil {
		return err
	}
	if err := in.data(t, first); in.writer == nil && errors.Is(err, ErrHave) {
		return in.stream.SendMsg(&raft_serverpb.Done{}) // it was asked anew
	} else if err != nil {
		return err
	}
	if err := context.Cause(in.ctx); err != nil {
		return err // the sender has been told so, though gRPC had the rest already
	}
	t.enter(Committing)
	w := in.writer
	in.writer = nil
	if err := w.Commit(in.ctx); err != nil {
		return fmt.Errorf("the sink failed to commit it: %w", err)
	}
	return in.stream.SendMsg(&raft_serverpb.Done{})
}

func (in *incoming) log(t *transfer, messageBytes int, err error) {
	attributes := []any{
		"store_id", t.fromStoreID, "region_id", t.regionID, "to_peer_id", t.peerID, "term", t.term, "index", t.index,
		"message_bytes", messageBytes, "bytes", t.done.Load(), "resumed", t.resumed.Load(), "takes", time.Since(t.started),
	}
	if err != nil {
		in.receiver.options.Logger.Warn("receive snapshot failed", append(attributes, "err", err)...)
		return
	}
	in.receiver.options.Logger.Info("snapshot received", attributes...)
}

// supersede ends an older stream for the same peer, and waits for that: its
// sender has come again, and goes on where it was. It never ends one that is
// about a newer snapshot, or that has all its data.
func (in *incoming) supersede(t *transfer) error {
	for {
		old := in.receiver.transfers.find(func(o *transfer) bool {
			return o.sequence < t.sequence && o.regionID == t.regionID && o.peerID == t.peerID
		})
		switch {
		case old == nil:
			return nil
		case old.newer(t.key):
			return fmt.Errorf("%w: term %d, index %d, sent in term %d", errNewer, old.term, old.index, old.messageTerm)
		case !old.is(Committing):
			old.cancel(errSuperseded)
		}
		select {
		case <-old.ended:
		case <-in.ctx.Done():
			return context.Cause(in.ctx)
		}
	}
}

// errNewer is why a snapshot is refused while a newer one is on its way.
var errNewer = errors.New("a newer snapshot for the same peer is under way")

// open takes over what is left of an earlier transfer, or begins anew.
func (in *incoming) open(t *transfer, message *raft_serverpb.RaftMessage) error {
	kept := in.receiver.partials.take(t.key, in.size, in.said)
	if kept != nil && in.verifiable {
		in.writer, in.offset, in.sum, in.sound = kept.writer, kept.offset, kept.sum, true
		in.anew = func() error { return in.create(message) }
		t.resume(kept.offset)
		return nil
	}
	if kept != nil {
		in.receiver.partials.drop(kept)
	}
	return in.create(message)
}

func (in *incoming) create(message *raft_serverpb.RaftMessage) error {
	w, err := in.receiver.options.Sink.CreateSnapshot(in.ctx, message)
	if err != nil {
		return err
	}
	in.writer, in.offset, in.sum, in.sound = w, 0, 0, true
	return nil
}

func (in *incoming) answerHeaders() error {
	if !in.verifiable {
		return nil
	}
	return in.sendHeader(wire.SnapshotOffsetKey, wire.SnapshotOffset{Offset: in.offset, Sum: in.sum}.String())
}

func (in *incoming) sendHeader(key, value string) error {
	return in.stream.SendHeader(metadata.Pairs(
		wire.VersionKey, wire.Version, wire.StoreKey, strconv.FormatUint(in.receiver.options.StoreID, 10), key, value))
}

// data takes chunks until the sender has said that there are no more, and checks
// that they are all.
func (in *incoming) data(t *transfer, chunk wire.SnapshotChunk) (err error) {
	t.enter(Moving)
	for first := true; ; first = false {
		if !first || len(chunk.Data) > 0 {
			if err := in.take(t, chunk, first); err != nil {
				return err
			}
		}
		chunk, err = in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if in.size != unknownSize && in.offset != in.size {
		in.sound = false
		return fmt.Errorf("%w: the sender ended after %d of %d bytes", ErrSize, in.offset, in.size)
	}
	return nil
}

// take verifies a chunk and writes it.
func (in *incoming) take(t *transfer, chunk wire.SnapshotChunk, first bool) error {
	n := int64(len(chunk.Data))
	switch {
	case !first && chunk.Message != nil:
		return fmt.Errorf("%w: a chunk at byte %d has a second message", ErrInvalid, in.offset)
	case n == 0:
		return fmt.Errorf("%w: a chunk at byte %d is empty", ErrInvalid, in.offset)
	case in.verifiable && !chunk.Verifiable:
		return fmt.Errorf("%w: a chunk at byte %d has no checksum", ErrInvalid, in.offset)
	}
	if in.verifiable {
		if err := in.verify(t, chunk); err != nil {
			return err
		}
	}
	if in.size != unknownSize && n > in.size-in.offset {
		in.sound = false
		return fmt.Errorf("%w: a chunk of %d bytes at byte %d of %d", ErrSize, n, in.offset, in.size)
	}
	in.sound = false
	if _, err := in.writer.Write(chunk.Data); err != nil {
		return fmt.Errorf("the sink failed at byte %d: %w", in.offset, err)
	}
	in.sound = true
	in.offset, in.sum = in.offset+n, chunk.Sum
	in.anew = nil
	t.done.Add(n)
	in.receiver.metrics.bytes.Add(float64(n))
	return nil
}

// verify checks where a chunk belongs, and the sum of all data up to its end: so
// each chunk's sum holds what came before to account, too, and the last one all.
func (in *incoming) verify(t *transfer, chunk wire.SnapshotChunk) error {
	if chunk.Offset == 0 && in.offset > 0 && in.anew != nil {
		// The sender doesn't have what we have.
		old := in.writer
		in.writer = nil
		if err := errors.Join(old.Discard(), in.anew()); err != nil {
			return fmt.Errorf("the sink refused it: %w", err)
		}
		t.resume(0)
	}
	if chunk.Offset != in.offset {
		return fmt.Errorf("%w: a chunk for byte %d came at byte %d", ErrInvalid, chunk.Offset, in.offset)
	}
	if sum := crc32.Update(in.sum, castagnoli(), chunk.Data); sum != chunk.Sum {
		return fmt.Errorf("%w: the %d bytes from %d on have %08x, must have %08x", ErrChecksum, len(chunk.Data), in.offset, sum, chunk.Sum)
	}
	return nil
}

// end keeps or discards what was not committed.
func (in *incoming) end(t *transfer) {
	if in.writer == nil {
		return
	}
	p := &partial{key: t.key, writer: in.writer, offset: in.offset, sum: in.sum, size: in.size, said: in.said}
	if !in.sound || !in.verifiable || in.offset == 0 || errors.Is(context.Cause(in.ctx), ErrClosed) {
		in.receiver.partials.drop(p)
		return
	}
	in.receiver.partials.park(p, &t.unwanted)
}

// next receives and parses a chunk, which is valid until the next call.
func (in *incoming) next() (wire.SnapshotChunk, error) {
	in.waits.Store(int64(time.Since(in.began)))
	err := in.stream.RecvMsg(&in.memory)
	in.waits.Store(-1)
	if err != nil {
		return wire.SnapshotChunk{}, err
	}
	chunk, err := wire.ParseSnapshotChunk(in.memory.Bytes())
	if err != nil {
		return wire.SnapshotChunk{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return chunk, nil
}
