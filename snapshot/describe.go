package snapshot

import (
	"cmp"
	"fmt"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/wire"
)

// unknownSize stands for a size that nobody has said.
const unknownSize = -1

// description is what a snapshot message says of its snapshot.
type description struct {
	key
	fromStoreID uint64
	toStoreID   uint64
	size        int64 // unknownSize unless the message has it
	forBalance  bool
}

// key is what tells one snapshot from another. The message is part of it: Raft
// ignores one of an earlier term or of another leader, whatever data it has.
type key struct {
	regionID, peerID        uint64
	term, index             uint64 // the snapshot's
	fromPeerID, messageTerm uint64
}

// newer says whether Raft prefers k's snapshot to another one for the same peer: a
// later leader's is, however far it goes, and of one leader's the later one.
func (k key) newer(than key) bool {
	return cmp.Or(
		cmp.Compare(k.messageTerm, than.messageTerm),
		cmp.Compare(k.term, than.term),
		cmp.Compare(k.index, than.index),
	) > 0
}

// describe reads a snapshot message. Its error wraps ErrInvalid and names what
// is missing.
func describe(message *raft_serverpb.RaftMessage) (description, error) {
	body := message.GetMessage()
	metadata := body.GetSnapshot().GetMetadata()
	d := description{
		key: key{
			regionID: message.GetRegionId(),
			peerID:   message.GetToPeer().GetId(),
			term:     metadata.GetTerm(),
			index:    metadata.GetIndex(),

			fromPeerID:  message.GetFromPeer().GetId(),
			messageTerm: body.GetTerm(),
		},
		fromStoreID: message.GetFromPeer().GetStoreId(),
		toStoreID:   message.GetToPeer().GetStoreId(),
		size:        unknownSize,
	}
	problem := ""
	switch {
	case body == nil:
		problem = "it has no Raft message"
	case body.GetMsgType() != eraftpb.MessageType_MsgSnapshot:
		problem = "it is a " + body.GetMsgType().String()
	case d.regionID == 0:
		problem = "its region_id is 0"
	case d.peerID == 0:
		problem = "it has no to_peer"
	case d.toStoreID == 0:
		problem = "its to_peer is on store 0"
	case d.index == 0:
		problem = "its snapshot has no metadata with an index"
	}
	if problem != "" {
		return d, fmt.Errorf("%w: %s", ErrInvalid, problem)
	}
	// What is not TiKV's RaftSnapshotData is the host's own affair.
	data := wire.SnapshotData(d.regionID, body.GetSnapshot().GetData())
	d.forBalance = data.GetMeta().GetForBalance()
	if size := data.GetFileSize(); size > 0 {
		if d.size = int64(size); d.size < 0 {
			return d, fmt.Errorf("%w: its file_size is %d", ErrInvalid, size)
		}
	}
	return d, nil
}

// other returns the store at the other end.
func (d description) other(direction Direction) uint64 {
	if direction == Sending {
		return d.toStoreID
	}
	return d.fromStoreID
}

func (d description) fail(direction Direction, err error) error {
	if err == nil {
		return nil
	}
	return &TransferError{
		Direction: direction, StoreID: d.other(direction), RegionID: d.regionID, PeerID: d.peerID, Err: err,
	}
}
