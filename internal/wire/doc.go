// Package wire holds the bytes of raftmux: how a batch of Raft messages is
// framed, how gRPC is given bytes that are already encoded, and how a received
// message becomes kvproto's Go types in one pass.
//
// Nothing here does I/O, starts a goroutine or keeps package-level state.
// Four parts, usable apart from each other:
//
//   - frames (frame.go): on the wire a tikvpb.BatchRaftMessage is its messages
//     one after another, each behind a tag and a length, then one number. So a
//     batch is built by concatenation and taken apart by slicing.
//   - the codec (codec.go): a gRPC codec that hands [Outgoing] bytes to gRPC
//     and received bytes to [Incoming] as they are, and treats every other
//     message exactly as gRPC's own codec does. A batch comes in pieces of 16
//     KiB, across which its frames are read (pieces.go).
//   - the decoder (decode.go): raft_serverpb.RaftMessage bodies into kvproto's
//     types, either owned by the receiver or lent until the next Reset. An
//     owned message may lie in a body that was given away (given.go).
//   - the encoder (encode.go) of usual messages, on functions that measure
//     fields and write them at indices (put.go), which package etcdraft uses too.
//
// # What is exact
//
// [Decoder.Decode] accepts, refuses and yields precisely what kvproto's
// generated RaftMessage.Unmarshal does. Its fast path takes only what it fully
// understands; everything else, good or bad, is handed to the generated code,
// which thereby remains the only judge of what is malformed.
package wire
