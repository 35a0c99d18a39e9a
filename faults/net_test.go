package faults

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// store is a Client or a Server or both, with Rules.
type store struct {
	rules    *Rules
	client   *raftmux.Client
	resolver *rig.Resolver
	router   *rig.Router[raftmux.SnapshotStatus]
	server   *raftmux.Server
	addr     string
	host     arrivals
	registry *prometheus.Registry
}

// newStore starts a store on loopback. Rules, Client and Server close with the
// test, in this order.
func newStore(t *testing.T, id uint64, texts ...string) *store {
	t.Helper()
	s := &store{
		resolver: rig.NewResolver(), router: rig.NewRouter[raftmux.SnapshotStatus](t),
		registry: prometheus.NewRegistry(),
	}
	s.rules = New(Options{Seed: 1, StoreID: id})
	if err := s.rules.Set(texts...); err != nil {
		t.Fatal(err)
	}
	var err error
	s.client, err = raftmux.NewClient(raftmux.ClientOptions{
		StoreID: id, Resolver: s.resolver, Router: s.router, Filter: s.rules,
		MaxMessageAge: time.Minute, BackoffStep: 20 * time.Millisecond, Registerer: s.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.server, err = raftmux.NewServer(raftmux.ServerOptions{
		StoreID: id, NewReceiver: s.rules.Receiver(raftmux.HandlerReceiver(&s.host, true)), Registerer: s.registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(raftmux.GRPCServerOptions()...)
	s.server.Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		s.close(t)
		if err := s.server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		server.Stop()
		<-served
	})
	return s
}

func (s *store) close(t testing.TB) {
	s.rules.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.client.Close(ctx); err != nil {
		t.Error(err)
	}
	s.router.Closed()
}

// value returns the sum of a metric, over what has the label's value if that isn't "".
func (s *store) value(t testing.TB, name, label string) (sum float64) {
	t.Helper()
	families, err := s.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			has := label == ""
			for _, l := range m.GetLabel() {
				has = has || l.GetValue() == label
			}
			if has {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

type sends interface {
	Send(*raft_serverpb.RaftMessage) error
	Flush()
}

func sendAll(t testing.TB, s sends, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	s.Flush()
}

// came returns the indexes of what the peer got, once there are n.
func came(t testing.TB, peer *rig.Peer, n int) (list []uint64) {
	t.Helper()
	peer.WaitMessages(t, n)
	for _, m := range peer.Messages() {
		list = append(list, m.Message.GetMessage().GetIndex())
	}
	return list
}

// C2: on send a dropped message is refused with ErrFiltered, at once, without a
// callback; the others pass, and so do all when the rule is gone.
func TestFilterOnSend(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	s := newStore(t, 1, "drop MsgAppend region=7 to=2")
	s.resolver.Set(2, peer.Addr())
	sender := s.client.NewSender()
	defer sender.Close()
	var refused *raftmux.SendError
	err := sender.Send(appends(1)[0])
	if !errors.Is(err, raftmux.ErrFiltered) || !errors.As(err, &refused) || refused.RegionID != 7 || raftmux.ReasonLabel(err) != "filtered" {
		t.Errorf("%v", err)
	}
	sendAll(t, sender, rig.Index(rig.Heartbeat(7, 2, 72), 2), rig.Index(rig.Append(8, 2, 72, 1, 10), 3))
	s.rules.Clear()
	sendAll(t, sender, appends(4)...)
	list := came(t, peer, 3)
	slices.Sort(list) // heartbeats may overtake
	if !slices.Equal(list, []uint64{2, 3, 4}) {
		t.Errorf("%v came", list)
	}
	if n := s.router.Events().Total(rig.Unreachable); n != 0 {
		t.Errorf("%d callbacks", n)
	}
	if n := s.value(t, "raftmux_server_report_failure_msg_total", "filtered"); n != 1 {
		t.Errorf("%v counted", n)
	}
}

// A store that isolates itself hears from nobody and is heard by nobody, without
// a connection breaking, and is back at once when it is healed. What is dropped on
// receive is counted apart from what is malformed (C20).
func TestIsolateBothWays(t *testing.T) {
	t.Parallel()
	one, two := newStore(t, 1), newStore(t, 2)
	one.resolver.Set(2, two.addr)
	two.resolver.Set(1, one.addr)
	from1, from2 := one.client.NewSender(), two.client.NewSender()
	defer from1.Close()
	defer from2.Close()
	to1 := func(i uint64) *raft_serverpb.RaftMessage {
		return rig.Index(rig.From(rig.Append(7, 1, 71, 1, 10), 2, 72), i)
	}
	sendAll(t, from1, appends(1)...)
	sendAll(t, from2, to1(1))
	both := func(n uint64) func() bool {
		return func() bool { return one.server.Stats().Messages == n && two.server.Stats().Messages == n }
	}
	rig.Eventually(t, rig.WaitTimeout, both(1), "the first message of each")
	for _, text := range []string{"isolate 2", "partition 1|2"} {
		if err := two.rules.Set(text); err != nil {
			t.Fatal(err)
		}
		filtered := two.server.Stats().Filtered
		if err := from2.Send(to1(2)); !errors.Is(err, raftmux.ErrFiltered) {
			t.Errorf("%s: %v", text, err)
		}
		sendAll(t, from1, appends(2, 3)...)
		rig.Eventually(t, rig.WaitTimeout, func() bool { return two.server.Stats().Filtered == filtered+2 }, text)
	}
	two.rules.Clear()
	sendAll(t, from1, appends(4)...)
	sendAll(t, from2, to1(4))
	rig.Eventually(t, rig.WaitTimeout, both(2), "healed")
	one.host.want(t, "store 1", 1, 4)
	two.host.want(t, "store 2", 1, 4)
	if stats := two.server.Stats(); stats.Malformed != 0 || stats.Refused != 0 || stats.Streams != 1 {
		t.Errorf("%+v", stats)
	}
	if n := two.value(t, "raftmux_received_filtered_total", ""); n != 4 {
		t.Errorf("%v counted", n)
	}
	if down := one.router.Events().Total(rig.StoreUnreachable) + two.router.Events().Total(rig.StoreUnreachable); down != 0 {
		t.Error("a connection broke")
	}
}

// Delayed and duplicated by the Server of a store, on their way from a kvproto peer.
func TestServerDelays(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2, "delay 1s MsgAppend", "duplicate MsgHeartbeat")
	stream := rig.NewRaftClient(t, s.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	began := time.Now()
	if err := stream.Send(append(appends(1, 2), rig.Index(rig.Heartbeat(7, 2, 72), 3))...); err != nil {
		t.Fatal(err)
	}
	if err := stream.Finish(t); err != nil {
		t.Fatal(err)
	}
	s.host.want(t, "when the stream has ended", 3, 3)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return s.rules.Stats().Delivered == 2 }, "delayed messages")
	if took := time.Since(began); took < time.Second {
		t.Errorf("came after %v", took)
	}
	s.host.want(t, "late", 1, 2)
	if stats := s.server.Stats(); stats.Messages != 3 || stats.Filtered != 0 {
		t.Errorf("%+v", stats)
	}
}

// C16: the store id of a message that would wait is checked all the same.
func TestWrongStoreStillEndsTheStream(t *testing.T) {
	t.Parallel()
	s := newStore(t, 2, "delay 1ms")
	stream := rig.NewRaftClient(t, s.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	if err := stream.Send(append(appends(1), rig.Heartbeat(7, 3, 72))...); err != nil {
		t.Fatal(err)
	}
	if err := stream.Status(t); err == nil {
		t.Error("the stream ended well")
	}
	if stats := s.rules.Stats(); stats != (Stats{}) {
		t.Errorf("%+v", stats)
	}
}

// On send: messages wait, in order, as they were when they were sent (C3), and
// are overtaken; duplicates follow their messages.
func TestSenderDelays(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	s := newStore(t, 1, "delay 1s MsgAppend", "duplicate")
	s.resolver.Set(2, peer.Addr())
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	reused := appends(1)[0]
	for i := uint64(1); i <= 3; i++ {
		sendAll(t, sender, rig.Index(reused, i))
		reused.Message.Entries[0].Data[0]++
	}
	sendAll(t, sender, rig.Index(rig.Message(7, 2, 72, eraftpb.MessageType_MsgAppendResponse), 9))
	if err := sender.SendEncoded(raftmux.EnvelopeOf(reused), kvEncoder{rig.Index(reused, 4)}); err != nil {
		t.Fatal(err)
	}
	s.rules.Clear()
	sendAll(t, sender, rig.Index(reused, 10))
	if list := came(t, peer, 11); !slices.Equal(list, []uint64{9, 9, 10, 1, 1, 2, 2, 3, 3, 4, 4}) {
		t.Errorf("%v came", list)
	}
	for i, m := range peer.Messages()[3:] {
		if first := m.Message.Message.Entries[0].Data[0]; first != byte('a'+i/2) {
			t.Errorf("message %d begins with %c", i, first)
		}
	}
	// What waited is counted when it has been handed on.
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		return s.rules.Stats() == Stats{Duplicated: 5, Waited: 4, Delivered: 4}
	}, "the counters say what came")
}

// nilEntry adds an entry that isn't there.
func nilEntry(m *raft_serverpb.RaftMessage) *raft_serverpb.RaftMessage {
	m.Message.Entries = append(m.Message.Entries, nil)
	return m
}

// C2, C9: what can't be accepted is refused at once, and snapshots don't wait:
// each has its one status.
func TestSenderLeavesAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, "delay 1h", "duplicate")
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	for _, m := range []*raft_serverpb.RaftMessage{
		rig.Heartbeat(7, 2, 0), rig.Heartbeat(7, 0, 72), rig.Heartbeat(7, 1, 71),
		nilEntry(rig.Append(7, 2, 72, 1, 10)),
		rig.Message(7, 2, 72, eraftpb.MessageType_MsgBeat),
		{},
		nil,
	} {
		if err := sender.Send(m); !errors.Is(err, raftmux.ErrInvalid) {
			t.Errorf("%v: %v", m, err)
		}
	}
	sendAll(t, sender, rig.Snapshot(7, 2, 72, 10))
	s.router.WaitFor(t, rig.WaitTimeout, func(e rig.Events[raftmux.SnapshotStatus]) bool {
		return len(e.Snapshots(7, 72)) == 1
	}, "the status")
	if stats := s.rules.Stats(); stats != (Stats{}) {
		t.Errorf("%+v", stats)
	}
}

// C8: what waited and is then refused is reported once per peer, again after "not
// now"; so is what waits when the Rules close. C11: never after.
func TestSenderReports(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, "delay 10ms region=7", "delay 1h region=8", "drop region=7")
	s.router.Refuse(rig.Unreachable, 3)
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	sendAll(t, sender, appends(1, 2, 3)...)
	s.router.WaitFor(t, rig.WaitTimeout, func(e rig.Events[raftmux.SnapshotStatus]) bool {
		return e.Unreachable(7, 72) >= 1 && e.Refused(rig.Unreachable) == 3
	}, "a report that was refused three times")
	rig.Eventually(t, rig.WaitTimeout, func() bool { return s.rules.Stats().Refused == 3 }, "all to be refused")
	sendAll(t, sender, rig.Heartbeat(8, 2, 82), rig.Heartbeat(8, 2, 82), rig.Heartbeat(8, 2, 83))
	s.rules.Close()
	events := s.router.Events()
	if events.Unreachable(8, 82) != 1 || events.Unreachable(8, 83) != 1 {
		t.Errorf("%+v", events)
	}
	s.close(t)
	if stats := s.rules.Stats(); stats != (Stats{Dropped: 3, Waited: 6, Refused: 3, Lost: 3}) {
		t.Errorf("%+v", stats)
	}
}

// C11, C24: a Router that never takes a report doesn't hold Close up.
func TestCloseAsksOnceMore(t *testing.T) {
	t.Parallel()
	s := newStore(t, 1, "delay 1h")
	s.router.Refuse(rig.Unreachable, 1<<30)
	sender := s.rules.NewSender(s.client, s.router)
	defer sender.Close()
	sendAll(t, sender, appends(1)...)
	s.rules.Close()
	if n := s.router.Events().Refused(rig.Unreachable); n != 1 {
		t.Errorf("asked %d times", n)
	}
	s.router.Refuse(rig.Unreachable, 0)
}
