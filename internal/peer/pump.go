package peer

import (
	"sync"
	"time"
)

// linger is how long a pump's goroutine waits for more before it goes. A busy
// connection keeps its goroutine and the stack that it has grown; one that sends
// now and then holds none in between.
const linger = 100 * time.Millisecond

// pump empties the queue of a connection into the stream of one generation. Its
// goroutine comes with a wake-up of the queue and goes when nothing has come for
// a while. There is at most one at a time.
type pump struct {
	connection *Connection
	generation *generation
	running    sync.WaitGroup

	mu    sync.Mutex
	awake bool // there is a goroutine, or there was one that came to an end for good
	over  bool // none may begin any more

	finished bool // CloseSend was called; belongs to the goroutine
}

// start makes sure that someone looks at the queue.
func (p *pump) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.awake || p.over {
		return
	}
	p.awake = true
	p.running.Go(p.run)
}

// stop waits for the goroutine; none begins afterwards. The stream must have
// ended, or what is stuck in it would be waited for.
func (p *pump) stop() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.running.Wait()
}

func (p *pump) run() {
	patience := time.NewTimer(linger)
	defer patience.Stop()
	for p.drain() && p.rest(patience) {
	}
}

// drain hands batches to the stream until nothing waits. There is no delay: while
// one batch is on its way the next fills up. It returns false when the stream
// has ended, or the Client is closing and all is sent.
func (p *pump) drain() bool {
	c, g := p.connection, p.generation
	for {
		closing := c.store.set.isClosing() // asked first: nothing is accepted from then on
		limits := *c.store.set.limits.Load()
		limits.Bare = g.kind == Raft
		batch, ok := c.queue.Take(limits)
		if !ok && closing {
			p.finished = true
			g.stream.CloseSend()
			return false
		}
		if !ok {
			return true
		}
		c.store.options.Metrics.Sent(batch)
		err := g.stream.Send(batch)
		g.carried, g.downs = true, c.store.reach.downs.Load()
		if err != nil { // Wait tells why
			return false
		}
		if g.hasEnded() { // seen here too, lest a busy queue hides it
			return false
		}
	}
}

// rest waits until there may be something to do. It returns false when the
// goroutine is to end.
func (p *pump) rest(patience *time.Timer) bool {
	patience.Reset(linger)
	select {
	case <-p.connection.queue.Wake():
		return true
	case <-p.connection.store.set.closing:
		return true
	case <-p.generation.ended:
		return false
	case <-patience.C:
		return !p.leave()
	}
}

// leave notes that the goroutine goes, unless there is something to do after all.
func (p *pump) leave() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.connection.queue.Wake():
		return false
	case <-p.connection.store.set.closing:
		return false
	default:
		p.awake = false
		return true
	}
}
