package snapshot_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// slowConn takes 4 MiB a second.
type slowConn struct{ net.Conn }

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(len(b)) * time.Second / (4 << 20))
	return c.Conn.Write(b)
}

func slowly(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	return slowConn{conn}, err
}

// A message that is long on its way moves all the while, and counts in what the
// transfer may take, also if there is no data beside it.
func TestLongMessageIsNoStall(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]snapshot.Source{"alone": snapshot.Inline{}, "with data": memory{7: random(7, 100_000)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			sender := newSender(t, source, func(o *snapshot.SenderOptions) {
				o.StallTimeout, o.Grace = 3*time.Second, 3*time.Second
				o.Dialer = slowly
			})
			if err := sender.SendSnapshot(t.Context(), s.address, rig.Snapshot(7, there, 27, 20<<20)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A message that nobody takes is as much a stall as data.
func TestMessageStalls(t *testing.T) {
	t.Parallel()
	peer := newPlainPeer(t, &plainPeer{before: func(ctx context.Context, _ int) error { return untilOver(ctx) }})
	sender := newSender(t, snapshot.Inline{}, func(o *snapshot.SenderOptions) { o.StallTimeout = 300 * time.Millisecond })
	ctx, cancel := context.WithTimeout(t.Context(), rig.WaitTimeout)
	defer cancel()
	if err := sender.SendSnapshot(ctx, peer, rig.Snapshot(7, there, 27, 40<<20)); !errors.Is(err, snapshot.ErrStalled) {
		t.Errorf("ended with %v", err)
	}
}

// A host may take longer to deal with a message than one may stand still on its way.
func TestSlowDeliveryIsNoStall(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: snapshot.Inline{
		Deliver: func(context.Context, *raft_serverpb.RaftMessage) error {
			time.Sleep(3 * limit)
			return nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, receiver)
	for i, size := range []int{100, 64 << 10, 128<<10 - 100, 3<<20 + 77} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			sender := newSender(t, snapshot.Inline{}, func(o *snapshot.SenderOptions) { o.StallTimeout = limit })
			if err := sender.SendSnapshot(t.Context(), address, rig.Snapshot(uint64(i+1), there, 27, size)); err != nil {
				t.Error(err)
			}
		})
	}
}

// A message that is larger than the peer's gRPC takes at all is not a matter of how busy
// that is.
func TestMessageBeyondTheLimit(t *testing.T) {
	t.Parallel()
	peer := newPlainPeer(t, new(plainPeer)) // has gRPC's own limit of 4 MiB
	sender := newSender(t, snapshot.Inline{})
	err := sender.SendSnapshot(t.Context(), peer, rig.Snapshot(7, there, 27, 5<<20))
	if status.Code(errors.Unwrap(err)) != codes.ResourceExhausted || errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("ended with %v", err)
	}
}
