package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// Transport makes connections to stores. It is the port behind which the
// sockets are.
type Transport interface {
	// Connect makes one connection and returns when it is ready, failed, or ctx
	// has ended. It doesn't try again.
	Connect(ctx context.Context, address string) (Link, error)
}

// Link is one connection to a store.
type Link interface {
	// Open opens a stream, which lives until ctx ends, it breaks, or the peer
	// ends it. The stream before it has ended.
	Open(ctx context.Context, kind Kind, id wire.StreamID) (Stream, error)
	// Close ends the connection at once, and what is on it. It doesn't wait for
	// the peer.
	Close()
}

// Stream is an open stream. Send and CloseSend belong to one goroutine, Wait to
// another.
type Stream interface {
	// Send hands a batch over, which belongs to the stream then, and returns when
	// there is room for the next. After an error the stream has ended or is
	// about to, without further help; Wait tells why.
	Send(batch queue.Batch) error
	// CloseSend says that nothing more comes.
	CloseSend()
	// Wait returns when the stream has ended: nil if the peer has read
	// everything and said so. It calls answered if the peer's headers come, with
	// the store id that they name, or 0. The error wraps ErrUnimplemented,
	// ErrWrongStore or ErrShuttingDown where it is that.
	Wait(answered func(storeID uint64)) error
}

// The ends of a stream that mean more than that it broke.
var (
	// ErrUnimplemented means that the peer doesn't know this kind of stream.
	ErrUnimplemented = errors.New("the peer doesn't know the method")
	// ErrWrongStore means that another store answered.
	ErrWrongStore = errors.New("another store answered")
	// ErrShuttingDown means that the peer ended the stream because it stops.
	ErrShuttingDown = errors.New("the peer is shutting down")
)

// Kind is one way to carry messages.
type Kind uint8

// The kinds of streams.
const (
	// BatchRaft carries batches.
	BatchRaft Kind = iota
	// Raft carries one message at a time, without a frame. Peers of old know
	// nothing else.
	Raft
)

// chain returns the order in which the kinds are tried.
func chain() [2]Kind {
	if mutant.Active == mutant.C12 { // nobody falls back
		return [...]Kind{BatchRaft, BatchRaft}
	}
	return [...]Kind{BatchRaft, Raft}
}

// generation is one life of a connection's stream. The connection's goroutine
// waits for the end, a pump sends.
type generation struct {
	kind    Kind
	address string
	stream  Stream
	cancel  context.CancelFunc
	whenUp  func()        // called when it is up, once, with Store.mu held; may be nil
	ended   chan struct{} // closed by the waiting goroutine
	result  error         // why it ended, nil for well; belongs to the waiting goroutine

	carried bool   // belongs to the pump
	downs   uint64 // of the store when the last batch had been handed over; the pump's too

	pump     *pump
	up, over bool // guarded by Store.mu
	upTimer  *time.Timer
	watchdog *watchdog
}

// openGeneration opens a stream.
func (c *Connection) openGeneration(link Link, kind Kind, address string) (*generation, error) {
	ctx, cancel := context.WithCancel(c.ctx)
	stream, err := link.Open(ctx, kind, wire.StreamID{
		Incarnation: c.store.options.Incarnation,
		Lane:        c.lane.String(),
		Index:       c.index,
		Generation:  c.store.set.streams.Add(1),
	})
	if err != nil {
		cancel()
		return nil, err
	}
	c.generation.Add(1)
	c.opened = time.Now()
	g := &generation{kind: kind, address: address, stream: stream, cancel: cancel, ended: make(chan struct{})}
	g.pump = &pump{connection: c, generation: g}
	if c.doubtful {
		g.whenUp = func() { c.begin(g) }
	}
	c.open.Store(true)
	// A peer that doesn't send its headers counts as up when the stream has
	// stayed open for one backoff step.
	g.upTimer = time.AfterFunc(c.store.options.BackoffStep, func() { c.store.cameUp(g) })
	g.watchdog = watch(c.queue, c.store.options.StallTimeout, g.cancel)
	return g, nil
}

// wait waits for the headers and for the end.
func (g *generation) wait(s *Store) {
	defer close(g.ended)
	var wrong error
	err := g.stream.Wait(func(storeID uint64) {
		if storeID != 0 && storeID != s.id {
			wrong = fmt.Errorf("%w: store %d in place of store %d", ErrWrongStore, storeID, s.id)
			g.cancel()
			return
		}
		if storeID != 0 {
			s.confirm(g.address)
		}
		s.cameUp(g)
	})
	g.result = err
	if wrong != nil {
		g.result = wrong
	}
}

func (g *generation) hasEnded() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// err returns why the generation ended, never nil.
func (g *generation) err() error {
	if stalled := g.watchdog.stalled(); stalled != nil {
		return stalled
	}
	if g.result == nil {
		return errors.New("the peer ended the stream with Done")
	}
	return g.result
}
