package snapshot_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// opening is a Source that opens nothing before it may.
type opening struct {
	memory
	may func(ctx context.Context) error
}

func (s opening) OpenSnapshot(ctx context.Context, m *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	if err := s.may(ctx); err != nil {
		return nil, err
	}
	return s.memory.OpenSnapshot(ctx, m)
}

// untilOver returns when ctx has ended.
func untilOver(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// C9: a transfer that hangs before its stream is there is a Failure within the
// bound for the whole, be it in the Source or while it connects.
func TestC9GraceBoundsTheBeginning(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	data := memory{7: random(1, 1000)}
	for name, test := range map[string]struct {
		source snapshot.Source
		change func(*snapshot.SenderOptions)
		size   int // that the message says
	}{
		"opening":               {source: opening{data, untilOver}, size: 1000},
		"opening, without size": {source: opening{data, untilOver}, size: -1},
		"connecting": {source: data, size: 1000, change: func(o *snapshot.SenderOptions) {
			o.ConnectTimeout = time.Hour
			o.Dialer = func(ctx context.Context, _ string) (net.Conn, error) { return nil, untilOver(ctx) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLeader(t, s.address, test.source, func(o *snapshot.SenderOptions) {
				o.Grace = 100 * time.Millisecond
				if test.change != nil {
					test.change(o)
				}
			})
			l.send(7, test.size)
			if status := l.wait(7); status != raftmux.SnapshotFailure {
				t.Errorf("ended in %v", status)
			}
			ctx, cancel := context.WithTimeout(context.Background(), rig.WaitTimeout)
			defer cancel()
			if err := l.sender.SendSnapshot(ctx, s.address, message(7, test.size)); !errors.Is(err, snapshot.ErrTooSlow) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// A Source may take longer to open the data than a transfer may stand still.
func TestSlowOpeningIsNoStall(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const limit = 500 * time.Millisecond
	want := random(1, 1000)
	// Another transfer shows that the time has passed in which one that stalls fails.
	stalls := newSender(t, memory{7: random(1, 20<<20)}, func(o *snapshot.SenderOptions) { o.StallTimeout = limit })
	peer := newPlainPeer(t, &plainPeer{before: func(ctx context.Context, _ int) error { return untilOver(ctx) }})
	sender := newSender(t, opening{memory{7: want}, func(ctx context.Context) error {
		for range 2 {
			if err := stalls.SendSnapshot(ctx, peer, message(7, 20<<20)); !errors.Is(err, snapshot.ErrStalled) {
				t.Errorf("the other one ended with %v", err)
			}
		}
		return ctx.Err()
	}}, func(o *snapshot.SenderOptions) { o.StallTimeout = limit })
	if err := sender.SendSnapshot(context.Background(), s.address, message(7, 1000)); err != nil {
		t.Error(err)
	}
	s.expect(t, 7, want)
}

// A sink may take longer than a sender may be silent, to begin with a snapshot and
// to write of it, and so may another stream that has to end first.
func TestSlowSinkIsNoStall(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{"create", "write", "older stream"} {
		t.Run(slow, func(t *testing.T) {
			t.Parallel()
			into, began, release := held()
			defer release()
			if slow == "create" {
				hold := into.write
				into.write = nil
				into.create = func(context.Context) error {
					hold()
					return nil
				}
			}
			s := newStore(t, withSink(into), func(o *snapshot.ReceiverOptions) { o.StallTimeout = 500 * time.Millisecond })
			send := func() chan error {
				result := make(chan error, 1)
				go func() { result <- sendChunks(t, s.address, nil, chunksOf(7)...) }()
				return result
			}
			result := send()
			<-began
			if slow == "older stream" {
				older := result
				result = send()
				if err := <-older; status.Code(err) != codes.Aborted {
					t.Errorf("the older stream ended with %v", err)
				}
			}
			// Silent streams show that the time has passed.
			for range 2 {
				if err := plainStream(t, s.address).RecvMsg(new(raft_serverpb.Done)); status.Code(err) != codes.DeadlineExceeded {
					t.Errorf("a silent stream ended with %v", err)
				}
			}
			release()
			if err := <-result; err != nil {
				t.Errorf("ended with %v", err)
			}
			s.quiet(t)
			if n := len(into.of(7)); n != 1 {
				t.Errorf("%d were committed", n)
			}
		})
	}
}
