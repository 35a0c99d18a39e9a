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

	pieces  mem.BufferSlice // as gRPC has read them; of each one reference is ours
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

// keptPieces is how long a list of pieces may be that is used again: 16 MiB's.
const keptPieces = 1024

// Release gives the memory back. Doing it again does nothing. In tests the
// bytes are overwritten first, so that whoever kept them notices.
func (in *Incoming) Release() {
	for i, piece := range in.pieces {
		if in.poison {
			Poison(piece.ReadOnlyData())
		}
		piece.Free()
		in.pieces[i] = nil
	}
	in.scratch.free()
	in.pieces, in.whole, in.poison = in.pieces[:0], nil, false
	if cap(in.pieces) > keptPieces {
		in.pieces = nil
	}
}

// receive takes references of its own to data. What is shared with gRPC may not
// be overwritten: if all is to be poisoned in the end, it takes a copy.
func (in *Incoming) receive(data mem.BufferSlice, poison bool) {
	in.Release()
	if in.poison = poison; poison {
		in.pieces = appendCopy(in.pieces, data)
		return
	}
	data.Ref()
	in.pieces = append(in.pieces, data...)
}

// appendCopy appends copies of data's pieces to pieces. Those that follow each
// other in memory do so as copies, and no others.
func appendCopy(pieces, data mem.BufferSlice) mem.BufferSlice {
	memory := mem.DefaultBufferPool().Get(data.Len() + len(data))
	all := mem.NewBuffer(memory, mem.DefaultBufferPool())
	defer all.Free() // each piece has a reference
	var at int
	var last []byte
	for _, piece := range data {
		next := piece.ReadOnlyData()
		if _, ok := join(last, next); !ok {
			at++
		}
		end := at + copy((*memory)[at:], next)
		pieces = append(pieces, all.Slice(at, end))
		if at = end; len(next) > 0 {
			last = next
		}
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
