package raftmux_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C12: a peer that allows no stream is one that can't be reached: its messages are
// reported, and it is asked again.
func TestC12NoStreamAllowed(t *testing.T) {
	t.Parallel()
	peer := rig.NewOddPeer(t, rig.Silent, http2.Setting{ID: http2.SettingMaxConcurrentStreams})
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectTimeout, o.BackoffStep, o.MaxMessageAge = 200*time.Millisecond, 20*time.Millisecond, time.Minute
	})
	h.resolver.Set(there, peer.Addr)
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		return h.router.Events().Unreachable(1, 2) == 1 && peer.Accepted() >= 3
	}, "nobody was told of the message, or the peer wasn't tried again")
}

// C12: gRPC doesn't dial by itself, for a stream that was lost neither: each connection
// is an attempt of raftmux's, with a look-up and a pause of its own.
func TestC12OneConnectionPerAttempt(t *testing.T) {
	t.Parallel()
	goAway := func(framer *http2.Framer) { _ = framer.WriteGoAway(0, http2.ErrCodeNo, nil) }
	for name, answer := range map[string]rig.Answer{
		"go away at the stream": func(framer *http2.Framer, frame http2.Frame) bool {
			if _, ok := frame.(*http2.HeadersFrame); ok {
				goAway(framer)
			}
			return true
		},
		"go away at once": func(framer *http2.Framer, frame http2.Frame) bool {
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				goAway(framer)
			}
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := rig.NewOddPeer(t, answer)
			h := newSending(t, func(o *raftmux.ClientOptions) { o.BackoffStep = 20 * time.Millisecond })
			h.resolver.Set(there, peer.Addr)
			sendAll(t, h.sender(t), rig.Ack(1, there, 2)) // and no more: what has sent isn't retried
			rig.Eventually(t, rig.WaitTimeout, func() bool { return h.resolver.Lookups(there) >= 12 }, "look-ups")
			// Each connection comes after its look-up.
			if connections, lookups := peer.Accepted(), h.resolver.Lookups(there); connections > lookups {
				t.Errorf("%d connections in %d attempts", connections, lookups)
			}
		})
	}
}

// C24: a Dialer that doesn't heed its ctx isn't waited for by a connection, which is
// reported and tried again, but by Close: nothing of the host's runs after that.
func TestC24CloseWaitsForTheDialer(t *testing.T) {
	t.Parallel()
	var inside atomic.Int64
	gate := make(chan struct{})
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectTimeout, o.BackoffStep = 20*time.Millisecond, 20*time.Millisecond
		o.Dialer = func(context.Context, string) (net.Conn, error) {
			inside.Add(1)
			defer inside.Add(-1)
			<-gate
			return nil, net.ErrClosed
		}
	})
	h.resolver.Set(there, "127.0.0.1:1")
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		return inside.Load() >= 2 && h.router.Events().Unreachable(1, 2) == 1
	}, "the report, and another attempt")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		h.close(t)
	}()
	rig.Never(t, 50*time.Millisecond, func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	}, "Close returned while a Dialer was at work")
	close(gate)
	<-closed
	if n := inside.Load(); n != 0 {
		t.Errorf("%d dials are under way", n)
	}
}
