package loop

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/internal/rig"
)

const (
	stores         = 3
	workers        = 2 // per store
	tickInterval   = 100 * time.Millisecond
	electionTick   = 10
	heartbeatTick  = 2
	firstCampaigns = 20 // ticks
	backoffStep    = 100 * time.Millisecond
	connections    = 2 // for data, to each store
	queueMessages  = 2048
	queueBytes     = 8 << 20
)

// The load of a group, in the mean.
const (
	writesPerTick = 0.15
	readsPerTick  = 0.3
	maxData       = 1500 // bytes of a write
)

type phase = int32

const (
	phaseLoad   phase = iota
	phaseHealed       // faults are over: each group is to commit something new
	phaseQuiet        // nobody asks for anything
)

// cluster is all stores, and the one clock of them all.
type cluster struct {
	t        *testing.T
	groups   int
	network  network
	history  *history
	stores   [stores + 1]*store // by id
	numbers  atomic.Uint64      // of writes and reads
	ticks    atomic.Int64
	phaseNow atomic.Int32
	running  sync.WaitGroup // workers
	stopTick func()
}

func (c *cluster) now() int64       { return c.ticks.Load() }
func (c *cluster) phase() phase     { return c.phaseNow.Load() }
func (c *cluster) setPhase(p phase) { c.phaseNow.Store(p) }

// newCluster starts stores that host a replica of each group, and the clock.
func newCluster(t *testing.T, n network, groups int, seed uint64) *cluster {
	t.Helper()
	c := &cluster{t: t, groups: groups, network: n, history: newHistory(t, groups)}
	for id := uint64(1); id <= stores; id++ {
		c.stores[id] = newStore(c, id, seed)
	}
	for _, s := range c.stores[1:] {
		s.connect()
	}
	for _, s := range c.stores[1:] {
		for _, w := range s.workers {
			w.sender = etcdraft.NewSender(s.client.NewSender())
			c.running.Go(w.run)
		}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go c.tick(stop, stopped)
	c.stopTick = sync.OnceFunc(func() {
		close(stop)
		<-stopped
	})
	t.Cleanup(c.stop)
	return c
}

// tick moves the clock of all stores in lockstep: the next tick comes when all
// workers are through with the last. So a busy machine makes the clocks late, all
// together, and the leases, which rest on the clocks, stay safe.
func (c *cluster) tick(stop, stopped chan struct{}) {
	defer close(stopped)
	next := time.Now().Add(tickInterval)
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Until(next)):
		}
		next = time.Now().Add(tickInterval)
		c.ticks.Add(1)
		for _, s := range c.stores[1:] {
			for _, w := range s.workers {
				w.box.push(item{kind: itemTick})
			}
		}
		for _, s := range c.stores[1:] {
			for _, w := range s.workers {
				select {
				case <-w.ticked:
				case <-w.done:
				}
			}
		}
	}
}

// stop ends the clock, the workers and the stores. Nothing may be left untaken.
func (c *cluster) stop() {
	c.stopTick()
	for _, s := range c.stores[1:] {
		s.willing.Store(true)
		for _, w := range s.workers {
			w.box.close()
		}
	}
	c.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), rig.WaitTimeout)
	defer cancel()
	for _, s := range c.stores[1:] {
		if err := s.client.Close(ctx); err != nil {
			c.t.Errorf("client of store %d: close: %v", s.id, err)
		}
		if err := s.server.Close(ctx); err != nil {
			c.t.Errorf("server of store %d: close: %v", s.id, err)
		}
		s.grpc.Stop()
		<-s.served
	}
}

// store is one store: its half of raftmux, and its workers.
type store struct {
	id       uint64
	cluster  *cluster
	workers  []*worker
	resolver *rig.Resolver
	client   *raftmux.Client
	server   *raftmux.Server
	grpc     *grpc.Server
	served   chan struct{}

	refusals atomic.Uint64 // makes the Router answer "not now" at times
	willing  atomic.Bool   // it no longer does

	mu    sync.Mutex
	downs [stores + 1]int
	up    [stores + 1]bool
}

var (
	_ etcdraft.Handler = (*store)(nil)
	_ raftmux.Router   = (*store)(nil)
)

func newStore(c *cluster, id, seed uint64) *store {
	c.t.Helper()
	s := &store{id: id, cluster: c, resolver: rig.NewResolver(), served: make(chan struct{})}
	for i := range uint64(workers) {
		s.workers = append(s.workers, newWorker(s, rand.New(rand.NewPCG(seed, id*workers+i))))
	}
	for region := uint64(1); region <= uint64(c.groups); region++ {
		w := s.workerOf(region)
		w.replicas[region] = newReplica(w, region)
	}
	var err error
	s.server, err = raftmux.NewServer(raftmux.ServerOptions{StoreID: id, NewReceiver: etcdraft.NewReceiver(s)})
	if err != nil {
		c.t.Fatal(err)
	}
	listener := c.network.listen(id)
	s.grpc = grpc.NewServer(raftmux.GRPCServerOptions()...)
	s.server.Register(s.grpc)
	go func() {
		defer close(s.served)
		_ = s.grpc.Serve(listener)
	}()
	return s
}

// connect makes the sending half, once all addresses are known.
func (s *store) connect() {
	c := s.cluster
	for _, other := range c.stores[1:] {
		if other != s {
			s.resolver.Set(other.id, c.network.address(s.id, other.id))
		}
	}
	var err error
	s.client, err = raftmux.NewClient(raftmux.ClientOptions{
		StoreID:             s.id,
		Resolver:            s.resolver,
		Router:              s,
		ConnectionsPerStore: connections,
		QueueMessages:       queueMessages,
		QueueBytes:          queueBytes,
		MaxMessageSize:      1 << 20,
		BackoffStep:         backoffStep,
		ConnectTimeout:      time.Second,
		Dialer:              c.network.dialer(s.id),
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (s *store) workerOf(region uint64) *worker { return s.workers[region%workers] }

// Step implements etcdraft.Handler.
func (s *store) Step(header etcdraft.Header, message *raftpb.Message) error {
	h := s.cluster.history
	h.arrive(header.RegionID, header.From.StoreID, s.id, laneOf(message.GetType()), header.Epoch.Version)
	if !s.workerOf(header.RegionID).box.push(item{kind: itemMessage, region: header.RegionID, message: message}) {
		h.counts.overflow.Add(1)
		return errFull
	}
	return nil
}

// notNow says whether the Router is to be asked again, which it wants at times.
func (s *store) notNow() bool { return !s.willing.Load() && s.refusals.Add(1)%8 == 0 }

// ReportUnreachable implements raftmux.Router.
func (s *store) ReportUnreachable(regionID, peerID uint64) bool {
	if s.notNow() {
		return false
	}
	s.cluster.history.counts.reports.Add(1)
	return s.workerOf(regionID).box.push(item{kind: itemUnreachable, region: regionID, id: peerID})
}

// ReportSnapshotStatus implements raftmux.Router.
func (s *store) ReportSnapshotStatus(regionID, peerID uint64, status raftmux.SnapshotStatus) bool {
	s.cluster.history.violation("region %d: status %v of a snapshot to peer %d, which nobody sent", regionID, status, peerID)
	return true
}

// StoreUnreachable implements raftmux.Router.
func (s *store) StoreUnreachable(storeID uint64) bool {
	if s.notNow() {
		return false
	}
	s.mu.Lock()
	s.downs[storeID]++
	s.up[storeID] = false
	s.mu.Unlock()
	for _, w := range s.workers {
		w.box.push(item{kind: itemStoreDown, id: storeID})
	}
	return true
}

// StoreUp implements raftmux.Router.
func (s *store) StoreUp(storeID uint64) bool {
	if s.notNow() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up[storeID] = true
	return true
}

// edges returns how often another store went down, and whether it is up.
func (s *store) edges(storeID uint64) (downs int, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.downs[storeID], s.up[storeID]
}
