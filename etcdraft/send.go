package etcdraft

import (
	"slices"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/wire"
)

// Peer is one replica of a region.
type Peer struct {
	// ID is the peer's id, which Raft knows it by.
	ID uint64
	// StoreID is the store that the peer is on.
	StoreID uint64
}

// Epoch is the age of a region: of its members, and of its range.
type Epoch struct{ ConfVer, Version uint64 }

// Header is what a message has around it.
type Header struct {
	// RegionID is the Raft group.
	RegionID uint64
	// From and To are the two ends.
	From, To Peer
	// Epoch is the region's, as the sender knows it.
	Epoch Epoch
}

// Group says where the peers of a region live.
type Group struct {
	// RegionID is the Raft group.
	RegionID uint64
	// Self is the peer on this store.
	Self Peer
	// Epoch goes with every message.
	Epoch Epoch
	// Stores has the store of each peer, by peer id.
	Stores map[uint64]uint64
}

// Node is told of messages that were not accepted. A *raft.RawNode is one.
type Node interface {
	ReportUnreachable(id uint64)
	ReportSnapshot(id uint64, status raft.SnapshotStatus)
}

// Sender sends the messages of etcd's raft by a *raftmux.Sender. Like that, it
// is one worker's and not for concurrent use.
type Sender struct {
	sender  MuxSender
	encoder encoder
	// unreachable are the peers that this SendAll has reported.
	unreachable []uint64
}

// MuxSender is what a *raftmux.Sender, or a *faults.Sender, is used for.
type MuxSender interface {
	// SendEncoded, CountRefused, Flush, NeedFlush and Close are those of raftmux.Sender.
	SendEncoded(envelope raftmux.Envelope, encoder raftmux.Encoder) error
	CountRefused(storeID uint64, err error)
	Flush()
	NeedFlush() bool
	Close()
}

// NewSender returns a Sender on one worker's handle on the Client, which is a
// *raftmux.Sender as a rule.
func NewSender(sender MuxSender) *Sender { return &Sender{sender: sender} }

// Send checks a message and hands it to raftmux, encoded: when Send returns, the
// caller may do with it what it likes, but for payloads that
// raftmux.ClientOptions.ReferToPayloads refers to. It never blocks. An error says that the
// message was not accepted and that nobody will be told; it is a *CheckError,
// which wraps raftmux.ErrInvalid, or what raftmux.Sender.SendEncoded returns.
//
// The header must fit: To.ID is the message's To, and From.ID its From, unless
// the message is one that followers pass on (MsgProp, MsgReadIndex and
// MsgTransferLeader): then From is who passes it on.
func (s *Sender) Send(header Header, message *raftpb.Message) error {
	if err := checkWithin(&header, message); err != nil {
		s.sender.CountRefused(header.To.StoreID, err)
		return err
	}
	s.encoder.set(header, message)
	err := s.sender.SendEncoded(raftmux.Envelope{
		RegionID:    header.RegionID,
		FromStoreID: header.From.StoreID,
		ToStoreID:   header.To.StoreID,
		ToPeerID:    header.To.ID,
		Type:        eraftpb.MessageType(message.GetType()),
		HasMessage:  true,
		Witness: message.GetType() == raftpb.MsgSnap &&
			wire.ForWitness(header.RegionID, message.GetSnapshot().GetData()),
	}, &s.encoder)
	s.encoder.clear()
	return err
}

// SendAll sends the messages of a Ready, each for itself, and makes the calls
// that Raft needs for those that were refused: ReportUnreachable, once per peer,
// and for a MsgSnap ReportSnapshot with a failure, once per message. A message
// to Self is refused without a call, as are those to local threads; one
// to a peer that the group doesn't know is refused with a call.
//
// It returns how many messages were accepted and the first refusal's error.
// What becomes of accepted messages later is told to the Client's Router. Call
// Flush when the worker has gone through its regions.
func (s *Sender) SendAll(group Group, node Node, messages []*raftpb.Message) (accepted int, err error) {
	s.unreachable = s.unreachable[:0]
	header := Header{RegionID: group.RegionID, From: group.Self, Epoch: group.Epoch}
	for _, message := range messages {
		to := message.GetTo()
		header.To = Peer{ID: to, StoreID: group.Stores[to]}
		refusal := s.sendKnown(header, message)
		if refusal == nil {
			accepted++
			continue
		}
		if err == nil {
			err = refusal
		}
		switch {
		case to == raft.None || to == group.Self.ID || raft.IsLocalMsgTarget(to):
		case message.GetType() == raftpb.MsgSnap:
			node.ReportSnapshot(to, raft.SnapshotFailure)
		case !slices.Contains(s.unreachable, to):
			s.unreachable = append(s.unreachable, to)
			node.ReportUnreachable(to)
		}
	}
	return accepted, err
}

func (s *Sender) sendKnown(header Header, message *raftpb.Message) error {
	if header.To.StoreID != 0 {
		return s.Send(header, message)
	}
	err := checkWithin(&header, message)
	if err == nil {
		err = ofRegion(header.RegionID, refuse(message, "is to a peer whose store isn't known"))
	}
	s.sender.CountRefused(header.To.StoreID, err)
	return err
}

// Flush lets go what was accepted since the last call, and wakes each connection
// concerned once.
func (s *Sender) Flush() { s.sender.Flush() }

// NeedFlush says whether anything waits for Flush.
func (s *Sender) NeedFlush() bool { return s.sender.NeedFlush() }

// Close ends the Sender below.
func (s *Sender) Close() { s.sender.Close() }
