package snapshot

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// partial is what is kept of a broken transfer: its writer, and what was written
// and verified.
type partial struct {
	key
	writer Writer
	offset int64
	sum    uint32
	size   int64
	said   uint64 // a hash of the message that the writer was created with
	timer  *time.Timer
}

// partials are the broken transfers that wait to be resumed. There are few, for a
// short time: beyond that they are discarded.
type partials struct {
	most  int
	life  time.Duration
	enter func() bool // asked before something runs that Close has to wait for
	leave func()
	log   *slog.Logger

	mu  sync.Mutex
	all []*partial // the oldest first
}

// park keeps p, or discards it if the receiver keeps none, or this one is unwanted.
// Who sets that calls discard afterwards, which finds p if park hasn't seen it.
func (ps *partials) park(p *partial, unwanted *atomic.Bool) {
	ps.mu.Lock()
	if ps.most <= 0 || unwanted.Load() {
		ps.mu.Unlock()
		ps.drop(p)
		return
	}
	ps.all = append(ps.all, p)
	p.timer = time.AfterFunc(ps.life, func() { ps.expire(p) })
	var oldest *partial
	if len(ps.all) > ps.most {
		oldest = ps.all[0]
		ps.all = ps.all[1:]
	}
	ps.mu.Unlock()
	if oldest != nil {
		oldest.timer.Stop()
		ps.drop(oldest)
	}
}

func (ps *partials) expire(p *partial) {
	if !ps.enter() {
		return // Close discards it
	}
	defer ps.leave()
	if ps.remove(func(other *partial) bool { return other == p }) != nil {
		ps.drop(p)
	}
}

// take returns what is kept of a snapshot that came with the same message, or nil,
// and discards what is kept of others for the same peer, unless they are newer: then
// k's stream is a late one.
func (ps *partials) take(k key, size int64, said uint64) (found *partial) {
	over := func(p *partial) bool { return p.regionID == k.regionID && p.peerID == k.peerID && !p.newer(k) }
	for _, p := range ps.remove(over) {
		if p.key == k && p.size == size && p.said == said && found == nil {
			found = p
			continue
		}
		ps.drop(p)
	}
	return found
}

// discard discards those that match.
func (ps *partials) discard(match func(key) bool) {
	for _, p := range ps.remove(func(p *partial) bool { return match(p.key) }) {
		ps.drop(p)
	}
}

// remove takes those that match out of the list, and stops their timers.
func (ps *partials) remove(match func(*partial) bool) (removed []*partial) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var kept []*partial
	for _, p := range ps.all {
		if match(p) {
			p.timer.Stop()
			removed = append(removed, p)
		} else {
			kept = append(kept, p)
		}
	}
	ps.all = kept
	return removed
}

func (ps *partials) drop(p *partial) {
	if err := p.writer.Discard(); err != nil {
		ps.log.Warn("discarding a broken snapshot failed", "region_id", p.regionID, "to_peer_id", p.peerID, "err", err)
	}
}
