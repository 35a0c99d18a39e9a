package groups

import (
	"context"
	"net"
	"sync"
	"time"
)

// link is the way from one store to another, which all connections share.
type link struct {
	rate int // bytes a second

	mu   sync.Mutex
	free time.Time // when it has carried all that it was given; guarded by mu
}

// newLink returns nil if there is no limit.
func newLink(bytesPerSecond int) *link {
	if bytesPerSecond == 0 {
		return nil
	}
	return &link{rate: bytesPerSecond}
}

// late is by how much a sleeper may wake too late, which the next ones make up for.
const late = 5 * time.Millisecond

// carry waits until so many bytes more are through.
func (l *link) carry(bytes int) {
	l.mu.Lock()
	if idle := time.Now().Add(-late); l.free.Before(idle) {
		l.free = idle
	}
	l.free = l.free.Add(time.Duration(bytes) * time.Second / time.Duration(l.rate))
	through := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(through))
}

// dial returns what connects over the link.
func (l *link) dial(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil || l == nil {
		return conn, err
	}
	return &linked{conn, l}, nil
}

// linked is a connection whose bytes take the time that the link needs.
type linked struct {
	net.Conn
	link *link
}

// piece is how much of a write has the link for itself.
const piece = 16 << 10

// Write implements net.Conn.
func (c *linked) Write(b []byte) (written int, err error) {
	for len(b) > 0 && err == nil {
		part := b[:min(len(b), piece)]
		c.link.carry(len(part))
		var n int
		n, err = c.Conn.Write(part)
		written += n
		b = b[len(part):]
	}
	return written, err
}
