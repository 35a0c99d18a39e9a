package netns

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

type (
	router = rig.Router[raftmux.SnapshotStatus]
	events = rig.Events[raftmux.SnapshotStatus]
)

// stores are store 1 in one namespace, which sends, and store 2 in the other.
type stores struct {
	*raftmux.Client
	router *router
	host   *host
}

func newStores(t *testing.T, here, there *Namespace, thereIP string) *stores {
	t.Helper()
	s := &stores{host: &host{regions: make(map[uint64]int)}, router: rig.NewRouter[raftmux.SnapshotStatus](t)}

	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 2, Handler: s.host})
	if err != nil {
		t.Fatal(err)
	}
	listener := there.Listen(t, thereIP+":0")
	inner := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(inner)
	var serving sync.WaitGroup
	serving.Go(func() { _ = inner.Serve(listener) })
	t.Cleanup(func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		inner.Stop()
		serving.Wait()
	})

	resolver := rig.NewResolver()
	resolver.Set(2, listener.Addr().String())
	s.Client, err = raftmux.NewClient(raftmux.ClientOptions{
		StoreID: 1, Resolver: resolver, Router: s.router, Dialer: here.Dial,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Close(ctx)
		s.router.Closed()
	})
	return s
}

// sendBoth sends a message of a region in each lane. That there is no room is no
// news while the store is away.
func sendBoth(t *testing.T, sender *raftmux.Sender, region uint64) {
	t.Helper()
	for _, message := range []*raft_serverpb.RaftMessage{rig.Heartbeat(region, 2, 3), rig.Append(region, 2, 3, 1, 100)} {
		if err := sender.Send(message); err != nil && !errors.Is(err, raftmux.ErrFull) {
			t.Fatal(err)
		}
	}
	sender.Flush()
}

// host is store 2's.
type host struct {
	mu         sync.Mutex
	regions    map[uint64]int
	bytes      int             // of appended entries
	heartbeats []time.Duration // the ways of those with the time of sending in their index
}

// Step implements raftmux.Handler.
func (h *host) Step(message *raft_serverpb.RaftMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.regions[message.RegionId]++
	for _, entry := range message.GetMessage().GetEntries() {
		h.bytes += len(entry.GetData())
	}
	if sent := message.GetMessage().GetIndex(); sent > 0 && message.GetMessage().GetMsgType() == eraftpb.MessageType_MsgHeartbeat {
		h.heartbeats = append(h.heartbeats, time.Since(time.Unix(0, int64(sent))))
	}
	return nil
}

func (h *host) received(region uint64) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.regions[region]
}

// restart forgets what was measured so far.
func (h *host) restart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes, h.heartbeats = 0, nil
}

func (h *host) measured() (bytes int, heartbeats []time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes, append([]time.Duration(nil), h.heartbeats...)
}
