package wire

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // gRPC's own codec, for foreign messages
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// codecName goes on the wire as the content subtype. It has to be gRPC's
// default: a TiKV, or any generated peer, knows no other.
const codecName = "proto"

// Codec is a gRPC codec that moves bytes that are already encoded: it marshals
// *Outgoing and unmarshals *Incoming without touching a byte. Every other
// message it treats exactly as the codec does that gRPC would have used without
// it, so it can be forced on a whole server (grpc.ForceServerCodecV2), next to
// other services. It is meant to be forced, never to be registered.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Name returns "proto".
func (Codec) Name() string { return codecName }

// Outgoing is an encoded message for SendMsg.
//
// Marshalling moves Buffers out of it: one reference of each buffer then
// belongs to gRPC, which frees it when the bytes are written or the stream is
// gone, and Buffers is nil. SendMsg can fail before it marshals; then Buffers
// is as it was and still the caller's, so call Free whenever SendMsg has
// returned. gRPC keeps the slice itself too: set Buffers to a new one each time.
type Outgoing struct {
	Buffers mem.BufferSlice
}

// Free frees the buffers that no SendMsg has taken. It may be called at any
// time and any number of times.
func (o *Outgoing) Free() {
	o.Buffers.Free()
	o.Buffers = nil
}

// Incoming receives an encoded message by RecvMsg. It holds a reference to the
// memory in which the message lies until Release, or until the next RecvMsg
// into it, which releases what it held. It is not for concurrent use.
type Incoming struct {
	// Pool gives the memory for messages that come in several pieces. Default
	// gRPC's.
	Pool mem.BufferPool

	buf    mem.Buffer
	poison bool // buf is wholly ours, and this is a test
}

// Bytes returns the message. The bytes are read-only and valid until Release
// or the next RecvMsg; behind that they may at any time become another
// message's.
func (in *Incoming) Bytes() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf.ReadOnlyData()
}

// Release gives the memory back. Doing it again does nothing. In tests the
// bytes are overwritten first, so that whoever kept them notices.
func (in *Incoming) Release() {
	if in.buf == nil {
		return
	}
	if in.poison {
		Poison(in.buf.ReadOnlyData())
	}
	in.buf.Free()
	in.buf, in.poison = nil, false
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

// receive takes a reference of its own to data, made contiguous.
func (in *Incoming) receive(data mem.BufferSlice) {
	in.Release()
	pool := in.Pool
	if pool == nil {
		pool = mem.DefaultBufferPool()
	}
	switch {
	case len(data) != 1:
		// Copied, into memory that nobody else knows.
		in.buf, in.poison = data.MaterializeToBuffer(pool), Poisoning()
	case Poisoning():
		// A single buffer is shared with gRPC and may not be overwritten.
		in.buf, in.poison = mem.Copy(data[0].ReadOnlyData(), pool), true
	default:
		in.buf = data.MaterializeToBuffer(pool)
	}
}

// Marshal implements encoding.CodecV2.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if o, ok := v.(*Outgoing); ok {
		b := o.Buffers
		o.Buffers = nil
		return b, nil
	}
	if c := encoding.GetCodec(codecName); c != nil {
		b, err := c.Marshal(v)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return encoding.GetCodecV2(codecName).Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(*Incoming); ok {
		in.receive(data)
		return nil
	}
	// gRPC's order: a codec of the old interface goes first, if the host
	// registered one in place of the default.
	if c := encoding.GetCodec(codecName); c != nil {
		return c.Unmarshal(data.Materialize(), v)
	}
	return encoding.GetCodecV2(codecName).Unmarshal(data, v)
}

// IsForeignCodecError tells that RecvMsg into an *Incoming, or SendMsg of an
// *Outgoing, failed because another codec than Codec was asked to do it: the
// grpc.Server was built without grpc.ForceServerCodecV2(wire.Codec{}), or the
// stream was opened without the matching call option. It can't succeed when
// tried again.
func IsForeignCodecError(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Internal {
		return false
	}
	// A codec can say no more than which Go type it was given, and says it.
	text := st.Message()
	return strings.Contains(text, foreignCodec) ||
		strings.Contains(text, fmt.Sprintf("%T", (*Incoming)(nil))) ||
		strings.Contains(text, fmt.Sprintf("%T", (*Outgoing)(nil)))
}
