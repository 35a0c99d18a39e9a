package etcdraft_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/resolver/static"
)

// store hosts one peer of region 7, whose id is 70 + the store's.
type store struct {
	id      uint64
	group   etcdraft.Group
	node    *raft.RawNode
	guard   etcdraft.Guard
	storage *raft.MemoryStorage
	inbox   chan *raftpb.Message
	reports chan func()
	applied func(data string)
}

// Step implements etcdraft.Handler: it finds the region and leaves the message
// to the worker that drives it.
func (s *store) Step(header etcdraft.Header, message *raftpb.Message) error {
	if header.RegionID != s.group.RegionID || header.To != s.group.Self {
		return fmt.Errorf("region %d has no peer %d here", header.RegionID, header.To.ID)
	}
	select {
	case s.inbox <- message:
		return nil
	default:
		return fmt.Errorf("region %d is busy", header.RegionID)
	}
}

// report implements the methods of raftmux.Router: the worker tells Raft.
func (s *store) report(f func()) bool {
	select {
	case s.reports <- f:
		return true
	default:
		return false // ask again
	}
}

func (s *store) ReportUnreachable(_, peerID uint64) bool {
	return s.report(func() { s.node.ReportUnreachable(peerID) })
}

func (s *store) ReportSnapshotStatus(_, peerID uint64, status raftmux.SnapshotStatus) bool {
	outcome := raft.SnapshotFinish
	if status == raftmux.SnapshotFailure {
		outcome = raft.SnapshotFailure
	}
	return s.report(func() { s.node.ReportSnapshot(peerID, outcome) })
}

func (s *store) StoreUnreachable(storeID uint64) bool { return s.ReportUnreachable(7, 70+storeID) }
func (s *store) StoreUp(uint64) bool                  { return true }

// work drives the region until ctx ends.
func (s *store) work(ctx context.Context, sender *etcdraft.Sender) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			sender.Close()
			return
		case <-ticker.C:
			s.node.Tick()
		case f := <-s.reports:
			f()
		case message := <-s.inbox:
			if err := s.guard.Check(s.node, message); err != nil {
				log.Printf("dropped: %v", err)
			} else if err := s.node.Step(message); err != nil {
				log.Printf("not stepped: %v", err)
			}
		}
		for s.node.HasReady() {
			ready := s.node.Ready()
			s.guard.Observe(ready)
			if !raft.IsEmptyHardState(ready.HardState) {
				must(s.storage.SetHardState(ready.HardState))
			}
			must(s.storage.Append(ready.Entries))
			// Refusals are reported to the node already.
			_, _ = sender.SendAll(s.group, s.node, ready.Messages)
			for _, entry := range ready.CommittedEntries {
				switch {
				case entry.GetType() == raftpb.EntryConfChange:
					var change raftpb.ConfChange
					must(proto.Unmarshal(entry.GetData(), &change))
					s.node.ApplyConfChange(&change)
				case len(entry.GetData()) > 0:
					s.applied(string(entry.GetData()))
				}
			}
			s.node.Advance(ready)
		}
		sender.Flush()
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Two stores, each with one peer of one region. Store 1 proposes, store 2 applies.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	addresses, applied := make(static.Stores), make(chan string, 8)
	listeners := make(map[uint64]net.Listener)
	for id := uint64(1); id <= 2; id++ {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		listeners[id], addresses[id] = listener, listener.Addr().String()
	}
	workers := make(chan struct{})
	for id := uint64(1); id <= 2; id++ {
		s := &store{
			id: id, storage: raft.NewMemoryStorage(),
			group: etcdraft.Group{
				RegionID: 7, Self: etcdraft.Peer{ID: 70 + id, StoreID: id}, Stores: map[uint64]uint64{71: 1, 72: 2},
			},
			inbox: make(chan *raftpb.Message, 1024), reports: make(chan func(), 64), applied: func(string) {},
		}
		var err error
		s.node, err = raft.NewRawNode(&raft.Config{
			ID: 70 + id, ElectionTick: 20, HeartbeatTick: 1, Storage: s.storage, MaxSizePerMsg: 1 << 20,
			MaxInflightMsgs: 256, Logger: &raft.DefaultLogger{Logger: log.New(nowhere{}, "", 0)},
		})
		must(err)
		must(s.node.Bootstrap([]raft.Peer{{ID: 71}, {ID: 72}}))
		s.guard = etcdraft.NewGuard(70+id, 2) // Bootstrap wrote two entries

		server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: id, NewReceiver: etcdraft.NewReceiver(s)})
		must(err)
		grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
		server.Register(grpcServer)
		go func() { _ = grpcServer.Serve(listeners[id]) }()

		client, err := raftmux.NewClient(raftmux.ClientOptions{StoreID: id, Resolver: addresses, Router: s})
		must(err)
		if id == 1 {
			must(s.node.Campaign())
		} else {
			s.applied = func(data string) { applied <- data }
		}
		go func() {
			s.work(ctx, etcdraft.NewSender(client.NewSender()))
			must(client.Close(context.Background()))
			must(server.Close(context.Background()))
			grpcServer.Stop()
			workers <- struct{}{}
		}()
		if id == 1 {
			// Dropped as long as there is no leader.
			propose := func() { _ = s.node.Propose([]byte("hello")) }
			go func() {
				for ctx.Err() == nil {
					s.report(propose)
					time.Sleep(20 * time.Millisecond)
				}
			}()
		}
	}
	fmt.Println("store 2 applied:", <-applied)
	stop()
	for range 2 {
		<-workers
	}
	// Output: store 2 applied: hello
}

// nowhere is a Writer that drops.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
