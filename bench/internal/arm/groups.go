package arm

import (
	"context"

	"github.com/pingcap/kvproto/pkg/tikvpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/groups"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/resolver/static"
)

// muxStore is this library on both sides of a store.
type muxStore struct {
	grpcReceiver
	id     uint64
	host   groups.Host
	client *raftmux.Client
}

// startMuxStore implements groups.Start.
func startMuxStore(store uint64, host groups.Host) (groups.Transport, error) {
	s := &muxStore{id: store, host: host}
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: store, NewReceiver: etcdraft.NewReceiver(muxHost{host})})
	if err != nil {
		return nil, err
	}
	inner := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(inner)
	if err := s.serve(inner); err != nil {
		return nil, err
	}
	s.add(func() error { return server.Close(context.Background()) })
	return s, nil
}

// Address implements groups.Transport.
func (s *muxStore) Address() string { return s.endpoint.Addresses[0] }

// Connect implements groups.Transport.
func (s *muxStore) Connect(addresses []string, dial groups.Dial) (err error) {
	others := make(static.Stores)
	for i, address := range addresses {
		if address != "" {
			others[uint64(i+1)] = address
		}
	}
	options := raftmux.ClientOptions{StoreID: s.id, Resolver: others, Router: muxHost{s.host}, Dialer: dial}
	referLarge(&options)
	s.client, err = raftmux.NewClient(options)
	return err
}

// Disconnect implements groups.Transport.
func (s *muxStore) Disconnect() error {
	if s.client == nil {
		return nil
	}
	return closeClient(s.client)
}

// NewSender implements groups.Transport.
func (s *muxStore) NewSender() groups.Sender {
	return muxSender{etcdraft.NewSender(s.client.NewSender())}
}

type muxSender struct{ *etcdraft.Sender }

// Send implements groups.Sender.
func (s muxSender) Send(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (refused int) {
	accepted, _ := s.SendAll(group, node, messages)
	return len(messages) - accepted
}

// muxHost is the host of both halves.
type muxHost struct{ groups.Host }

// Step implements etcdraft.Handler.
func (h muxHost) Step(header etcdraft.Header, message *raftpb.Message) error {
	h.Host.Step(header.RegionID, message)
	return nil
}

// ReportUnreachable implements raftmux.Router.
func (h muxHost) ReportUnreachable(region, peer uint64) bool {
	h.Host.ReportUnreachable(region, peer)
	return true
}

// StoreUnreachable implements raftmux.Router.
func (h muxHost) StoreUnreachable(store uint64) bool {
	h.Host.StoreUnreachable(store)
	return true
}

// StoreUp implements raftmux.Router.
func (muxHost) StoreUp(uint64) bool { return true }

// ReportSnapshotStatus implements raftmux.Router. No snapshots are sent.
func (muxHost) ReportSnapshotStatus(uint64, uint64, raftmux.SnapshotStatus) bool { return true }

// usualStore is the usual way on both sides of a store.
type usualStore struct {
	grpcReceiver
	sender *usualSender
}

// startUsualStore implements groups.Start.
func startUsualStore(_ uint64, host groups.Host) (groups.Transport, error) {
	s := &usualStore{}
	return s, s.serve(newUsualServer(&groupsServer{host: host}))
}

// groupsServer has no methods but BatchRaft; the others are not called.
type groupsServer struct {
	tikvpb.TikvServer
	host groups.Host
}

// BatchRaft implements tikvpb.TikvServer.
func (s *groupsServer) BatchRaft(stream tikvpb.Tikv_BatchRaftServer) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, message := range batch.Msgs {
			s.host.Step(message.RegionId, fromKV(message.Message))
		}
	}
}

// Address implements groups.Transport.
func (s *usualStore) Address() string { return s.endpoint.Addresses[0] }

// Connect implements groups.Transport.
func (s *usualStore) Connect(addresses []string, dial groups.Dial) (err error) {
	s.sender, err = connectUsual(addresses, grpc.WithContextDialer(dial))
	return err
}

// Disconnect implements groups.Transport.
func (s *usualStore) Disconnect() error {
	if s.sender == nil {
		return nil
	}
	return s.sender.Close()
}

// NewSender implements groups.Transport.
func (s *usualStore) NewSender() groups.Sender { return convertingSender{s.sender} }

// convertingSender makes each message anew, as its host would.
type convertingSender struct{ *usualSender }

// Send implements groups.Sender.
func (s convertingSender) Send(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (refused int) {
	header := etcdraft.Header{RegionID: group.RegionID, From: group.Self, Epoch: group.Epoch}
	for _, message := range messages {
		to := message.GetTo()
		header.To = etcdraft.Peer{ID: to, StoreID: group.Stores[to]}
		if !s.offerTo(header.To.StoreID-1, toKV(header, message)) {
			node.ReportUnreachable(to)
			refused++
		}
	}
	return refused
}

// Flush implements groups.Sender.
func (convertingSender) Flush() {}

// Close implements groups.Sender. The store closes what its workers share.
func (convertingSender) Close() {}
