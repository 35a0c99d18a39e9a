package snapshot_test

import (
	"context"
	"slices"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// breakOff sends a message, and cuts the connection after so many bytes. The sender
// knows that the receiver can resume.
func (s *store) breakOff(t testing.TB, sender *snapshot.Sender, proxy *rig.Proxy, m *raft_serverpb.RaftMessage, after int64) {
	t.Helper()
	ask := snapshot.PrecheckRequest{RegionID: m.RegionId, PeerID: m.ToPeer.Id, StoreID: there}
	if _, err := sender.Precheck(t.Context(), proxy.Addr(), ask); err != nil {
		t.Fatal(err)
	}
	s.cutSending(t, sender, proxy, m, after)
}

// cutSending is breakOff by a sender that may not know it.
func (s *store) cutSending(t testing.TB, sender *snapshot.Sender, proxy *rig.Proxy, m *raft_serverpb.RaftMessage, after int64) {
	t.Helper()
	failed := make(chan error, 1)
	s.cutAfter(t, proxy, after, func() {
		go func() { failed <- sender.SendSnapshot(context.Background(), proxy.Addr(), m) }()
	})
	if <-failed == nil {
		t.Fatal("a cut transfer succeeded")
	}
}

// Another snapshot than the one that broke off isn't mixed with it, even if all
// that its message says is the same; and the message that is delivered is the one
// that came with the last of the data, even if the data is the same.
func TestResumesOnlyTheSame(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	for name, change := range map[string]func(m *raft_serverpb.RaftMessage){
		"nothing":      func(*raft_serverpb.RaftMessage) {},
		"index":        func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot.Metadata.Index++ },
		"term":         func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot.Metadata.Term++ },
		"message term": func(m *raft_serverpb.RaftMessage) { m.Message.Term++ },
		"sender":       func(m *raft_serverpb.RaftMessage) { rig.From(m, here, m.FromPeer.Id+1) },
		"host's data": func(m *raft_serverpb.RaftMessage) { // names other files, say
			m.Message.Snapshot.Data = append(m.Message.Snapshot.Data, 15<<3, 1)
		},
	} {
		for bytes, seed := range map[string]uint64{"same bytes": 1, "other bytes": 2} {
			t.Run(name+", "+bytes, func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				proxy := rig.NewProxy(t, s.address)
				source := memory{7: random(1, size)}
				sender := newSender(t, source)
				s.breakOff(t, sender, proxy, message(7, size), 2<<20+50_000)
				source[7] = random(seed, size)
				m := message(7, size)
				change(m)
				if err := sender.SendSnapshot(context.Background(), proxy.Addr(), m); err != nil {
					t.Fatal(err)
				}
				s.expect(t, 7, source[7])
				for _, got := range s.host.of(7) {
					if got.message.String() != m.String() {
						t.Errorf("%v came, and %v was delivered", m, got.message)
					}
				}
				if left := s.files(t, ".tmp"); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	}
}

// A sender that was never asked learns from its first transfers what the receiver
// can, even from one that breaks off.
func TestLearnsWhoResumes(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	s := newStore(t)
	proxy := rig.NewProxy(t, s.address)
	want := random(7, size)
	sender := newSender(t, memory{7: want, 8: random(8, 10)})
	if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(8, 10)); err != nil {
		t.Fatal(err)
	}
	s.cutSending(t, sender, proxy, message(7, size), 3<<20+50_000)
	have := s.kept(t)
	s.expectRest(t, sender, proxy, want, have)
}

// What a sender knows of a receiver isn't forgotten over an attempt that ends
// before the receiver could say anything.
func TestRemembersWhoResumes(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	want := random(7, size)
	for name, fail := range map[string]func(*rig.Proxy) *raft_serverpb.RaftMessage{
		"refused": func(*rig.Proxy) *raft_serverpb.RaftMessage { // in trailers, without headers
			m := message(7, size)
			m.ToPeer.StoreId = 9
			return m
		},
		"cut": func(proxy *rig.Proxy) *raft_serverpb.RaftMessage {
			proxy.CutAfter(300)
			return message(7, size)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			proxy := rig.NewProxy(t, s.address)
			sender := newSender(t, memory{7: want})
			s.breakOff(t, sender, proxy, message(7, size), 3<<20+50_000)
			have := s.kept(t)
			if err := sender.SendSnapshot(context.Background(), proxy.Addr(), fail(proxy)); err == nil {
				t.Fatal("the second attempt succeeded")
			}
			s.quiet(t)
			proxy.CutAfter(-1)
			s.expectRest(t, sender, proxy, want, have)
		})
	}
}

// A late stream for an older snapshot doesn't cost what is kept of a newer one.
func TestKeepsTheNewer(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	for name, change := range map[string]func(m *raft_serverpb.RaftMessage){
		"index": func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot.Metadata.Index-- },
		"term":  func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot.Metadata.Term-- },
		"leader": func(m *raft_serverpb.RaftMessage) { // had applied more, and was deposed
			rig.From(m, here, m.FromPeer.Id+1).Message.Term--
			m.Message.Snapshot.Metadata.Index++
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			proxy := rig.NewProxy(t, s.address)
			source := memory{7: random(1, size)}
			sender := newSender(t, source)
			s.breakOff(t, sender, proxy, message(7, size), 3<<20+50_000)
			kept, have := s.files(t, ".tmp"), s.kept(t)

			old := message(7, size)
			change(old)
			source[7] = random(2, size)
			s.breakOff(t, sender, proxy, old, 2<<20+50_000)
			if left := s.files(t, ".tmp"); len(kept) != 1 || !slices.Contains(left, kept[0]) {
				t.Errorf("of %v these are kept: %v", kept, left)
			}

			source[7] = random(1, size)
			s.expectRest(t, sender, proxy, source[7], have)
			if left := s.files(t, ".tmp"); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A sink that is asked anew, because the sender doesn't have what was kept, may
// have the snapshot by then: that is no failure.
func TestHaveItAnew(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	asked := 0
	into := &sink{create: func(context.Context) error {
		if asked++; asked > 1 {
			return snapshot.ErrHave
		}
		return nil
	}}
	s := newStore(t, withSink(into))
	proxy := rig.NewProxy(t, s.address)
	source := memory{7: random(1, size)}
	sender := newSender(t, source)
	s.breakOff(t, sender, proxy, message(7, size), 2<<20+50_000)
	source[7] = random(2, size)
	if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(7, size)); err != nil {
		t.Error(err)
	}
	s.quiet(t)
	if asked != 2 || !into.idle() {
		t.Errorf("the sink was asked %d times, or a Writer has not ended", asked)
	}
}
