package raftmux_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// oddPeer is a store that answers by HTTP/2's frames, and by no more.
type oddPeer struct {
	addr     string
	accepted atomic.Int64
}

// newOddPeer greets each connection with settings and gives all that it says to answer.
func newOddPeer(t *testing.T, answer func(*http2.Framer, http2.Frame), settings ...http2.Setting) *oddPeer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	peer := &oddPeer{addr: listener.Addr().String()}
	stop := make(chan struct{})
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			peer.accepted.Add(1)
			connections.Go(func() { <-stop; _ = conn.Close() })
			connections.Go(func() { serveOddly(conn, answer, settings) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		close(stop)
		connections.Wait()
	})
	return peer
}

func serveOddly(conn net.Conn, answer func(*http2.Framer, http2.Frame), settings []http2.Setting) {
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	if framer.WriteSettings(settings...) != nil {
		return
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
			_ = framer.WriteSettingsAck()
		}
		answer(framer, frame)
	}
}

// C12: a peer that allows no stream is one that can't be reached: its messages are
// reported, and it is asked again.
func TestC12NoStreamAllowed(t *testing.T) {
	t.Parallel()
	peer := newOddPeer(t, func(*http2.Framer, http2.Frame) {}, http2.Setting{ID: http2.SettingMaxConcurrentStreams})
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectTimeout, o.BackoffStep, o.MaxMessageAge = 200*time.Millisecond, 20*time.Millisecond, time.Minute
	})
	h.resolver.Set(there, peer.addr)
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		return h.router.Events().Unreachable(1, 2) == 1 && peer.accepted.Load() >= 3
	}, "nobody was told of the message, or the peer wasn't tried again")
}

// C12: gRPC doesn't dial by itself, for a stream that was lost neither: each connection
// is an attempt of raftmux's, with a look-up and a pause of its own.
func TestC12OneConnectionPerAttempt(t *testing.T) {
	t.Parallel()
	goAway := func(framer *http2.Framer) { _ = framer.WriteGoAway(0, http2.ErrCodeNo, nil) }
	for name, answer := range map[string]func(*http2.Framer, http2.Frame){
		"go away at the stream": func(framer *http2.Framer, frame http2.Frame) {
			if _, ok := frame.(*http2.HeadersFrame); ok {
				goAway(framer)
			}
		},
		"go away at once": func(framer *http2.Framer, frame http2.Frame) {
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				goAway(framer)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := newOddPeer(t, answer)
			h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = 20 * time.Millisecond })
			h.resolver.Set(there, peer.addr)
			sendAll(t, h.sender(t), rig.Ack(1, there, 2)) // and no more: what has sent isn't retried
			rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) >= 12 }, "look-ups")
			// Each connection comes after its look-up.
			if connections, lookups := peer.accepted.Load(), h.resolver.Lookups(there); connections > int64(lookups) {
				t.Errorf("%d connections in %d attempts", connections, lookups)
			}
		})
	}
}
