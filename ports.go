package raftmux

import (
	"context"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// SnapshotStatus is how the sending of a snapshot ended.
type SnapshotStatus = report.SnapshotStatus

// The two ends of a snapshot message.
const (
	// SnapshotFinish means that the receiver has the snapshot.
	SnapshotFinish = report.SnapshotFinish
	// SnapshotFailure means that it doesn't, as far as anyone knows.
	SnapshotFailure = report.SnapshotFailure
)

// Router is the host: it is told what went wrong, for whom, and what came back.
//
// Every call runs on the Client's one reporting goroutine, so calls never
// overlap. A call must not block and must not call Client.Close. It returns
// false to say "not now" (a full mailbox, say) and is then asked again within
// some tens of milliseconds, without holding up the reports of others. None
// runs after Client.Close has returned.
//
// Reports are advisory: they may overtake messages that were received before
// them and are still queued in the host.
type Router interface {
	// ReportUnreachable says that messages to the peer were accepted and then
	// dropped. It comes once per clearing, however many messages there were.
	ReportUnreachable(regionID, peerID uint64) bool
	// ReportSnapshotStatus says how an accepted snapshot message ended. Each
	// gets exactly one.
	ReportSnapshotStatus(regionID, peerID uint64, status SnapshotStatus) bool
	// StoreUnreachable says that a stream to the store that carried messages ended,
	// and with it an unknown part of them; every peer on the store is concerned. It
	// also comes when no connection to the store can be made, or the store knows
	// neither BatchRaft nor Raft: once, until the store is up again, and for a store
	// that was never reached, too. The failures of several connections within one
	// backoff step are one call. A failed look-up of the address and the end of an
	// idle stream make no call.
	StoreUnreachable(storeID uint64) bool
	// StoreUp says that the store can be reached, for the first time or again.
	StoreUp(storeID uint64) bool
}

// Resolver finds the address of a store. It is called on goroutines of the
// Client's own, at most one at a time per store. It may take its time, but must
// return when ctx ends, which is after ClientOptions.ConnectTimeout, when the
// Client closes, or when the store is removed: what is queued for the store waits for
// it, and so does Client.Close. A store that was removed and comes back is looked up
// at once, whether or not the call from before has returned.
type Resolver interface {
	// Resolve returns the address of a store as host:port, or an error that
	// wraps ErrTombstone or ErrStoreNotFound, or any other. If stale is not
	// empty, another store answered at that address: look past any cache.
	Resolve(ctx context.Context, storeID uint64, stale string) (address string, err error)
}

// SnapshotSender carries snapshot messages, which don't ride the stream.
type SnapshotSender interface {
	// SendSnapshot sends a snapshot to the store at address and returns nil
	// once the receiver has it. The message is the callee's. It runs on a
	// goroutine of its own, of which there are at most
	// ClientOptions.MaxSnapshots at a time, and must return when ctx ends, for
	// Client.Close waits for it.
	SendSnapshot(ctx context.Context, address string, message *raft_serverpb.RaftMessage) error
}

// SnapshotReceiver takes snapshots that peers send; package snapshot has one.
type SnapshotReceiver interface {
	// ReceiveSnapshot serves one stream of Tikv.Snapshot: it receives messages
	// *raft_serverpb.SnapshotChunk until io.EOF and answers with one
	// *raft_serverpb.Done, or returns the error that the peer gets for it. It must
	// return when the stream's context ends.
	ReceiveSnapshot(stream grpc.ServerStream) error
}

// Envelope is what raftmux has to know of a message to route, bound and report it.
type Envelope struct {
	// RegionID is the Raft group.
	RegionID uint64
	// FromStoreID is the sender's store. It is set on what was received.
	FromStoreID uint64
	// ToStoreID and ToPeerID are the receiver.
	ToStoreID, ToPeerID uint64
	// Type is the Raft message's type if HasMessage is set.
	Type       eraftpb.MessageType
	HasMessage bool
	// Bodiless is set on messages with extra_msg, is_tombstone or merge_target,
	// which TiKV also sends without a Raft message.
	Bodiless bool
	// Witness is set on a snapshot message for a witness, which has no data beside
	// the message. It travels on the stream, with the data, and is reported as
	// finished as soon as it is accepted, as TiKV does.
	Witness bool
}

// EnvelopeOf reads the envelope of one of kvproto's messages. It is for what
// looks at messages on their way, such as package faults. A nil message has none.
func EnvelopeOf(message *raft_serverpb.RaftMessage) Envelope { return envelopeOf(message) }

// Encoder writes one raft_serverpb.RaftMessage. It is for adapters of other
// Raft libraries, such as package etcdraft, that have no RaftMessage to give.
type Encoder interface {
	// Size returns the exact number of bytes that AppendTo appends.
	Size() int
	// AppendTo appends the encoded message to buffer, which has room for it,
	// and returns the longer slice. It keeps no reference to either.
	AppendTo(buffer []byte) []byte
}

// PayloadEncoder is an Encoder of messages whose payloads need not be copied: with
// ClientOptions.ReferToPayloads, a message that has large ones is encoded by
// AppendReferring. The payloads must then never change.
type PayloadEncoder interface {
	Encoder
	// PayloadBytes returns how many bytes all payloads of at least that size have.
	PayloadBytes(atLeast int) int
	// AppendReferring is AppendTo, but adds each payload by payloads.Append, at its
	// place, behind its length. The buffer has room for everything but the large
	// ones. It keeps no reference to anything.
	AppendReferring(buffer []byte, payloads *Payloads) []byte
}

// Payloads is where a PayloadEncoder leaves its payloads. It has no exported
// fields, and one method:
//
//	func (p *Payloads) Append(buffer, payload []byte) []byte
//
// Append adds a payload to a message of which buffer holds what comes before, and
// returns the longer slice: one below ClientOptions.ReferToPayloads is copied, any
// other is referred to, and then buffer is returned as it is. A nil *Payloads copies
// all, so one method can serve as AppendTo, too. In AppendReferring:
//
//	buffer = payloads.Append(binary.AppendUvarint(buffer, uint64(len(data))), data)
type Payloads = queue.Payloads

// Filter decides which messages may pass. It is called by every Sender on its
// own goroutine, must be safe for concurrent use, and must not block.
type Filter interface {
	// Pass returns false to take the message away; Send then returns ErrFiltered.
	Pass(envelope Envelope) bool
}

// Handler takes the messages that a Server receives.
type Handler interface {
	// Step hands one message over. The calls of one stream are in order, one at
	// a time; streams run side by side. An error means that this message was
	// refused (unknown region, full mailbox); it is counted, in
	// ServerStats.Refused, and nothing else suffers. Nobody logs it, so log what isn't
	// to be expected. Step must not block. The message is the host's to keep, unless
	// ServerOptions.LendMessages says otherwise.
	Step(message *raft_serverpb.RaftMessage) error
}

// Receiver turns the wire bytes of one stream into messages and hands them to
// the host. It is for adapters of other Raft libraries, such as package
// etcdraft; hosts that speak kvproto give a Handler instead.
//
// For each batch, Decode is called once per message, in order, and then either
// Deliver or Discard, all on one goroutine at a time. The bytes given to Decode
// stay valid and unchanged until Deliver or Discard has returned, and not longer.
type Receiver interface {
	// Decode parses one RaftMessage and holds it until Deliver. An error drops
	// this message and no other; it counts as filtered if the error wraps
	// ErrFiltered, and as malformed otherwise.
	Decode(message []byte) (Envelope, error)
	// Deliver hands over what was decoded, in order, and says how many messages
	// the host refused.
	Deliver() (refused int)
	// Discard forgets what was decoded.
	Discard()
}

// Keeper is a Receiver whose messages may lie in the memory that they came in,
// which spares a copy of the large ones. Implementing it is optional, also for what
// wraps a Keeper.
type Keeper interface {
	Receiver
	// DecodeGiven is Decode of a message that the Receiver may keep: nobody else
	// reads or writes these bytes, then or later. The Server calls it in place of
	// Decode where it pays, for messages of more than 8 KiB that have one entry
	// or are not very large; what is kept of such a message keeps all its bytes
	// alive, so it is for the Receiver to say whether that is too much.
	DecodeGiven(message []byte) (Envelope, error)
}
