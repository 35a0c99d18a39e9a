// Package grpcstream carries streams over gRPC: the sockets, and nothing that
// decides when to connect, what to send, or what a failure means.
package grpcstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/wire"
)

// What a connection writes and reads at once. gRPC has write buffers from a pool,
// and only while something is on its way.
const (
	// writeBufferSize is as much as the kernel hands on as one segment, which is
	// 64 KiB without headers. A write of 64 KiB, or of twice that, ends in a small
	// segment of its own, and costs a fifth more.
	writeBufferSize = 60 << 10
	// tlsWriteBufferSize is two bursts: one is slower, four are no faster.
	tlsWriteBufferSize = 2 * burstSize
	// tlsReadBufferSize is small, for gRPC keeps the read buffer of a connection
	// over TLS even while nothing comes, and has 32 KiB by itself. What comes is
	// headers and window updates, and TLS has read them ahead.
	tlsReadBufferSize = 1 << 10
)

// Options configures a Transport. All fields are mandatory, but for Credentials
// and DialOptions.
type Options struct {
	StoreID          uint64 // the own store
	ConnectTimeout   time.Duration
	KeepaliveTime    time.Duration
	KeepaliveTimeout time.Duration
	WindowSize       int
	Dialer           func(ctx context.Context, address string) (net.Conn, error)
	Credentials      credentials.TransportCredentials
	DialOptions      []grpc.DialOption
}

// Transport implements peer.Transport. It is safe for concurrent use.
type Transport struct {
	options Options
	bursts  bursts         // for connections over TLS
	dials   sync.WaitGroup // calls of the Dialer; gRPC doesn't wait for them
	pace    pace
}

// New returns a Transport.
func New(options Options) *Transport { return &Transport{options: options} }

// Wait waits until no Dialer is at work any more. All links must have been closed.
func (t *Transport) Wait() { t.dials.Wait() }

// link is one TCP connection to a store and the ClientConn that uses it.
type link struct {
	transport *Transport
	client    *grpc.ClientConn
	address   string

	mu     sync.Mutex
	conn   net.Conn // as gRPC dialled it; nil until then
	closed bool
}

// Connect implements peer.Transport. It waits for ConnectTimeout at most. gRPC
// gets one try: trying again is not up to it.
func (t *Transport) Connect(ctx context.Context, address string) (peer.Link, error) {
	l, err := t.connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Dial is Connect for callers that open streams themselves. They close by the function
// that it returns, and not by the ClientConn's own method.
func (t *Transport) Dial(ctx context.Context, address string) (client *grpc.ClientConn, closeAll func(), err error) {
	l, err := t.connect(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	return l.client, l.Close, nil
}

func (t *Transport) connect(ctx context.Context, address string) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.options.ConnectTimeout,
		fmt.Errorf("no connection within %v", t.options.ConnectTimeout))
	defer cancel()
	l := &link{transport: t, address: address}
	options := append(t.dialOptions(address), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return l.dial(ctx)
	}))
	// gRPC takes the target for a URL: unescaped, some addresses would be none, such
	// as [fe80::1%eth0]:20160, and others would lose a part. The authority is made of
	// the target, without the escapes.
	client, err := grpc.NewClient("passthrough:///"+url.PathEscape(address), options...)
	if err != nil {
		return nil, err
	}
	l.client = client
	if err := l.awaitReady(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// errLost ends a link whose connection is gone.
var errLost = errors.New("the connection was lost")

// dial returns the connection as it is: gRPC sets TCP_USER_TIMEOUT only on a
// plain *net.TCPConn. There is one: gRPC, which for a stream that its peer didn't begin
// with would dial again, at once and as often as it takes, is refused another. The
// address is as it was given, and not as gRPC has read it.
func (l *link) dial(ctx context.Context) (net.Conn, error) {
	if err := l.beginDial(); err != nil {
		return nil, err
	}
	defer l.transport.dials.Done()
	conn, err := l.transport.options.Dialer(ctx, l.address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.conn = conn
	return conn, nil
}

// beginDial counts a dial, unless there is to be none. None begins once the link is closed.
func (l *link) beginDial() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return net.ErrClosed
	case l.conn != nil:
		return errLost
	}
	l.transport.dials.Add(1)
	return nil
}

func (l *link) dialled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

// Close implements peer.Link. The socket goes first: while a peer reads nothing,
// gRPC's own closing waits for seconds to say good-bye.
func (l *link) Close() {
	l.mu.Lock()
	l.closed = true
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
	_ = l.client.Close()
}

func (l *link) awaitReady(ctx context.Context) error {
	client := l.client
	client.Connect()
	for {
		state := client.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			// Cut off within gRPC's greeting, it is idle again, and would stay so.
			if l.dialled() {
				return errors.New("connection was lost while it was made")
			}
		case connectivity.TransientFailure, connectivity.Shutdown:
			// The state doesn't say why; a stream that doesn't wait does.
			if _, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, wire.RaftMethod); err != nil {
				return err
			}
			return fmt.Errorf("connection is %v", state)
		}
		if !client.WaitForStateChange(ctx, state) {
			return context.Cause(ctx)
		}
	}
}

// maxHeaderListSize bounds a peer's last words, which are logged. gRPC takes 16 MiB.
const maxHeaderListSize = 64 << 10

func (t *Transport) dialOptions(address string) []grpc.DialOption {
	o := t.options
	options := []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithMaxHeaderListSize(maxHeaderListSize),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: o.ConnectTimeout, Multiplier: 1, MaxDelay: o.ConnectTimeout},
			MinConnectTimeout: o.ConnectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:    max(o.KeepaliveTime, t.pace.of(address)),
			Timeout: o.KeepaliveTimeout,
		}),
		// Both windows, or the connection's stays at 64 KiB.
		grpc.WithInitialWindowSize(int32(o.WindowSize)),
		grpc.WithInitialConnWindowSize(int32(o.WindowSize)),
	}
	return slices.Concat(options, buffered(o.Credentials, &t.bursts), o.DialOptions)
}

// buffered returns the credentials, nil for plaintext, and the buffers that suit
// them. For what encrypts in a way of its own they are gRPC's.
func buffered(transport credentials.TransportCredentials, memory *bursts) []grpc.DialOption {
	if transport == nil {
		transport = insecure.NewCredentials()
	}
	switch transport.Info().SecurityProtocol {
	case "insecure", "local":
		return []grpc.DialOption{
			grpc.WithTransportCredentials(transport),
			grpc.WithWriteBufferSize(writeBufferSize),
		}
	case "tls":
		return []grpc.DialOption{
			grpc.WithTransportCredentials(gathering{transport, memory}),
			grpc.WithWriteBufferSize(tlsWriteBufferSize),
			grpc.WithReadBufferSize(tlsReadBufferSize),
		}
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(transport)}
}
