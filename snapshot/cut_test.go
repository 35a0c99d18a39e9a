package snapshot_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// cuts are numbers of bytes after which a connection is cut: within the greeting,
// the message, at the ends of chunks, and just before the end.
func cuts(size int) []int64 {
	cuts := []int64{1, 24, 80, 300, 500, 700, 1000}
	for n := 10_000; n < size; n += size / 16 {
		cuts = append(cuts, int64(n))
	}
	for n := 1 << 20; n <= size; n += 1 << 20 {
		cuts = append(cuts, int64(n-1), int64(n+2000))
	}
	return append(cuts, int64(size))
}

// quiet waits until the store receives nothing.
func (s *store) quiet(t interface {
	Helper()
	Fatalf(format string, args ...any)
},
) {
	t.Helper()
	for deadline := time.Now().Add(rig.WaitTimeout); len(s.Transfers()) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("the receiver has not ended")
		}
		time.Sleep(time.Millisecond)
	}
}

// C9: wherever the connection is cut, no snapshot is surfaced, the leader hears of
// one Failure, and no file is left but the one that can be resumed. The second
// attempt sends only what is not there yet.
func TestC9CutAnywhere(t *testing.T) {
	t.Parallel()
	const size = 4<<20 + 12345
	want := random(7, size)
	for _, k := range cuts(size) {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			proxy := rig.NewProxy(t, s.address)
			l := newLeader(t, proxy.Addr(), memory{7: want})
			// The sender knows from the start that the receiver can resume.
			if _, err := l.sender.Precheck(context.Background(), s.address,
				snapshot.PrecheckRequest{RegionID: 7, PeerID: 27, StoreID: there}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.sender.Precheck(context.Background(), proxy.Addr(),
				snapshot.PrecheckRequest{RegionID: 7, PeerID: 27, StoreID: there}); err != nil {
				t.Fatal(err)
			}
			taken := s.cutAfter(t, proxy, k, func() { l.send(7, size) })
			if status := l.wait(7); status != raftmux.SnapshotFailure {
				t.Fatalf("a cut transfer ended in %v", status)
			}
			s.quiet(t)
			if len(s.host.of(7)) != 0 || len(s.files(t, ".snap")) != 0 {
				t.Fatal("part of a snapshot was surfaced")
			}
			have := s.kept(t)
			if have < taken {
				t.Errorf("of %d bytes taken only %d are kept", taken, have)
			}

			before := proxy.Stats().CarriedUp
			l.send(7, size)
			if status := l.wait(7); status != raftmux.SnapshotFinish {
				t.Fatalf("the second attempt ended in %v", status)
			}
			s.expect(t, 7, want)
			if carried := proxy.Stats().CarriedUp - before; carried > size-have+64<<10 {
				t.Errorf("the second attempt sent %d bytes, %d of %d were there", carried, have, size)
			}
			if left := s.files(t, ".tmp"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// framing is more than what a cut transfer needs besides data: the greeting, the
// message, and headers.
const framing = 5000

// cutAfter lets send start a transfer, carries so many bytes of it, waits until the
// store has taken the chunks that are certainly whole, cuts the connection, and
// waits until the store has noticed. It returns how much data that is, at least.
func (s *store) cutAfter(t testing.TB, proxy *rig.Proxy, after int64, send func()) (taken int64) {
	t.Helper()
	// What a connection before says in the end would be taken for the transfer's bytes.
	rig.Eventually(t, rig.WaitTimeout, func() bool { return proxy.Stats().Live == 0 }, "the proxy carries nothing")
	before := proxy.Stats().CarriedUp
	proxy.HoldAfter(after)
	send()
	taken = max(0, after-framing) >> 20 << 20
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		if proxy.Stats().CarriedUp-before < after {
			return false
		}
		all := s.Transfers()
		return taken == 0 || len(all) == 1 && all[0].Done >= taken
	}, "the store has taken what came")
	proxy.Cut()
	proxy.SetMode(rig.Pass)
	s.quiet(t)
	return taken
}

// expectRest sends a snapshot of region 7 whose first bytes are kept, and looks that
// those don't come once more.
func (s *store) expectRest(t testing.TB, sender *snapshot.Sender, proxy *rig.Proxy, want []byte, have int64) {
	t.Helper()
	before := proxy.Stats().CarriedUp
	if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(7, len(want))); err != nil {
		t.Fatal(err)
	}
	s.expect(t, 7, want)
	if carried := proxy.Stats().CarriedUp - before; carried > int64(len(want))-have+64<<10 {
		t.Errorf("%d bytes were sent again", carried)
	}
}

// kept returns how many bytes the store has of broken transfers.
func (s *store) kept(t testing.TB) (n int64) {
	t.Helper()
	for _, name := range s.files(t, ".tmp") {
		stat, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		n += stat.Size()
	}
	return n
}

// Without resumption nothing is left of a cut transfer, and a peer without it is
// no different.
func TestCutLeavesNothing(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	want := random(7, size)
	for _, k := range []int64{500, 100_000, 1<<20 + 5000, 2<<20 + 5000, size} {
		t.Run(fmt.Sprint(k), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, func(o *snapshot.ReceiverOptions) { o.MaxPartials = -1 })
			proxy := rig.NewProxy(t, s.address)
			proxy.CutAfter(k)
			sender := newSender(t, memory{7: want})
			if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(7, size)); err == nil {
				t.Error("a cut transfer succeeded")
			}
			s.quiet(t)
			proxy.CutAfter(k)
			stream := plainStream(t, proxy.Addr())
			_ = sendPlain(stream, message(7, -1), want)
			if _, err := stream.CloseAndRecv(); err == nil {
				t.Error("a plain peer's cut transfer succeeded")
			}
			s.quiet(t)
			// The store may learn of a stream only after it is cut.
			rig.Eventually(t, rig.WaitTimeout, func() bool { return len(s.files(t, "")) == 0 }, "nothing is left")
			if n := len(s.host.of(7)); n != 0 {
				t.Errorf("%d cut transfers were handed over", n)
			}
		})
	}
}

// plainStream opens a stream with the generated client.
func plainStream(t testing.TB, address string) tikvpb.Tikv_SnapshotClient {
	t.Helper()
	stream, err := newPlainClient(t, address).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// newPlainClient returns the generated client with gRPC's own codec.
func newPlainClient(t testing.TB, address string) tikvpb.TikvClient {
	t.Helper()
	return tikvpb.NewTikvClient(rig.NewRaftClient(t, address, rig.RaftClientOptions{}).Conn())
}

// sendPlain sends a message and data as a TiKV does. The stream's end tells how it went.
func sendPlain(stream tikvpb.Tikv_SnapshotClient, m *raft_serverpb.RaftMessage, data []byte) error {
	if err := stream.Send(&raft_serverpb.SnapshotChunk{Message: m}); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), 1<<20)
		if err := stream.Send(&raft_serverpb.SnapshotChunk{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// What is kept of broken transfers is bounded in time and in number.
func TestPartialsAreDiscardedInTime(t *testing.T) {
	t.Parallel()
	cut := func(t *testing.T, s *store, regions ...uint64) {
		t.Helper()
		proxy := rig.NewProxy(t, s.address)
		for _, region := range regions {
			s.cutSending(t, newSender(t, memory{region: random(region, 3<<20)}), proxy, message(region, 3<<20), 2<<20+framing)
		}
	}
	t.Run("life", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, func(o *snapshot.ReceiverOptions) { o.PartialLife = time.Millisecond })
		cut(t, s, 1)
		rig.Eventually(t, rig.WaitTimeout, func() bool { return len(s.files(t, "")) == 0 }, "the partial is gone")
	})
	t.Run("number", func(t *testing.T) {
		t.Parallel()
		s := newStore(t, func(o *snapshot.ReceiverOptions) { o.MaxPartials = 2 })
		cut(t, s, 1, 2, 3, 4)
		if left := s.files(t, ".tmp"); len(left) != 2 {
			t.Errorf("%d partials are kept: %v", len(left), left)
		}
	})
	t.Run("close", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		cut(t, s, 1, 2)
		s.Close()
		if left := s.files(t, ""); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		cut(t, s, 1, 2)
		s.Cancel(1)
		if left := s.files(t, ""); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}
