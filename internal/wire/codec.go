package wire

import (
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
		in.receive(data, Poisoning())
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
