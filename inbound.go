package raftmux

import (
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/wire"
)

// senderKey names one connection of one store, over all its lives.
type senderKey struct {
	storeID uint64
	lane    string
	index   int
}

// inbound is one received stream.
type inbound struct {
	server   *Server
	stream   grpc.ServerStream
	bare     bool
	receiver Receiver
	keeper   Keeper      // the receiver, if it is one
	own      *kvReceiver // the receiver, if it is raftmux's own

	source string // the store id that the sender names, "" if none: for the log

	twin  bool // a newer life of the same store has this connection
	known bool // key and id are set: the sender is a raftmux store
	key   senderKey
	id    wire.StreamID

	done       chan struct{} // closed when nothing more is handed over
	result     error         // the stream's answer; readable once done is closed
	superseded chan struct{} // closed by the newer stream, once

	// turn is held while a batch is handed over. All streams of a connection share
	// it; over is set before a newer one waits for it.
	turn *turn
	over atomic.Bool

	// The rest belongs to the reading goroutine.
	highWater bool          // the host was above its high-water mark when the batch came
	glance    *wire.Decoder // for a look at messages above the mark; nil below
	crowded   bool          // the batch may have more than wire.MaxBatchParts
	parts     int           // how many the rest of the batch may have
}

// admit takes a stream in and starts to read it. A stream of a raftmux store
// ends the older one of the same connection first, and waits until that hands
// nothing over any more.
func (s *Server) admit(stream grpc.ServerStream, bare bool) (*inbound, error) {
	in := &inbound{
		server:     s,
		stream:     stream,
		bare:       bare,
		done:       make(chan struct{}),
		superseded: make(chan struct{}),
	}
	in.use(s.options.NewReceiver())
	if err := in.identify(); err != nil {
		return nil, err
	}
	if err := in.takeOver(); err != nil {
		return nil, err
	}
	if err := in.await(); err != nil {
		s.ran(in)
		s.dismiss(in)
		return nil, err
	}
	// Headers at once: by them a raftmux store knows that the peer is up.
	err := stream.SendHeader(metadata.Pairs(
		wire.VersionKey, wire.Version,
		wire.CapabilitiesKey, "",
		wire.StoreKey, strconv.FormatUint(s.options.StoreID, 10),
	))
	go in.read(err)
	return in, nil
}

// use sets the receiver, and knows it for one of raftmux's own.
func (in *inbound) use(receiver Receiver) {
	in.receiver = receiver
	in.keeper, _ = receiver.(Keeper)
	switch r := receiver.(type) {
	case *kvReceiver:
		in.own = r
	case kvKeeper:
		in.own = r.kvReceiver
	}
}

// maxSource is more than a store id's digits. The rest wouldn't be one, and would be logged.
const maxSource = 32

// identify reads who sends. Other peers than raftmux stores needn't say so.
func (in *inbound) identify() error {
	md, _ := metadata.FromIncomingContext(in.stream.Context())
	if source := md.Get(wire.SourceStoreKey); len(source) > 0 {
		in.source = source[0][:min(len(source[0]), maxSource)]
	}
	text := md.Get(wire.StreamKey)
	if len(text) == 0 {
		return nil
	}
	id, err := wire.ParseStreamID(text[0])
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "raftmux: metadata %s: %v", wire.StreamKey, err)
	}
	if in.source == "" {
		return status.Errorf(codes.InvalidArgument, "raftmux: metadata %s is missing", wire.SourceStoreKey)
	}
	storeID, err := strconv.ParseUint(in.source, 10, 64)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "raftmux: metadata %s: %v", wire.SourceStoreKey, err)
	}
	in.known, in.id = true, id
	in.key = senderKey{storeID: storeID, lane: id.Lane, index: id.Index}
	return nil
}

// takeOver lists the stream, and ends the older one of the same connection.
func (in *inbound) takeOver() error {
	older, err := in.server.enter(in)
	if err != nil || older == nil {
		if in.twin { // which may be over soon, or go on for ever: nobody else sees both
			in.say(&in.server.twins, slog.LevelWarn,
				"a store's stream is refused, for a newer life of that store has one; is another Client that store, too?", err)
		}
		return err
	}
	older.over.Store(true)
	close(older.superseded)
	return nil
}

// await waits until no older stream hands anything over any more, which takes as
// long as the host does. Whoever has gone meanwhile, or has sent a newer stream,
// isn't kept, or each of its streams would stay for that long, with all that its window let in.
func (in *inbound) await() error {
	select {
	case in.turn.taken <- struct{}{}:
		<-in.turn.taken
		return nil
	case <-in.stream.Context().Done():
		return status.FromContextError(in.stream.Context().Err()).Err()
	case <-in.superseded:
		return in.supersededStatus()
	case <-in.server.closing:
		return grpcstream.ShuttingDown()
	}
}

// read hands batch after batch over until the stream ends, unless it could not
// even begin. Once gRPC's handler has returned, RecvMsg fails.
func (in *inbound) read(begun error) {
	defer in.server.ran(in)
	defer close(in.done)
	if begun != nil {
		in.result = begun
		return
	}
	incoming := wire.Incoming{Pool: &in.server.memory}
	defer incoming.Release()
	for {
		if err := in.stream.RecvMsg(&incoming); err != nil {
			in.result = in.ended(err)
			return
		}
		err := in.take(&incoming)
		incoming.Release()
		if err != nil {
			if status.Code(err) == codes.InvalidArgument {
				in.say(&in.server.breaches, slog.LevelWarn, "a malformed batch ends the stream", err)
			}
			in.result = err
			return
		}
	}
}

// ended turns the end of RecvMsg into the stream's answer.
func (in *inbound) ended(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return in.stream.SendMsg(new(raft_serverpb.Done))
	case wire.IsForeignCodecError(err):
		in.say(&in.server.misbuilt, slog.LevelError, "this grpc.Server was built without raftmux.GRPCServerOptions", err)
	case status.Code(err) == codes.ResourceExhausted && !strings.Contains(err.Error(), strconv.Itoa(maxReceiveSize)):
		// gRPC looks at the size before the codec sees the batch, and has answered.
		in.say(&in.server.misbuilt, slog.LevelError,
			"this grpc.Server was built without raftmux.GRPCServerOptions, or with a lower size limit after them", err)
	case status.Code(err) == codes.ResourceExhausted:
		in.say(&in.server.breaches, slog.LevelWarn, "a message that is larger than a Server takes ends the stream", err)
	}
	return err
}

// take decodes one batch and hands it over, all of it or, if one message is for
// another store, nothing. The batch stays the caller's.
func (in *inbound) take(batch *wire.Incoming) error {
	in.turn.taken <- struct{}{}
	defer func() { <-in.turn.taken }()
	if in.over.Load() {
		return status.Error(codes.Aborted, "raftmux: the stream is over")
	}
	in.look()
	decoded, err := in.decode(batch)
	if err != nil {
		if mutant.Active == mutant.C16 { // what came before it is handed over
			in.receiver.Deliver()
		}
		in.receiver.Discard()
		return err
	}
	refused := in.receiver.Deliver()
	m := in.server.metrics
	m.batches.add(1)
	m.bytes.add(batch.Len())
	m.delivered.add(decoded - refused)
	m.refused.add(refused)
	return nil
}

func (in *inbound) decode(batch *wire.Incoming) (decoded int, err error) {
	in.parts = wire.MaxBatchParts
	in.crowded = batch.Len() > wire.PartSize*wire.MaxBatchParts
	// Above the mark nothing is given away: what is refused would cost memory.
	frames := batch.Frames(in.keeper != nil && !in.highWater)
	if in.bare {
		return in.decodeOne(frames.Whole(), frames.Given())
	}
	messages := 0
	for body, ok := frames.Next(); ok; body, ok = frames.Next() {
		if messages++; messages > maxBatchMessages {
			return 0, status.Errorf(codes.InvalidArgument, "raftmux: a batch of more than %d messages", maxBatchMessages)
		}
		n, err := in.decodeOne(body, frames.Given())
		if err != nil {
			return 0, err
		}
		decoded += n
	}
	if err := frames.Err(); err != nil {
		return 0, status.Errorf(codes.InvalidArgument, "raftmux: %v", err)
	}
	return decoded, nil
}

// fits says whether a message's entries are among those that a batch may have.
func (in *inbound) fits(body []byte) bool {
	parts := wire.CountParts(body, in.parts)
	if parts > in.parts {
		return false
	}
	in.parts -= parts
	return true
}

// decodeOne decodes a message. One that is malformed, or that a fault filter has
// taken, costs only itself. The body is the receiver's if it is given.
func (in *inbound) decodeOne(body []byte, given bool) (decoded int, err error) {
	s := in.server
	if in.crowded && !in.fits(body) {
		s.metrics.malformed.add(1)
		s.options.Logger.Debug("message dropped, for the batch has too many entries",
			"source_store_id", in.source, "bytes", len(body), "limit", wire.MaxBatchParts)
		return 0, nil
	}
	if in.highWater && in.isAppend(body) {
		s.metrics.overloaded.add(1)
		return 0, nil
	}
	to, err := in.decodeTo(body, given)
	if err != nil {
		if errors.Is(err, ErrFiltered) {
			s.metrics.filtered.add(1)
			return 0, nil
		}
		s.metrics.malformed.add(1)
		s.options.Logger.Debug("malformed message dropped", "source_store_id", in.source, "err", err)
		if mutant.Active == mutant.C20 { // it ends the stream
			return 0, status.Error(codes.InvalidArgument, err.Error())
		}
		return 0, nil
	}
	if to.storeID != s.options.StoreID {
		s.metrics.wrongStore.add(1)
		s.options.Logger.Warn("message for another store ends the stream",
			"own_store_id", s.options.StoreID, "to_store_id", to.storeID,
			"region_id", to.regionID, "source_store_id", in.source)
		return 0, wire.WrongStore(to.storeID, s.options.StoreID).Err()
	}
	return 1, nil
}

// destination is what of a message's Envelope matters here.
type destination struct{ storeID, regionID uint64 }

// decodeTo has the receiver decode a message and says for whom it is.
func (in *inbound) decodeTo(body []byte, given bool) (destination, error) {
	if in.own != nil {
		return in.own.decodeTo(body, given)
	}
	decode := in.receiver.Decode
	if given {
		decode = in.keeper.DecodeGiven
	}
	envelope, err := decode(body)
	return destination{envelope.ToStoreID, envelope.RegionID}, err
}

// look asks whether the host has room for the appends of the next batch.
func (in *inbound) look() {
	highWater := in.server.options.HighWater
	in.highWater = highWater != nil && highWater()
	switch {
	case !in.highWater:
		in.glance = nil // and its memory
	case in.glance == nil:
		in.glance = wire.NewDecoder(wire.DecoderOptions{Lent: true})
	}
}

// isAppend says whether a message is an append for this store, and if so tells
// the host that it is refused.
func (in *inbound) isAppend(body []byte) bool {
	defer in.glance.Reset()
	message, err := in.glance.Decode(body)
	if err != nil {
		return false
	}
	envelope := envelopeOf(message)
	if envelope.Type != eraftpb.MessageType_MsgAppend || envelope.ToStoreID != in.server.options.StoreID {
		return false
	}
	if refused := in.server.options.AppendRefused; refused != nil && mutant.Active != mutant.C21 {
		refused(envelope)
	}
	return true
}
