package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/queue"
)

// Connection is a queue and the life of what empties it: one ClientConn with one
// stream at a time. Its goroutine sees to that; while there is something to send,
// the stream's pump has another.
type Connection struct {
	store  *Store
	lane   Lane
	index  int // in its lane
	queue  *queue.Queue
	ctx    context.Context
	cancel context.CancelFunc

	pump       atomic.Pointer[pump] // of the generation that lives, if one does
	open       atomic.Bool          // a stream is open
	generation atomic.Uint64        // how many streams were opened

	// What follows belongs to the goroutine.
	used   uint64    // number of the last look-up
	since  time.Time // look-ups begun before this are too old
	opened time.Time // when the last stream was
	retry  retry
	// The peer knew neither kind of stream the last time: it is handed nothing
	// before it has shown that it does, or each attempt would lose some.
	doubtful bool
}

func newConnection(store *Store, lane Lane, index int) *Connection {
	o := store.options
	bounds := queue.Options{
		Messages: o.QueueMessages / o.Connections,
		Bytes:    o.QueueBytes,
		Shallow:  o.QueueShallow,
		Share:    store.share,
		Minimum:  o.QueueMinimum,
		ReferTo:  o.ReferTo,
		Pool:     o.Pool,
		Dropped:  store.dropped,
	}
	if lane == Control {
		bounds.Messages = o.QueueMessages
		bounds.Bytes += controlMinimum
		bounds.Minimum = controlMinimum
		bounds.Shallow = 0
		bounds.Reserve = voteReserve(o.QueueMessages)
		bounds.ReserveBytes = voteReserve(controlMinimum)
	}
	ctx, cancel := context.WithCancel(store.ctx)
	c := &Connection{
		store:  store,
		lane:   lane,
		index:  index,
		ctx:    ctx,
		cancel: cancel,
		since:  time.Now().Add(-o.BackoffStep),
		retry:  retry{step: o.BackoffStep},
	}
	bounds.Woken = c.woken
	c.queue = queue.New(bounds)
	return c
}

// NewStage attaches a worker.
func (c *Connection) NewStage() *queue.Stage { return c.queue.NewStage() }

// failure says at which point of its life a connection failed.
type failure struct {
	at  point
	err error
}

type point uint8

const (
	atResolve point = iota + 1
	atConnect
	atFallback // the peer has neither BatchRaft nor Raft
	atStream   // the stream broke
)

// run is the life of a connection:
//
//  1. resolve the address
//  2. connect
//  3. open BatchRaft, and Raft if the peer doesn't know it
//  4. carry messages until the stream ends
//
// Every failure leads back to 1, after a wait. It ends when the store does, or
// when the Client closes and what was flushed is sent.
func (c *Connection) run() {
	defer c.store.leave()
	defer c.cancel()
	for c.retry.wait(c.ctx, c.store.set.closing) && !c.finished() {
		begun := time.Now()
		failed := c.attempt()
		if failed == nil { // closing, and all is sent
			break
		}
		if c.ctx.Err() != nil {
			c.part(failed)
			break
		}
		c.doubtful = failed.at == atFallback
		if failed.at == atStream { // what came before the stream took long by itself
			begun = c.opened
		}
		first := c.retry.failed(time.Since(begun))
		c.since = time.Now().Add(-c.store.options.BackoffStep / 4)
		c.settle(failed, first)
	}
	c.queue.Disconnect(c.store.reason())
}

// part tells of a store that could not be reached, though the Client has begun to
// close since. What only failed because of that is no failure.
func (c *Connection) part(failed *failure) {
	unreached := failed.at == atConnect || failed.at == atFallback
	cancelled := errors.Is(failed.err, context.Canceled) || status.Code(failed.err) == codes.Canceled
	if unreached && !cancelled && c.store.reason() == queue.ReasonClosing {
		c.store.unreached()
	}
}

// finished says whether the Client is closing and nothing is left to send.
func (c *Connection) finished() bool {
	return c.store.set.isClosing() && c.queue.Ledger().Queued == 0
}

// attempt makes one round of the life. It returns nil when there is nothing
// left to live for.
func (c *Connection) attempt() *failure {
	l, err := c.store.resolve(c.ctx, c.used, c.since)
	if l != nil {
		c.used = l.number
	}
	if err != nil {
		return &failure{atResolve, err}
	}
	var link Link
	apart(func() { link, err = c.store.options.Transport.Connect(c.ctx, l.address) })
	if err != nil {
		return c.failure(atConnect, "connect to ", l.address, err)
	}
	// Once it was established a link is never used again: gRPC's own
	// reconnecting would compete with ours.
	defer link.Close()
	return c.serve(link, l.address)
}

// serve opens the kinds of streams in turn until the peer knows one, and
// carries messages.
func (c *Connection) serve(link Link, address string) *failure {
	var err error
	for _, kind := range chain() {
		var g *generation
		var openErr error
		apart(func() { g, openErr = c.openGeneration(link, kind, address) })
		if openErr != nil {
			return c.failure(atConnect, "open a stream to ", address, openErr)
		}
		err = c.live(g)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrUnimplemented) {
			if errors.Is(err, ErrWrongStore) {
				c.store.markStale(address)
			}
			return c.failure(atStream, "stream to ", address, err)
		}
	}
	return c.failure(atFallback, "", address, err)
}

// failure tells of an error and of what it ended. Written out where it is called,
// it would enlarge frames that stay on the stack for as long as a stream lives.
func (c *Connection) failure(at point, what, address string, err error) *failure {
	return &failure{at, fmt.Errorf("raftmux: %sstore %d at %s: %w", what, c.store.id, address, err)}
}

// live is one generation: a stream from open to end. It returns nil only when
// the peer has confirmed everything and the Client is closing.
func (c *Connection) live(g *generation) error {
	defer c.open.Store(false)
	p := g.pump
	if !c.doubtful {
		c.begin(g)
	}
	g.wait(c.store)
	c.pump.Store(nil)
	g.cancel()
	p.stop()
	g.upTimer.Stop()
	g.watchdog.stop()
	c.queue.EndGeneration()
	finished := p.finished && g.result == nil
	c.store.generationEnded(g, g.carried && !finished)
	if finished {
		return nil
	}
	return g.err()
}

// begin lets a generation carry messages.
func (c *Connection) begin(g *generation) {
	c.pump.Store(g.pump)
	g.pump.start()
}

// woken sees to it that somebody looks at the queue. Between two generations
// nobody has to: each begins with a look.
func (c *Connection) woken() {
	if p := c.pump.Load(); p != nil {
		p.start()
	}
}

// settle does to the queue what a failure asks for.
func (c *Connection) settle(failed *failure, first bool) {
	s := c.store
	switch failed.at {
	case atResolve:
		if s.options.IsTombstone(failed.err) {
			s.bury()
			c.queue.Clear(queue.ReasonTombstone) // bury leaves a store that is closing as it is
			return
		}
		c.queue.Clear(queue.ReasonResolve)
	case atConnect:
		s.warn("connect failed", failed.err, s.address())
		s.unreached()
		c.queue.Clear(queue.ReasonConnect)
	case atFallback:
		s.warn("peer has neither BatchRaft nor Raft", failed.err, s.address())
		s.unreached()
		c.queue.Clear(queue.ReasonUnimplemented)
	case atStream:
		if errors.Is(failed.err, ErrShuttingDown) {
			s.log(slog.LevelInfo, "peer is shutting down", failed.err, s.address())
		} else {
			s.warn("connection aborted", failed.err, s.address())
		}
		s.options.Metrics.Failed("broken_stream", s.id, 1)
		if first {
			c.queue.DropVolatile() // the rest waits for the next stream
			return
		}
		c.queue.Clear(queue.ReasonUnreachable)
	}
}

// maxBackoff is the factor that the wait between attempts grows to.
const maxBackoff = 5

// retry spaces attempts: step x min(failures, 5), give or take a fifth, lest
// many connections come back as one.
type retry struct {
	step     time.Duration
	failures int
	pause    time.Duration
}

// failed notes a failed attempt and its length, and says whether it was the
// first one in a row. If a stream broke, the length is the stream's: a slow look-up
// doesn't show that the store is well. What lived for longer than the wait that it
// would cost is forgiven: the next begins at once, but for the spread, lest all
// who lost a store together dial it together.
func (r *retry) failed(lived time.Duration) (first bool) {
	wait := r.step * time.Duration(min(r.failures+1, maxBackoff))
	if lived > wait {
		r.failures, r.pause = 0, time.Duration(rand.Int64N(int64(r.step/5)+1))
		return true
	}
	r.failures++
	r.pause = wait - wait/5 + time.Duration(rand.Int64N(int64(2*wait/5)+1))
	return r.failures == 1
}

// wait returns true when the next attempt may begin: after the pause, or at once
// when the Client is closing. It returns false when ctx has ended.
func (r *retry) wait(ctx context.Context, closing <-chan struct{}) bool {
	if r.pause > 0 {
		timer := time.NewTimer(r.pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-closing:
		}
	}
	select {
	case <-ctx.Done():
		return false
	default:
		return true
	}
}

// apart runs f on a goroutine of its own and waits for it: dialling needs a deep
// stack, which would stay with the goroutine of an idle connection.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}
