package rig

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

// Answer answers a frame. If it returns false the peer hangs up.
type Answer func(*http2.Framer, http2.Frame) (goOn bool)

// Silent answers nothing.
func Silent(*http2.Framer, http2.Frame) (goOn bool) { return true }

// OddPeer is a store that answers by HTTP/2's frames, and by no more.
type OddPeer struct {
	Addr     string
	accepted atomic.Int64
}

// Accepted returns how many connections came.
func (p *OddPeer) Accepted() int { return int(p.accepted.Load()) }

// NewOddPeer greets each connection with settings and gives all that it says to answer.
func NewOddPeer(t testing.TB, answer Answer, settings ...http2.Setting) *OddPeer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	peer := &OddPeer{Addr: listener.Addr().String()}
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

func serveOddly(conn net.Conn, answer Answer, settings []http2.Setting) {
	defer func() { _ = conn.Close() }()
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
		if ping, ok := frame.(*http2.PingFrame); ok && !ping.IsAck() {
			_ = framer.WritePing(true, ping.Data)
		}
		if !answer(framer, frame) {
			return
		}
	}
}
