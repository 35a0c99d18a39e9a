package grpcstream

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// TLS writes each record of at most 16 KiB by itself. Several in one write cost a
// system call instead of one each, and the other end reads more at once.
const (
	// recordSize is what a record holds at most.
	recordSize = 16 << 10
	// burstSize is how much is encrypted before it is written. With what TLS adds
	// it is still one segment for the kernel, as writeBufferSize is.
	burstSize = 60 << 10
)

// gathering is credentials for clients whose connections write TLS records in bursts.
type gathering struct {
	credentials.TransportCredentials
	bursts *bursts
}

// Clone implements credentials.TransportCredentials.
func (g gathering) Clone() credentials.TransportCredentials {
	return gathering{g.TransportCredentials.Clone(), g.bursts}
}

// ClientHandshake implements credentials.TransportCredentials.
func (g gathering) ClientHandshake(
	ctx context.Context, authority string, socket net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	below := &socketConn{Conn: socket, bursts: g.bursts}
	above, info, err := g.TransportCredentials.ClientHandshake(ctx, authority, below)
	if err != nil {
		return nil, nil, err
	}
	return &burstConn{Conn: above, socket: below}, info, nil
}

// burstConn is a connection with TLS below it. Of its own it has only Write, and
// how Close breaks that off.
type burstConn struct {
	net.Conn // TLS
	socket   *socketConn
	mu       sync.Mutex // one Write at a time
}

// Write implements net.Conn. When it returns, all has been given to the socket.
func (c *burstConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > recordSize {
		burst := p[:min(len(p), burstSize)]
		written, err := c.writeBurst(burst)
		n += written
		if err != nil {
			return n, err
		}
		p = p[len(burst):]
	}
	if len(p) == 0 {
		return n, nil
	}
	written, err := c.Conn.Write(p)
	return n + written, err
}

func (c *burstConn) writeBurst(p []byte) (n int, err error) {
	c.socket.hold()
	n, err = c.Conn.Write(p)
	if failed := c.socket.release(); failed != nil {
		return 0, failed
	}
	return n, err
}

// Close implements net.Conn. TLS doesn't say good-bye while something is being
// written, as that may never end; but a burst is no writing that TLS knows of.
func (c *burstConn) Close() error {
	if c.socket.bursting.Load() {
		_ = c.socket.Close()
	}
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn with the socket, for gRPC's channelz.
func (c *burstConn) SyscallConn() (syscall.RawConn, error) {
	conn, ok := c.socket.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return conn.SyscallConn()
}

// bursts is the memory that records wait in, for all connections: none has any
// while it writes nothing.
type bursts struct{ pool sync.Pool }

func (b *bursts) get() *[]byte {
	if memory, ok := b.pool.Get().(*[]byte); ok {
		return memory
	}
	return new(make([]byte, 0, burstSize+4<<10))
}

func (b *bursts) put(memory *[]byte) {
	*memory = (*memory)[:0]
	b.pool.Put(memory)
}

// socketConn is what TLS writes to. It keeps what is written between hold and
// release. TLS may also write for who reads, an alert for example, and whatever
// comes first is also first on its way: records are numbered.
type socketConn struct {
	net.Conn // the socket
	bursts   *bursts
	bursting atomic.Bool // between hold and the end of release

	mu   sync.Mutex // also held while writing, for the order
	held *[]byte    // nil but between hold and release
	err  error      // of the first write that failed; nothing is written after it
}

// Write implements net.Conn.
func (c *socketConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.held != nil {
		*c.held = append(*c.held, p...)
		return len(p), nil
	}
	return c.write(p)
}

func (c *socketConn) write(p []byte) (n int, err error) {
	n, c.err = c.Conn.Write(p)
	return n, c.err
}

func (c *socketConn) hold() {
	c.bursting.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = c.bursts.get()
}

// release writes what was kept, and returns why it could not.
func (c *socketConn) release() error {
	defer c.bursting.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held
	c.held = nil
	if len(*held) > 0 { // after a failure nothing is
		_, _ = c.write(*held)
	}
	c.bursts.put(held)
	return c.err
}
