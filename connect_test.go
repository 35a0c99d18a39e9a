package raftmux_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// connectionOf returns incarnation, lane and index of a stream id.
func connectionOf(t testing.TB, id string) string {
	t.Helper()
	parts := strings.Split(id, "/")
	if len(parts) != 4 {
		t.Fatalf("stream id %q", id)
	}
	return strings.Join(parts[:3], "/")
}

// S13: one TCP connection and one stream per connection id.
func TestS13ConnectionPerID(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 3 })
	s := h.sender(t)
	for range 3 {
		for region := range uint64(64) {
			sendAll(t, s, rig.Ack(region, there, 2))
		}
	}
	peer.WaitMessages(t, 3*64)
	remotes, ids := make(map[string]bool), make(map[string]bool)
	for _, stream := range peer.Streams() {
		remotes[stream.Remote] = true
		ids[connectionOf(t, stream.Metadata.Get("raftmux-stream")[0])] = true
	}
	if peer.Conns() != 3 || len(peer.Streams()) != 3 || len(remotes) != 3 || len(ids) != 3 {
		t.Errorf("%d TCP connections, streams %+v", peer.Conns(), peer.Streams())
	}
}

// S13: windows, and options that the host adds, reach gRPC on the sending side.
func TestS13ClientOptionsReachGRPC(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
		o.DialOptions = []grpc.DialOption{grpc.WithUserAgent("raftmux-test")}
	})
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	if agent := peer.Streams()[0].Metadata.Get("user-agent"); !strings.HasPrefix(agent[0], "raftmux-test") {
		t.Errorf("user agent %q", agent)
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	h = newSending(t, func(o *raftmux.ClientOptions) { o.WindowSize = 3 << 20 })
	h.resolver.Set(there, listener.Addr().String())
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		t.Fatal(err)
	}
	wantWindows(t, conn, 3<<20)
}

// S13: the windows of a Server are those of GRPCServerOptions.
func TestS13ServerWindows(t *testing.T) {
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
	wantWindows(t, rawHTTP2(t, server.addr), raftmux.DefaultWindowSize)
}

// rawHTTP2 opens an HTTP/2 connection by hand.
func rawHTTP2(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := http2.NewFramer(conn, nil).WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// wantWindows reads what the other end announces when a connection begins.
func wantWindows(t *testing.T, conn net.Conn, want uint32) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(rig.WaitTimeout))
	framer := http2.NewFramer(io.Discard, conn)
	stream, connection := false, false
	for !stream || !connection {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("stream window %v, connection window %v: %v", stream, connection, err)
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if value, ok := f.Value(http2.SettingInitialWindowSize); ok {
				if stream = true; value != want {
					t.Errorf("stream window %d, not %d", value, want)
				}
			}
		case *http2.WindowUpdateFrame:
			if connection = true; f.Increment != want-65535 {
				t.Errorf("connection window %d, not %d", f.Increment+65535, want)
			}
		}
	}
}

// measuredConn notes the largest of its writes.
type measuredConn struct {
	net.Conn
	largest *atomic.Int64
}

func (c *measuredConn) Write(p []byte) (int, error) {
	for size := int64(len(p)); ; {
		if seen := c.largest.Load(); size <= seen || c.largest.CompareAndSwap(seen, size) {
			return c.Conn.Write(p)
		}
	}
}

// S13: the TLS hook works in both directions, with kvproto peers at the other
// end; a plaintext sender reaches nobody.
func TestS13TLS(t *testing.T) {
	t.Parallel()
	cert, pool := rig.Certificate(t)
	serverSide := credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	clientSide := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool})

	t.Run("sending", func(t *testing.T) {
		t.Parallel()
		const n = 400
		peer := rig.NewPeer(t, rig.PeerOptions{
			KeepMessages: true, ServerOptions: []grpc.ServerOption{grpc.Creds(serverSide)},
		})
		var largest atomic.Int64
		h := toPeer(t, peer, func(o *raftmux.ClientOptions) {
			o.Credentials = clientSide
			o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				return &measuredConn{conn, &largest}, err
			}
		})
		sendAll(t, h.sender(t), mixture(n)...)
		peer.WaitMessages(t, n)
		same(t, received(peer), mixture(n))
		if most := largest.Load(); most < 2*16<<10 { // a record is of 16 KiB
			t.Errorf("no write of several TLS records, but of %d bytes at most", most)
		}

		plain := toPeer(t, peer)
		sendAll(t, plain.sender(t), rig.Ack(1, there, 2))
		plain.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUnreachable(there) == 1 }, "down")
		plain.close(t)
		if peer.Count() != n {
			t.Errorf("%d messages came", peer.Count())
		}
	})
	t.Run("receiving", func(t *testing.T) {
		t.Parallel()
		var box inbox
		server := newReceiving(t, raftmux.ServerOptions{Handler: &box}, grpc.Creds(serverSide))
		client := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{
			DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(clientSide)},
		})
		if err := client.Open(t, rig.BatchRaft).Send(rig.Ack(1, there, 2)); err != nil {
			t.Fatal(err)
		}
		box.wait(t, 1)
		plain := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
		_ = plain.Send(rig.Ack(1, there, 2))
		if err := plain.Status(t); err == nil {
			t.Error("a plaintext client was answered")
		}
		if len(box.all()) != 1 {
			t.Errorf("%d messages came", len(box.all()))
		}
	})
}

// S13: the dialer is the host's, and a connection that takes too long to be made
// is given up after ConnectTimeout.
func TestS13ConnectTimeout(t *testing.T) {
	t.Parallel()
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectTimeout = 50 * time.Millisecond
		o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			if address != "store-two:1" {
				t.Errorf("dialled %s", address)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	h.resolver.Set(there, "store-two:1")
	sendAll(t, h.sender(t), rig.Ack(1, there, 2))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool {
		return e.Unreachable(1, 2) == 1 && e.StoreUnreachable(there) == 1
	}, "given up")
	if l, _, _ := h.ledger(there); l.Dropped["connect"] != 1 {
		t.Errorf("ledger %+v", l)
	}
}

// C12: a connection that is cut off just when it is made has failed, and is made
// anew after the backoff, not after ConnectTimeout.
func TestC12CutInTheGreeting(t *testing.T) {
	t.Parallel()
	const attempts = 200 // in some of them gRPC sees the end before it is ready
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	var greeting sync.WaitGroup
	greeting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			greetAndLeave(conn)
		}
	})
	t.Cleanup(func() { _ = listener.Close(); greeting.Wait() })
	h := newSending(t, func(o *raftmux.ClientOptions) {
		o.ConnectTimeout, o.BackoffStep = time.Hour, time.Millisecond
	})
	h.resolver.Set(there, listener.Addr().String())
	s := h.sender(t)
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Ack(1, there, 2))
		return accepted.Load() >= attempts
	}, "%d attempts", attempts)
}

// greetAndLeave is a server that takes a connection and closes it at once: without
// a reset, so that its greeting is read.
func greetAndLeave(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(rig.WaitTimeout))
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	for { // the settings, and the connection's window
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if _, last := frame.(*http2.WindowUpdateFrame); last {
			break
		}
	}
	_ = framer.WriteSettings()
}

// The ordinary end of a peer is one line for information, however many connections
// there were to it; any other end of a stream is a warning.
func TestShutdownIsNoWarning(t *testing.T) {
	t.Parallel()
	both := []*raft_serverpb.RaftMessage{rig.Ack(1, there, 2), rig.Heartbeat(1, there, 2)}
	for name, test := range map[string]struct {
		begin              func(t *testing.T) (address string, end func())
		informed, warnings int
	}{
		"closed": {func(t *testing.T) (string, func()) {
			server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
			return server.addr, func() {
				if err := server.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}, 1, 0},
		"broken": {func(t *testing.T) (string, func()) {
			peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
			return peer.Addr(), func() {
				peer.WaitOpen(t, rig.BatchRaft, 2)
				peer.EndStreams(status.Error(codes.Unavailable, "broken"))
			}
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, registry := newLogCounter(), prometheus.NewRegistry()
			address, end := test.begin(t)
			h := newSending(t, func(o *raftmux.ClientOptions) {
				o.BackoffStep = time.Minute
				o.Logger, o.Registerer = slog.New(log), registry
			})
			h.resolver.Set(there, address)
			s := h.sender(t)
			sendAll(t, s, both...)
			rig.Eventually(t, rig.WaitTimeout, func() bool { l, _, _ := h.ledger(there); return l.Sent == 2 }, "sent")
			end()
			rig.Eventually(t, rig.WaitTimeout, func() bool {
				return gathered(t, registry, "raftmux_server_report_failure_msg_total", "type=broken_stream") == 2
			}, "both streams ended")
			informed, warnings := log.count("INFO peer is shutting down"), log.count("WARN connection aborted")
			if informed != test.informed || warnings != test.warnings || log.count("peer is shutting down") != informed {
				t.Errorf("%d lines say that the peer is shutting down, %d warn", informed, warnings)
			}
		})
	}
}

// S13, C15: keepalive reaches gRPC: a connection whose other end has vanished
// without a word is found within its time and timeout.
func TestS13KeepaliveFindsHalfOpen(t *testing.T) {
	if testing.Short() {
		t.Skip("gRPC's keepalive takes 10 s at least")
	}
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	proxy := rig.NewProxy(t, peer.Addr())
	h := newSending(t, func(o *raftmux.ClientOptions) { o.KeepaliveTimeout = time.Second })
	h.resolver.Set(there, proxy.Addr())
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	proxy.SetMode(rig.BlackHole)
	h.router.WaitFor(t, 25*time.Second, func(e events) bool { return e.StoreUnreachable(there) == 1 }, "the peer is missed")
	proxy.SetMode(rig.Pass)
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		sendAll(t, s, rig.Append(1, there, 2, 1, 10))
		return peer.Count() > 1
	}, "reconnected")
}
