package raftmux_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// The stores of most tests: the Client is store 1, as rig's messages have it.
const (
	here  = 1
	there = 2
)

type events = rig.Events[raftmux.SnapshotStatus]

// sending is a Client and the host around it. Its Client is closed with the
// test, and every ledger must balance then.
type sending struct {
	*raftmux.Client
	router   *rig.Router[raftmux.SnapshotStatus]
	resolver *rig.Resolver
}

// newSending returns the sending half of store 1, which tells at once what
// fails, tries again soon, and lets nothing grow stale.
func newSending(t *testing.T, changes ...func(*raftmux.ClientOptions)) *sending {
	t.Helper()
	h := &sending{router: rig.NewRouter[raftmux.SnapshotStatus](t), resolver: rig.NewResolver()}
	options := raftmux.ClientOptions{
		StoreID:        here,
		Resolver:       h.resolver,
		Router:         h.router,
		MaxMessageAge:  time.Minute,
		BackoffStep:    20 * time.Millisecond,
		ConnectTimeout: 15 * time.Second,
	}
	for _, change := range changes {
		change(&options)
	}
	client, err := raftmux.NewClient(options)
	if err != nil {
		t.Fatal(err)
	}
	h.Client = client
	t.Cleanup(func() { h.close(t) })
	return h
}

// toPeer is newSending with store 2 at the peer's address.
func toPeer(t *testing.T, peer *rig.Peer, changes ...func(*raftmux.ClientOptions)) *sending {
	t.Helper()
	h := newSending(t, changes...)
	h.resolver.Set(there, peer.Addr())
	return h
}

// close closes the Client within a short time and checks the accounts.
func (h *sending) close(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	h.router.Closed()
	for _, store := range h.Stores() {
		ledgers := []raftmux.Ledger{store.Snapshots}
		for _, c := range store.Connections {
			ledgers = append(ledgers, c.Ledger)
		}
		for _, l := range ledgers {
			if l.Queued != 0 || l.Accepted != l.Sent+l.DroppedTotal() {
				t.Errorf("store %d: the ledger doesn't balance after close: %+v", store.StoreID, l)
			}
		}
	}
}

// ledger returns the sum of a store's accounts, without snapshots.
func (h *sending) ledger(store uint64) (sum raftmux.Ledger, batches, wakes uint64) {
	status, _ := h.Store(store)
	sum.Dropped = make(map[string]uint64)
	for _, c := range status.Connections {
		sum.Accepted += c.Ledger.Accepted
		sum.Sent += c.Ledger.Sent
		sum.SentBytes += c.Ledger.SentBytes
		sum.Queued += c.Ledger.Queued
		for reason, n := range c.Ledger.Dropped {
			sum.Dropped[reason] += n
		}
		batches += c.Batches
		wakes += c.Wakes
	}
	return sum, batches, wakes
}

// sender returns a Sender that is closed with the test.
func (h *sending) sender(t *testing.T) *raftmux.Sender {
	s := h.NewSender()
	t.Cleanup(s.Close)
	return s
}

// mustSend sends messages, and ends the test if one is refused.
func mustSend(t testing.TB, s interface {
	Send(*raft_serverpb.RaftMessage) error
}, messages ...*raft_serverpb.RaftMessage,
) {
	t.Helper()
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
}

// sendAll sends messages and flushes.
func sendAll(t testing.TB, s *raftmux.Sender, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	mustSend(t, s, messages...)
	s.Flush()
}

// sendFirst sends messages to store 2 and flushes, before the store's address is
// found: the first stream that is opened is handed them.
func (h *sending) sendFirst(t *testing.T, s *raftmux.Sender, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	defer h.resolver.Block(there)()
	sendAll(t, s, messages...)
}

// numbered returns appends with size bytes of data for one region's peer on
// store 2, whose index counts from first to last.
func numbered(region, first, last uint64, size int) (messages []*raft_serverpb.RaftMessage) {
	for i := first; i <= last; i++ {
		messages = append(messages, rig.Index(rig.Append(region, there, region+1000, 1, size), i))
	}
	return messages
}

// indexes returns the numbers of the messages that came for a region, on the
// stream with this ID, or on any if it is 0.
func indexes(peer *rig.Peer, region uint64, stream int) (list []uint64) {
	for _, m := range peer.Messages() {
		if m.Message.GetRegionId() == region && (stream == 0 || m.Stream == stream) {
			list = append(list, m.Message.GetMessage().GetIndex())
		}
	}
	return list
}

// wantRange fails unless list is first, first+1, ... last.
func wantRange(t testing.TB, list []uint64, first, last uint64) {
	t.Helper()
	if uint64(len(list)) != last+1-first {
		t.Fatalf("%d messages came, not %d to %d", len(list), first, last)
	}
	for i, got := range list {
		if got != first+uint64(i) {
			t.Fatalf("message %d is at the place of %d", got, first+uint64(i))
		}
	}
}

// handlerFunc is a Handler.
type handlerFunc func(*raft_serverpb.RaftMessage) error

func (f handlerFunc) Step(m *raft_serverpb.RaftMessage) error { return f(m) }

// inbox is a Handler that keeps everything.
type inbox struct {
	mu       sync.Mutex
	messages []*raft_serverpb.RaftMessage
}

func (b *inbox) Step(m *raft_serverpb.RaftMessage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, m)
	return nil
}

func (b *inbox) all() []*raft_serverpb.RaftMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.messages[:len(b.messages):len(b.messages)]
}

func (b *inbox) wait(t testing.TB, n int) []*raft_serverpb.RaftMessage {
	t.Helper()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return len(b.all()) >= n }, "%d messages at the host", n)
	return b.all()
}

// receiving is a Server on a grpc.Server of its own.
type receiving struct {
	*raftmux.Server
	grpc *grpc.Server
	addr string
}

// newReceiving starts a Server on loopback, with GRPCServerOptions and more.
// Its options' StoreID is 2 unless given. It stops with the test.
func newReceiving(t *testing.T, options raftmux.ServerOptions, more ...grpc.ServerOption) *receiving {
	t.Helper()
	if options.StoreID == 0 {
		options.StoreID = there
	}
	server, err := raftmux.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiving{Server: server, grpc: grpc.NewServer(append(raftmux.GRPCServerOptions(), more...)...)}
	server.Register(r.grpc)
	r.addr = serve(t, r.grpc)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), rig.WaitTimeout)
		defer cancel()
		if err := server.Close(ctx); err != nil {
			t.Errorf("server close: %v", err)
		}
	})
	return r
}

// serve starts a grpc.Server on loopback and returns its address. It stops with
// the test.
func serve(t *testing.T, server *grpc.Server) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String()
}

// waitStats waits until the Server's counters are as they should be.
func (r *receiving) waitStats(t testing.TB, cond func(raftmux.ServerStats) bool) raftmux.ServerStats {
	t.Helper()
	deadline := time.Now().Add(rig.WaitTimeout)
	for stats := r.Stats(); ; stats = r.Stats() {
		if cond(stats) {
			return stats
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server counts %+v", stats)
		}
		time.Sleep(time.Millisecond)
	}
}

// gathered returns the value of the metric with a name and labels ("key=value"),
// 0 if there is none.
func gathered(t testing.TB, registry *prometheus.Registry, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			var has []string
			for _, label := range metric.GetLabel() {
				has = append(has, label.GetName()+"="+label.GetValue())
			}
			if contains(has, labels) {
				sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func contains(has, want []string) bool {
	all := " " + strings.Join(has, " ") + " "
	for _, label := range want {
		if !strings.Contains(all, " "+label+" ") {
			return false
		}
	}
	return true
}

// logCounter counts the records of a log by message, and by level and message.
type logCounter struct {
	slog.Handler
	mu     sync.Mutex
	counts map[string]int
}

func newLogCounter() *logCounter {
	return &logCounter{Handler: slog.DiscardHandler, counts: make(map[string]int)}
}

func (l *logCounter) Enabled(context.Context, slog.Level) bool { return true }

func (l *logCounter) Handle(_ context.Context, record slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[record.Message]++
	l.counts[record.Level.String()+" "+record.Message]++
	return nil
}

func (l *logCounter) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[message]
}
