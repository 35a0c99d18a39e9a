package raftmux

import (
	"fmt"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/wire"
)

// maxHeld bounds the list of messages that a receiver keeps between batches.
const maxHeld = 1024

// kvReceiver is the Receiver of hosts that speak kvproto.
type kvReceiver struct {
	handler Handler
	decoder *wire.Decoder
	held    []*raft_serverpb.RaftMessage
}

// HandlerReceiver returns what ServerOptions.NewReceiver takes: receivers like
// those that a Server makes for its Handler, where lend is LendMessages. It is
// for what wraps them, such as package faults. Without a handler it is nil, which
// NewServer refuses.
func HandlerReceiver(handler Handler, lend bool) func() Receiver {
	if handler == nil {
		return nil
	}
	return func() Receiver { return newKVReceiver(handler, lend) }
}

func newKVReceiver(handler Handler, lend bool) Receiver {
	r := &kvReceiver{handler: handler, decoder: wire.NewDecoder(wire.DecoderOptions{Lent: lend})}
	if lend {
		return r
	}
	return kvKeeper{r}
}

// Decode implements Receiver.
func (r *kvReceiver) Decode(body []byte) (Envelope, error) { return r.decode(body, false) }

// kvKeeper is a kvReceiver whose messages the host owns.
type kvKeeper struct{ *kvReceiver }

// DecodeGiven implements Keeper.
func (r kvKeeper) DecodeGiven(body []byte) (Envelope, error) { return r.decode(body, true) }

func (r *kvReceiver) decode(body []byte, given bool) (Envelope, error) {
	message, err := r.take(body, given)
	if err != nil {
		return Envelope{}, err
	}
	return envelopeOf(message), nil
}

// decodeTo is Decode, or DecodeGiven, for a Server that has the Receiver itself:
// to build a whole Envelope would cost another fifteenth of a lent heartbeat.
func (r *kvReceiver) decodeTo(body []byte, given bool) (destination, error) {
	message, err := r.take(body, given)
	if err != nil {
		return destination{}, err
	}
	return destination{message.ToPeer.StoreId, message.RegionId}, nil
}

// take decodes a message and holds it. What can't be one between stores is
// refused: without a to_peer, or of a type that must stay local.
func (r *kvReceiver) take(body []byte, given bool) (message *raft_serverpb.RaftMessage, err error) {
	if given {
		message, err = r.decoder.DecodeGiven(body)
	} else {
		message, err = r.decoder.Decode(body)
	}
	if err != nil {
		return nil, err
	}
	switch to, raft := message.ToPeer, message.Message; {
	case to == nil || to.Id == 0:
		return nil, fmt.Errorf("raftmux: message of region %d has no to_peer", message.RegionId)
	case to.StoreId == 0:
		return nil, fmt.Errorf("raftmux: message of region %d: to_peer %d is on store 0", message.RegionId, to.Id)
	case raft != nil && isLocal(raft.MsgType):
		return nil, fmt.Errorf("raftmux: message of region %d: %v must stay local", message.RegionId, raft.MsgType)
	}
	r.held = append(r.held, message)
	return message, nil
}

// Deliver implements Receiver.
func (r *kvReceiver) Deliver() (refused int) {
	for _, message := range r.held {
		if r.handler.Step(message) != nil {
			refused++
		}
	}
	r.Discard()
	return refused
}

// Discard implements Receiver.
func (r *kvReceiver) Discard() {
	if cap(r.held) > maxHeld {
		r.held = nil
	}
	clear(r.held)
	r.held = r.held[:0]
	r.decoder.Reset()
}
