package kvstore

import (
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
)

// muxTransport is a worker's handle on the Client: for Raft's messages, and for
// the one that is none, is_tombstone.
type muxTransport struct {
	*etcdraft.Sender
	mux *raftmux.Sender
}

func newTransport(client *raftmux.Client) transport {
	mux := client.NewSender()
	return &muxTransport{etcdraft.NewSender(mux), mux}
}

// Bury implements transport. That it may get lost does no harm: a peer that was
// taken out goes on asking for votes, and is told each time.
func (t *muxTransport) Bury(group etcdraft.Group, peer etcdraft.Peer) {
	_ = t.mux.Send(&raft_serverpb.RaftMessage{
		RegionId:    group.RegionID,
		FromPeer:    &metapb.Peer{Id: group.Self.ID, StoreId: group.Self.StoreID},
		ToPeer:      &metapb.Peer{Id: peer.ID, StoreId: peer.StoreID},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: group.Epoch.ConfVer, Version: group.Epoch.Version},
		IsTombstone: true,
	})
}

// hostReceiver gives what comes on a stream to the host: Raft's messages as
// etcdraft decodes them, and is_tombstone.
type hostReceiver struct {
	raftmux.Receiver // of Raft's messages
	host             *Host
	tombstones       []*raft_serverpb.RaftMessage
}

func newReceiver(host *Host) func() raftmux.Receiver {
	raft := etcdraft.NewReceiver(host)
	return func() raftmux.Receiver { return &hostReceiver{Receiver: raft(), host: host} }
}

// Decode implements raftmux.Receiver.
func (r *hostReceiver) Decode(data []byte) (raftmux.Envelope, error) {
	envelope, err := r.Receiver.Decode(data)
	if err == nil {
		return envelope, nil
	}
	message := &raft_serverpb.RaftMessage{}
	if message.Unmarshal(data) != nil || !message.GetIsTombstone() {
		return envelope, err
	}
	r.tombstones = append(r.tombstones, message)
	return raftmux.EnvelopeOf(message), nil
}

// Deliver implements raftmux.Receiver.
func (r *hostReceiver) Deliver() (refused int) {
	refused = r.Receiver.Deliver()
	for _, message := range r.tombstones {
		if !r.host.buried(message) {
			refused++
		}
	}
	r.tombstones = nil
	return refused
}

// Discard implements raftmux.Receiver.
func (r *hostReceiver) Discard() {
	r.Receiver.Discard()
	r.tombstones = nil
}

// buried hands the news that a peer was taken out to its worker.
func (h *Host) buried(message *raft_serverpb.RaftMessage) bool {
	region, to := message.GetRegionId(), message.GetToPeer()
	if !h.serving.Load() || region == 0 || region > uint64(h.options.Regions) || to.GetStoreId() != h.options.StoreID {
		return false
	}
	return h.workerOf(region).inbox.push(item{kind: itemTombstone, region: region, id: to.GetId()})
}
