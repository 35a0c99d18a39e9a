package wire

import (
	"errors"

	"google.golang.org/grpc/mem"
)

// Incoming receives an encoded message by RecvMsg. It holds references to the
// memory in which the message lies until Release, or until the next RecvMsg
// into it, which releases what it held. It is not for concurrent use.
type Incoming struct {
	// Pool gives the memory for what has to lie in one piece and came in
	// several. Default gRPC's.
	Pool mem.BufferPool

	pieces  mem.BufferSlice // as gRPC has read them; one reference of each is ours
	scratch scratch
	whole   []byte // what Bytes has answered
	poison  bool   // the pieces are wholly ours, and this is a test
}

// Len returns the message's length.
func (in *Incoming) Len() int { return in.pieces.Len() }

// Frames returns a reader of the message as a batch. What it yields is read-only
// and valid until Release or the next RecvMsg, like Bytes, save for bodies that
// are Given, if give allows that: those are the caller's for ever.
func (in *Incoming) Frames(give bool) FrameReader {
	if in.scratch.pool = in.Pool; in.Pool == nil {
		in.scratch.pool = mem.DefaultBufferPool()
	}
	return FrameReader{more: more{
		pieces: in.pieces, length: in.pieces.Len(), scratch: &in.scratch, give: give,
	}}
}

// Bytes returns the message in one piece, which costs a copy if it came in
// several. The bytes are read-only and valid until Release or the next RecvMsg;
// behind that they may at any time become another message's.
func (in *Incoming) Bytes() []byte {
	if in.whole == nil {
		frames := in.Frames(false)
		in.whole = frames.Whole()
	}
	return in.whole
}

// Release gives the memory back. Doing it again does nothing. In tests the
// bytes are overwritten first, so that whoever kept them notices.
func (in *Incoming) Release() {
	if in.poison {
		for _, piece := range in.pieces {
			Poison(piece.ReadOnlyData())
		}
	}
	in.pieces.Free()
	in.scratch.free()
	in.pieces, in.whole, in.poison = nil, nil, false
}

// receive takes references of its own to data.
func (in *Incoming) receive(data mem.BufferSlice, poison bool) {
	in.Release()
	if poison {
		// What is shared with gRPC may not be overwritten.
		in.pieces, in.poison = copyOf(data), true
		return
	}
	data.Ref()
	in.pieces = data
}

// copyOf copies data piece by piece, so that it is cut where data is.
func copyOf(data mem.BufferSlice) mem.BufferSlice {
	pieces := make(mem.BufferSlice, len(data))
	for i, piece := range data {
		pieces[i] = mem.Copy(piece.ReadOnlyData(), mem.DefaultBufferPool())
	}
	return pieces
}

// foreignCodec is what another codec than Codec is made to say of an *Incoming.
// gRPC sends it to the peer before the handler can say anything else.
const foreignCodec = "this grpc.Server was built without raftmux.GRPCServerOptions(); pass them to grpc.NewServer"

// Reset does nothing. With the three methods after it, it makes a message of an
// Incoming for gRPC's own codec, so that its error is Unmarshal's.
func (*Incoming) Reset() {}

// String returns nothing.
func (*Incoming) String() string { return "" }

// ProtoMessage marks a message.
func (*Incoming) ProtoMessage() {}

// Unmarshal fails with what a host has to do about it.
func (*Incoming) Unmarshal([]byte) error { return errors.New(foreignCodec) }
