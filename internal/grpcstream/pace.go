package grpcstream

import (
	"sync"
	"time"
)

// tooManyPings is what gRPC's servers say with their GOAWAY to who probes more often
// than they allow, which by default is once in five minutes.
const tooManyPings = "too_many_pings"

// The least and the most that a keepalive time is doubled to.
const (
	leastPause = 20 * time.Second // gRPC itself raises less than half of it
	mostPause  = 10 * time.Minute
)

// pace has the keepalive times of addresses at which a peer complained. gRPC has the same
// of each ClientConn, whose life here ends with its connection. It is safe for concurrent use.
type pace struct {
	mu     sync.Mutex
	pauses map[string]time.Duration
}

// of returns the time between probes that an address puts up with, 0 if it never complained.
func (p *pace) of(address string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pauses[address]
}

// slowDown doubles the time of further connections to an address.
func (p *pace) slowDown(address string, keepaliveTime time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pauses == nil {
		p.pauses = make(map[string]time.Duration)
	}
	p.pauses[address] = min(max(2*keepaliveTime, 2*p.pauses[address], leastPause), mostPause)
}
