package rig

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// Mode is what a proxy does with connections and their bytes.
type Mode int

const (
	// Pass carries everything.
	Pass Mode = iota
	// BlackHole keeps connections, and takes new ones, but swallows what they
	// say in both directions, their ends too: nobody is told anything.
	BlackHole
	// SwallowUp swallows what clients say, and carries what the server says.
	SwallowUp
	// SwallowDown carries what clients say, and swallows what the server says.
	SwallowDown
	// Stall carries nothing and loses nothing: the proxy stops reading, and its
	// buffers fill.
	Stall
	// Refuse closes new connections as soon as they are taken. Old ones go on;
	// see Cut.
	Refuse
)

func (m Mode) String() string {
	return [...]string{"Pass", "BlackHole", "SwallowUp", "SwallowDown", "Stall", "Refuse"}[m]
}

// swallows says whether bytes in that direction are lost.
func (m Mode) swallows(d direction) bool {
	return m == BlackHole || m == SwallowUp && d == up || m == SwallowDown && d == down
}

type direction int

const (
	up   direction = iota // client to server
	down                  // server to client
)

// bufferSize is the size of a chunk, and of each socket's kernel buffers:
// small, so that what a slow or stopped side doesn't take is soon felt.
const bufferSize = 32 << 10

// ProxyStats are a proxy's counters. Carried bytes reached the other socket,
// lost ones were swallowed.
type ProxyStats struct {
	Accepted int // connections, ever
	Live     int // connections whose client hasn't gone

	CarriedUp, CarriedDown int64
	LostUp, LostDown       int64
}

// Proxy is a TCP proxy in front of one address, whose faults can be switched
// while it runs.
//
// A connection that lost bytes can't be healed. When a mode would let it speak
// again it is reset instead, which is what its ends would see, in the end, of a
// real network too. Use Stall for an outage that is over before anyone notices.
type Proxy struct {
	listener net.Listener
	ctx      context.Context // ends the dials of Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	target   string
	mode     Mode
	delay    time.Duration
	rate     int
	cutAfter int64         // bytes up until the cut; negative for never
	holds    bool          // stall in place of the cut
	changed  chan struct{} // closed and replaced when a setting changes
	closed   bool
	links    map[*link]struct{}
	stats    ProxyStats
}

// NewProxy starts a proxy on a port of its own, in front of target.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{
		listener: listener,
		target:   target,
		cutAfter: -1,
		changed:  make(chan struct{}),
		links:    make(map[*link]struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr returns the address to dial.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// SetMode switches the mode.
func (p *Proxy) SetMode(mode Mode) {
	p.set(func() { p.mode = mode })
	for _, l := range p.live() {
		if l.torn(mode) {
			l.reset()
		}
	}
}

// SetTarget changes the address that new connections are carried to.
func (p *Proxy) SetTarget(address string) { p.set(func() { p.target = address }) }

// SetDelay lets every byte arrive d later, in both directions, at the full rate.
func (p *Proxy) SetDelay(d time.Duration) { p.set(func() { p.delay = d }) }

// SetRate carries at most so many bytes per second in each direction of each
// connection; 0 is without a limit.
func (p *Proxy) SetRate(bytesPerSecond int) { p.set(func() { p.rate = bytesPerSecond }) }

// CutAfter resets all connections as soon as n more bytes were carried from
// clients to the server; a negative n is never.
func (p *Proxy) CutAfter(n int64) { p.set(func() { p.cutAfter, p.holds = n, false }) }

// HoldAfter switches to Stall as soon as n more bytes were carried from clients
// to the server. A Cut then takes away nothing that the server could have read.
func (p *Proxy) HoldAfter(n int64) { p.set(func() { p.cutAfter, p.holds = n, true }) }

// Cut resets all live connections.
func (p *Proxy) Cut() {
	for _, l := range p.live() {
		l.reset()
	}
}

// Stats returns the counters.
func (p *Proxy) Stats() ProxyStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Close resets all connections, stops listening, and waits.
func (p *Proxy) Close() {
	p.set(func() { p.closed = true })
	p.cancel()
	_ = p.listener.Close()
	p.Cut()
	p.wg.Wait()
}

// set changes settings, and wakes who waits for them to change.
func (p *Proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) live() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	return links
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		l := &link{proxy: p, client: conn.(*net.TCPConn), done: make(chan struct{})}
		p.mu.Lock()
		p.stats.Accepted++
		refuse := p.closed || p.mode == Refuse
		if !refuse {
			p.links[l] = struct{}{}
			p.stats.Live++
			p.wg.Go(l.run)
		}
		p.mu.Unlock()
		if refuse {
			_ = conn.Close()
		}
	}
}

// DeadAddress returns an address of this machine on which nobody listens while the
// test runs: the near end of a connection.
func DeadAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}
