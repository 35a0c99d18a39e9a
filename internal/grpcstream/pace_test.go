package grpcstream

import (
	"context"
	"math"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// C23: a peer that complains of too many probes gets fewer from the next connection, or
// each would end like the last.
func TestTooManyPings(t *testing.T) {
	t.Parallel()
	odd := rig.NewOddPeer(t, func(framer *http2.Framer, frame http2.Frame) (goOn bool) {
		if _, ok := frame.(*http2.HeadersFrame); !ok {
			return true
		}
		_ = framer.WriteGoAway(math.MaxInt32, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
		return false // as gRPC's servers do
	})
	transport := New(Options{
		StoreID: 1, ConnectTimeout: rig.WaitTimeout, KeepaliveTime: 10 * time.Second, KeepaliveTimeout: time.Second, WindowSize: 1 << 20,
		Dialer: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	})
	for _, want := range []time.Duration{20 * time.Second, 40 * time.Second} {
		link, err := transport.Connect(t.Context(), odd.Addr)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := link.Open(t.Context(), peer.BatchRaft, wire.StreamID{Lane: "data"})
		if err != nil {
			t.Fatal(err)
		}
		err = stream.Wait(func(uint64) {})
		if got := transport.pace.of(odd.Addr); got != want {
			t.Errorf("probes each %v, not %v, after %v", got, want, err)
		}
		link.Close()
	}
	transport.Wait()
	if got := transport.pace.of("elsewhere:1"); got != 0 {
		t.Errorf("another address has %v", got)
	}
}

func TestPaceIsBounded(t *testing.T) {
	t.Parallel()
	for keepalive, want := range map[time.Duration]time.Duration{
		time.Second: mostPause, 10 * time.Second: mostPause, time.Hour: mostPause, // less than it was told has no effect
	} {
		var p pace
		for range 20 {
			p.slowDown("a:1", keepalive)
		}
		if got := p.of("a:1"); got != want {
			t.Errorf("%v became %v", keepalive, got)
		}
	}
}
