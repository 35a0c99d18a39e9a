package rig

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// CountingDialer dials TCP, counts what is written to its connections, and can
// hold the writes. Its Dial is for [google.golang.org/grpc.WithContextDialer].
//
// The connections are wrapped, so gRPC's keepalive sets no TCP_USER_TIMEOUT on them.
type CountingDialer struct {
	dials, writes, bytes atomic.Int64

	mu    sync.Mutex
	gate  chan struct{} // closed on release; nil when writes aren't held
	held  atomic.Int64
	conns map[*countingConn]struct{}
}

// NewCountingDialer returns a dialer. It closes what is left of its connections
// at the end of the test.
func NewCountingDialer(t testing.TB) *CountingDialer {
	d := &CountingDialer{conns: make(map[*countingConn]struct{})}
	t.Cleanup(d.Close)
	return d
}

// Dial connects to address.
func (d *CountingDialer) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	d.dials.Add(1)
	c := &countingConn{Conn: conn, dialer: d, closed: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[c] = struct{}{}
	return c, nil
}

// Dials returns how many connections were made.
func (d *CountingDialer) Dials() int64 { return d.dials.Load() }

// Writes returns how often a connection was written to. Held writes count once
// they are let go.
func (d *CountingDialer) Writes() int64 { return d.writes.Load() }

// Bytes returns how many bytes were written.
func (d *CountingDialer) Bytes() int64 { return d.bytes.Load() }

// Held returns how many writes are held now.
func (d *CountingDialer) Held() int64 { return d.held.Load() }

// Hold stops every write from the next one on, until release is called or the
// connection is closed. Called before the first Dial, it holds the first write.
func (d *CountingDialer) Hold() (release func()) {
	gate := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gate = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.gate == gate {
			d.gate = nil
		}
		close(gate)
	})
}

// Close closes the connections that are still open.
func (d *CountingDialer) Close() {
	d.mu.Lock()
	conns := d.conns
	d.conns = make(map[*countingConn]struct{})
	d.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

type countingConn struct {
	net.Conn
	dialer *CountingDialer
	once   sync.Once
	closed chan struct{}
}

func (c *countingConn) Write(p []byte) (int, error) {
	d := c.dialer
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if gate != nil {
		d.held.Add(1)
		defer d.held.Add(-1)
		select {
		case <-gate:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	n, err := c.Conn.Write(p)
	d.writes.Add(1)
	d.bytes.Add(int64(n))
	return n, err
}

func (c *countingConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.closed)
		c.dialer.mu.Lock()
		delete(c.dialer.conns, c)
		c.dialer.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
