package kvstore

import (
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
)

// muxTransport is a worker's handle on the Client: for Raft's messages, and for
// two of kvproto's that are none.
type muxTransport struct {
	*etcdraft.Sender
	mux *raftmux.Sender
}

func newTransport(client *raftmux.Client) transport {
	mux := client.NewSender()
	return &muxTransport{etcdraft.NewSender(mux), mux}
}

// Bury implements transport. That it may get lost does no harm: a peer that was
// taken out asks again, for votes or outright, and is told each time.
func (t *muxTransport) Bury(group etcdraft.Group, peer etcdraft.Peer) {
	message := bare(group, peer)
	message.IsTombstone = true
	_ = t.mux.Send(message)
}

// AskIfStale implements transport.
func (t *muxTransport) AskIfStale(group etcdraft.Group, peer etcdraft.Peer) {
	message := bare(group, peer)
	message.ExtraMsg = &raft_serverpb.ExtraMessage{Type: raft_serverpb.ExtraMessageType_MsgCheckStalePeer}
	_ = t.mux.Send(message)
}

// bare returns a message between two peers with no Raft message in it.
func bare(group etcdraft.Group, to etcdraft.Peer) *raft_serverpb.RaftMessage {
	return &raft_serverpb.RaftMessage{
		RegionId:    group.RegionID,
		FromPeer:    &metapb.Peer{Id: group.Self.ID, StoreId: group.Self.StoreID},
		ToPeer:      &metapb.Peer{Id: to.ID, StoreId: to.StoreID},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: group.Epoch.ConfVer, Version: group.Epoch.Version},
	}
}

// hostReceiver gives what comes on a stream to the host: Raft's messages as
// etcdraft decodes them, and the two that are none.
type hostReceiver struct {
	raft raftmux.Keeper // of Raft's messages
	host *Host
	bare []*raft_serverpb.RaftMessage
}

var _ raftmux.Keeper = (*hostReceiver)(nil)

func newReceiver(host *Host) func() raftmux.Receiver {
	raft := etcdraft.NewReceiver(host)
	return func() raftmux.Receiver { return &hostReceiver{raft: raft().(raftmux.Keeper), host: host} }
}

// Decode implements raftmux.Receiver.
func (r *hostReceiver) Decode(data []byte) (raftmux.Envelope, error) {
	envelope, err := r.raft.Decode(data)
	if err != nil {
		return r.decodeBare(data, envelope, err)
	}
	return envelope, nil
}

// DecodeGiven implements raftmux.Keeper.
func (r *hostReceiver) DecodeGiven(data []byte) (raftmux.Envelope, error) {
	envelope, err := r.raft.DecodeGiven(data)
	if err != nil {
		return r.decodeBare(data, envelope, err)
	}
	return envelope, nil
}

// decodeBare takes a message without a Raft message, if it is that. The envelope and
// the error are what it is otherwise.
func (r *hostReceiver) decodeBare(data []byte, envelope raftmux.Envelope, err error) (raftmux.Envelope, error) {
	message := &raft_serverpb.RaftMessage{}
	if message.Unmarshal(data) != nil || !message.GetIsTombstone() && message.GetExtraMsg() == nil ||
		message.GetToPeer().GetStoreId() == 0 { // for nobody, and not for another store
		return envelope, err
	}
	r.bare = append(r.bare, message)
	return raftmux.EnvelopeOf(message), nil
}

// Deliver implements raftmux.Receiver.
func (r *hostReceiver) Deliver() (refused int) {
	refused = r.raft.Deliver()
	for _, message := range r.bare {
		if !r.host.takeBare(message) {
			refused++
		}
	}
	r.bare = nil
	return refused
}

// Discard implements raftmux.Receiver.
func (r *hostReceiver) Discard() {
	r.raft.Discard()
	r.bare = nil
}

// takeBare hands a message without a Raft message to its worker: the news that a
// peer was taken out, or a peer's question whether it was.
func (h *Host) takeBare(message *raft_serverpb.RaftMessage) bool {
	region, from, to := message.GetRegionId(), message.GetFromPeer(), message.GetToPeer()
	it := item{region: region, id: to.GetId(), header: etcdraft.Header{
		RegionID: region,
		From:     etcdraft.Peer{ID: from.GetId(), StoreID: from.GetStoreId()},
		To:       etcdraft.Peer{ID: to.GetId(), StoreID: to.GetStoreId()},
	}}
	if !h.isForUs(it.header) {
		return false
	}
	switch {
	case message.GetIsTombstone():
		it.kind = itemTombstone
	case message.GetExtraMsg().GetType() == raft_serverpb.ExtraMessageType_MsgCheckStalePeer:
		it.kind = itemIsStale
	default:
		return false
	}
	return h.workerOf(region).inbox.push(it)
}
