package etcdraft

import (
	"fmt"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
)

// Handler takes the messages that a Server receives.
type Handler interface {
	// Step hands one message over. The calls of one stream are in order, one at
	// a time; streams run side by side, so the calls are concurrent. It must
	// not block. An error means that this message was refused (unknown region,
	// full mailbox); it is counted and nothing else suffers. Nobody logs it, so
	// log what isn't to be expected.
	//
	// The message is the host's to keep and has passed Check. Its To is
	// header.To.ID: the host must know that peer as its own before it steps the
	// message, for a node that is told of itself as of another one panics.
	//
	// raftmux sends no MsgSnap by a stream, but for witnesses; others may. It has no
	// data beside it, so a host whose snapshots are not in their messages must refuse
	// it here, and give Deliver a Handler of its own.
	Step(header Header, message *raftpb.Message) error
}

// NewReceiver returns what raftmux.ServerOptions.NewReceiver takes: receivers,
// one for each stream, that hand their messages to handler. They are Keepers, and
// what wraps one should be, too: without DecodeGiven large messages are copied once
// more. Without a handler it is nil, which raftmux.NewServer refuses.
func NewReceiver(handler Handler) func() raftmux.Receiver {
	if handler == nil {
		return nil
	}
	return func() raftmux.Receiver { return &receiver{handler: handler} }
}

// Deliver hands handler a message that came by another way than a stream: that of a
// snapshot, as a snapshot.Sink has it. It is decoded and checked as all others are, and
// may be used by the caller again. The error says why it was refused, or is handler's.
func Deliver(handler Handler, message *raft_serverpb.RaftMessage) error {
	data, err := message.Marshal()
	if err != nil {
		return fmt.Errorf("etcdraft: %w", err)
	}
	var header Header
	decoded, _, err := new(decoder).decode(data, &header)
	if err != nil {
		return err
	}
	return handler.Step(header, decoded)
}

// maxKeptMessages bounds the list that a receiver keeps between batches.
const maxKeptMessages = 1024

// receiver implements raftmux.Keeper.
type receiver struct {
	handler  Handler
	decoder  decoder
	received []received
}

type received struct {
	header  Header
	message *raftpb.Message
}

// Decode implements raftmux.Receiver.
func (r *receiver) Decode(data []byte) (raftmux.Envelope, error) {
	n := len(r.received)
	r.received = append(r.received, received{})
	to := &r.received[n]
	message, envelope, err := r.decoder.decode(data, &to.header)
	if err != nil {
		*to, r.received = received{}, r.received[:n]
		return envelope, err
	}
	to.message = message
	return envelope, nil
}

// DecodeGiven implements raftmux.Keeper.
func (r *receiver) DecodeGiven(data []byte) (raftmux.Envelope, error) {
	r.decoder.given = true
	defer func() { r.decoder.given = false }()
	return r.Decode(data)
}

// Deliver implements raftmux.Receiver.
func (r *receiver) Deliver() (refused int) {
	for i := range r.received {
		if r.handler.Step(r.received[i].header, r.received[i].message) != nil {
			refused++
		}
	}
	r.Discard()
	return refused
}

// Discard implements raftmux.Receiver.
func (r *receiver) Discard() {
	if cap(r.received) > maxKeptMessages {
		r.received = nil
		return
	}
	clear(r.received)
	r.received = r.received[:0]
}
