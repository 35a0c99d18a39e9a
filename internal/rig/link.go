package rig

import (
	"bytes"
	"io"
	"net"
	"sync"
	"time"
)

// link is one connection through a proxy: the client's socket, the server's,
// and a pipe each way.
type link struct {
	proxy  *Proxy
	client *net.TCPConn
	done   chan struct{} // closed when the link is

	mu     sync.Mutex
	server *net.TCPConn // nil until dialled, and for ever in a black hole
	lost   [2]bool      // bytes of that direction were swallowed
	left   bool         // the client has gone
	closed bool
}

// run carries the link until both ways have ended, or it is reset.
func (l *link) run() {
	defer l.close(false)
	setBuffers(l.client)

	var pipes sync.WaitGroup
	defer pipes.Wait()
	server := l.dial()
	if server == nil {
		return
	}
	pipes.Go(func() { l.carry(down, server, l.client) })
	l.carry(up, l.client, server)
}

// dial connects to the target, unless the proxy is a black hole: then it only
// eats what the client says, until the link is closed or reset.
func (l *link) dial() *net.TCPConn {
	p := l.proxy
	p.mu.Lock()
	mode, target := p.mode, p.target
	p.mu.Unlock()
	if mode == BlackHole {
		l.lose(up, 0)
		l.lose(down, 0)
		buffer := make([]byte, bufferSize)
		for {
			n, err := l.client.Read(buffer)
			l.lose(up, n)
			if err != nil {
				l.leave()
				return nil
			}
		}
	}
	conn, err := new(net.Dialer).DialContext(p.ctx, "tcp", target)
	if err != nil {
		l.reset()
		return nil
	}
	server := conn.(*net.TCPConn)
	setBuffers(server)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = server.Close()
		return nil
	}
	l.server = server
	return server
}

// chunk is a piece of what a side said; the last one has no bytes.
type chunk struct {
	bytes []byte
	read  time.Time
	err   error
}

// carry moves bytes one way until that way has ended. A goroutine of its own
// reads ahead, or a delay would be a limit to the rate.
func (l *link) carry(d direction, from, to *net.TCPConn) {
	queue := newChunkQueue()
	var reader sync.WaitGroup
	defer reader.Wait()
	defer queue.close()
	reader.Go(func() {
		buffer := make([]byte, bufferSize)
		for {
			n, err := from.Read(buffer)
			if n > 0 && !queue.push(chunk{bytes: bytes.Clone(buffer[:n]), read: time.Now()}, l.ahead) {
				return
			}
			if err != nil {
				if d == up {
					l.leave()
				}
				queue.push(chunk{read: time.Now(), err: err}, l.ahead)
				return
			}
		}
	})
	for {
		c, ok := queue.pop(l.done)
		if !ok || !l.forward(d, to, c) {
			return
		}
	}
}

// ahead returns how many bytes may be read ahead of what was written.
func (l *link) ahead() int {
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	if l.proxy.delay > 0 {
		return 16 << 20
	}
	return bufferSize
}

// forward does with a chunk what the proxy's settings say, whenever they
// change, and reports whether more may follow.
func (l *link) forward(d direction, to *net.TCPConn, c chunk) bool {
	p := l.proxy
	for {
		p.mu.Lock()
		mode, delay, rate, changed := p.mode, p.delay, p.rate, p.changed
		p.mu.Unlock()

		due := time.Until(c.read.Add(delay))
		switch {
		case mode.swallows(d):
			l.lose(d, len(c.bytes))
			return c.err == nil
		case mode == Stall:
			if !l.sleep(-1, changed) {
				return false
			}
		case l.torn(mode):
			l.reset()
			return false
		case due > 0:
			if !l.sleep(due, changed) {
				return false
			}
		case c.err != nil:
			if c.err == io.EOF {
				_ = to.CloseWrite()
			} else {
				l.reset()
			}
			return false
		default:
			n, ok := l.write(d, to, c.bytes, rate)
			if !ok {
				return false
			}
			if c.bytes = c.bytes[n:]; len(c.bytes) == 0 {
				return true
			}
		}
	}
}

// write writes as much of b as rate and the proxy's CutAfter or HoldAfter allow at once, and
// waits as long as that should take at that rate.
func (l *link) write(d direction, to *net.TCPConn, b []byte, rate int) (n int, ok bool) {
	p := l.proxy
	if rate > 0 {
		b = b[:min(len(b), max(1, rate/50))]
	}
	cut, hold := false, false
	if d == up {
		p.mu.Lock()
		if p.cutAfter >= 0 {
			b = b[:min(int64(len(b)), p.cutAfter)]
			p.cutAfter -= int64(len(b))
			if p.cutAfter == 0 {
				p.cutAfter, cut, hold = -1, !p.holds, p.holds
			}
		}
		p.mu.Unlock()
	}
	n, err := to.Write(b)
	p.mu.Lock()
	if d == up {
		p.stats.CarriedUp += int64(n)
	} else {
		p.stats.CarriedDown += int64(n)
	}
	p.mu.Unlock()
	if cut {
		p.Cut()
		return n, false
	}
	if hold {
		p.SetMode(Stall)
	}
	if err != nil {
		l.reset()
		return n, false
	}
	if rate > 0 {
		return n, l.sleep(time.Duration(n)*time.Second/time.Duration(rate), nil)
	}
	return n, true
}

// sleep waits for d, for ever when d is negative, or until changed is closed.
// It reports false when the link was closed meanwhile.
func (l *link) sleep(d time.Duration, changed <-chan struct{}) bool {
	var timeout <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-timeout:
		return true
	case <-changed:
		return true
	case <-l.done:
		return false
	}
}

// lose notes that n bytes of a direction were swallowed. The mode may have
// changed meanwhile, and whoever changed it may not have seen the loss.
func (l *link) lose(d direction, n int) {
	l.mu.Lock()
	l.lost[d] = true
	l.mu.Unlock()

	p := l.proxy
	p.mu.Lock()
	if d == up {
		p.stats.LostUp += int64(n)
	} else {
		p.stats.LostDown += int64(n)
	}
	mode := p.mode
	p.mu.Unlock()
	if l.torn(mode) {
		l.reset()
	}
}

// torn says whether the mode would let a direction speak that has lost bytes.
func (l *link) torn(mode Mode) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mode != Stall &&
		(l.lost[up] && !mode.swallows(up) || l.lost[down] && !mode.swallows(down))
}

// leave notes that the client has gone.
func (l *link) leave() {
	l.mu.Lock()
	left := l.left
	l.left = true
	l.mu.Unlock()
	if !left {
		l.proxy.mu.Lock()
		defer l.proxy.mu.Unlock()
		l.proxy.stats.Live--
	}
}

// reset closes both sockets with an RST.
func (l *link) reset() { l.close(true) }

func (l *link) close(reset bool) {
	l.mu.Lock()
	closed, server := l.closed, l.server
	l.closed = true
	l.mu.Unlock()
	if closed {
		return
	}
	l.leave()
	close(l.done)
	for _, conn := range []*net.TCPConn{l.client, server} {
		if conn != nil {
			if reset {
				_ = conn.SetLinger(0)
			}
			_ = conn.Close()
		}
	}
	l.proxy.mu.Lock()
	defer l.proxy.mu.Unlock()
	delete(l.proxy.links, l)
}

func setBuffers(conn *net.TCPConn) {
	_ = conn.SetReadBuffer(bufferSize)
	_ = conn.SetWriteBuffer(bufferSize)
}

// chunkQueue is what was read and not written yet, bounded in bytes by its
// pusher.
type chunkQueue struct {
	mu     sync.Mutex
	chunks []chunk
	bytes  int
	closed bool
	pushed chan struct{} // capacity 1
	popped chan struct{} // capacity 1
}

func newChunkQueue() *chunkQueue {
	return &chunkQueue{pushed: make(chan struct{}, 1), popped: make(chan struct{}, 1)}
}

// push appends c when fewer than limit bytes wait, and waits for that first.
// It reports false when the queue was closed.
func (q *chunkQueue) push(c chunk, limit func() int) bool {
	for {
		most := limit()
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return false
		}
		if q.bytes < most {
			q.chunks = append(q.chunks, c)
			q.bytes += len(c.bytes)
			q.mu.Unlock()
			signal(q.pushed)
			return true
		}
		q.mu.Unlock()
		<-q.popped
	}
}

// pop takes the oldest chunk, and waits for it. It reports false when done is closed.
func (q *chunkQueue) pop(done <-chan struct{}) (chunk, bool) {
	for {
		q.mu.Lock()
		if len(q.chunks) > 0 {
			c := q.chunks[0]
			q.chunks = q.chunks[1:]
			q.bytes -= len(c.bytes)
			q.mu.Unlock()
			signal(q.popped)
			return c, true
		}
		q.mu.Unlock()
		select {
		case <-q.pushed:
		case <-done:
			return chunk{}, false
		}
	}
}

// close ends a push that waits, and those to come.
func (q *chunkQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	signal(q.popped)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
