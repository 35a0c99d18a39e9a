package arm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// rafthttpArm is etcd's own transport, as etcd sets it up. It has no regions and
// no stores: one group with one peer is all that it sends to.
func rafthttpArm() Arm {
	return Arm{Name: "rafthttp", Serve: serveRafthttp, Dial: dialRafthttp}
}

// node is one member. It is the rafthttp.Raft of the transport.
type node struct {
	closers
	transport     *rafthttp.Transport
	address       string
	control, data *measure.Counter // of a receiver
	refused       bool             // guarded by rafthttpSender.mu
}

func serveRafthttp(o ServeOptions) (Receiver, error) {
	if o.Stores != 1 {
		return nil, errors.New("rafthttp: one peer only")
	}
	listener, err := listen()
	if err != nil {
		return nil, err
	}
	n := &node{control: o.Sink.Counter(), data: o.Sink.Counter()}
	if err := n.start(load.ToPeer, listener); err != nil {
		return nil, err
	}
	n.transport.AddPeer(load.FromPeer, []string{"http://" + o.Back})
	return n, nil
}

// start makes the transport and serves its handler.
func (n *node) start(id types.ID, listener net.Listener) error {
	n.address = listener.Addr().String()
	n.transport = &rafthttp.Transport{
		Logger:      zap.NewNop(),
		DialTimeout: time.Second,
		ID:          id,
		URLs:        types.MustNewURLs([]string{"http://" + n.address}),
		ClusterID:   1,
		Raft:        n,
		Snapshotter: snap.New(zap.NewNop(), "."), // not used: nothing sends a snapshot
		ServerStats: v2stats.NewServerStats("", ""),
		LeaderStats: v2stats.NewLeaderStats(zap.NewNop(), id.String()),
		ErrorC:      make(chan error, 1),
	}
	if err := n.transport.Start(); err != nil {
		return errors.Join(fmt.Errorf("rafthttp: %w", err), listener.Close())
	}
	server := &http.Server{Handler: n.transport.Handler(), ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // http.ErrServerClosed, after Close
	n.add(func() error {
		n.transport.Stop()
		err := server.Close()
		serving.Wait()
		return err
	})
	return nil
}

// Endpoint implements Receiver.
func (n *node) Endpoint() Endpoint { return Endpoint{Addresses: []string{n.address}} }

// Process implements rafthttp.Raft.
func (n *node) Process(_ context.Context, message *raftpb.Message) error {
	switch message.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		n.control.Take(message.GetCommit())
	default:
		n.data.Take(message.GetCommit())
	}
	return nil
}

// IsIDRemoved implements rafthttp.Raft.
func (*node) IsIDRemoved(uint64) bool { return false }

// ReportUnreachable implements rafthttp.Raft. Send calls it before it returns
// when it drops a message because the stream's buffer is full.
func (n *node) ReportUnreachable(uint64) { n.refused = true }

// ReportSnapshot implements rafthttp.Raft.
func (*node) ReportSnapshot(uint64, raft.SnapshotStatus) {}

// rafthttpSender has one peer, to which the workers send in turn: nothing but
// ReportUnreachable tells that a message was dropped, and it doesn't tell whose.
type rafthttpSender struct {
	*node
	mu sync.Mutex
}

func dialRafthttp(o DialOptions) (Sender, error) {
	s := &rafthttpSender{node: &node{}}
	if err := s.start(load.FromPeer, o.Back); err != nil {
		return nil, err
	}
	s.transport.AddPeer(load.ToPeer, []string{"http://" + o.Endpoint.Addresses[0]})
	for begun := time.Now(); s.transport.ActiveSince(load.ToPeer).IsZero(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			return nil, errors.Join(errors.New("rafthttp: the streams don't come up"), s.Close())
		}
	}
	time.Sleep(500 * time.Millisecond) // one stream is up; the other is about to be
	return s, nil
}

// Worker implements Flooder.
func (s *rafthttpSender) Worker(number int, plan load.Plan) (Worker, error) {
	ring, err := newEtcdRing(number, plan)
	if err != nil {
		return nil, err
	}
	return &rafthttpWorker{etcdRing: ring, sender: s}, nil
}

type rafthttpWorker struct {
	etcdRing
	sender *rafthttpSender
	round  []*raftpb.Message
}

// Send implements Worker.
func (w *rafthttpWorker) Send(i int) bool {
	w.round = append(w.round, w.messages[i])
	return true
}

// Flush implements Worker. It stops at the first message that is dropped.
func (w *rafthttpWorker) Flush() (refused int) {
	w.sender.mu.Lock()
	defer w.sender.mu.Unlock()
	w.sender.refused = false
	for i := range w.round {
		w.sender.transport.Send(w.round[i : i+1])
		if w.sender.refused {
			refused = len(w.round) - i
			break
		}
	}
	w.round = w.round[:0]
	return refused
}

// Close implements Worker.
func (*rafthttpWorker) Close() {}
