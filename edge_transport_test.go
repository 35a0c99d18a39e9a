package raftmux_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// lateTransport is a peer.Transport whose streams learn of their headers only after
// late was closed, however long ago they have ended. No connection can be made once
// it is down.
type lateTransport struct {
	down         atomic.Bool
	opened, late chan struct{}
	told         sync.WaitGroup // one for each stream, until it has told of its headers
}

func (l *lateTransport) Connect(context.Context, string) (peer.Link, error) {
	if l.down.Load() {
		return nil, errors.New("down")
	}
	return l, nil
}

func (l *lateTransport) Open(context.Context, peer.Kind, wire.StreamID) (peer.Stream, error) {
	l.told.Add(1)
	close(l.opened)
	return l, nil
}

func (l *lateTransport) Close() {}

func (l *lateTransport) Send(batch queue.Batch) error {
	batch.Buffers.Free()
	return nil
}

func (l *lateTransport) CloseSend() {}

func (l *lateTransport) Wait(answered func(storeID uint64)) error {
	<-l.late
	answered(there)
	l.told.Done()
	return context.Canceled
}

// C10: a stream of a store that was removed learns late that its peer had answered. The
// store that has come back is down, and the host goes on knowing that.
func TestC10RemovedStoreIsNotUp(t *testing.T) {
	t.Parallel()
	transport := &lateTransport{opened: make(chan struct{}), late: make(chan struct{})}
	h := newSending(t, func(o *raftmux.ClientOptions) { o.Transport, o.BackoffStep = transport, time.Hour })
	h.resolver.Set(there, "somewhere")
	s := h.sender(t)
	mustSend(t, s, rig.Ack(1, there, 2)) // not flushed: the stream carries nothing
	<-transport.opened
	transport.down.Store(true)
	h.RemoveStore(there)
	sendAll(t, s, rig.Ack(1, there, 2))
	h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool { return e.StoreUnreachable(there) == 1 }, "down")
	close(transport.late)
	transport.told.Wait()
	h.close(t) // tells all that there is to tell
	if ups := h.router.Events().StoreUp(there); ups != 0 {
		t.Errorf("the host was told %d times that the store is up", ups)
	}
}

// connectFunc is a peer.Transport.
type connectFunc func(ctx context.Context) error

func (f connectFunc) Connect(ctx context.Context, _ string) (peer.Link, error) { return nil, f(ctx) }

// C10: that a store can't be reached is told, too, if it shows when time is up for Close;
// what fails only because of that is no news.
func TestC10UnreachedWhenTimeIsUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err   error
		downs int
	}{
		"refused":   {errors.New("refused"), 1},
		"cancelled": {context.Canceled, 0},
	} {
		connecting := make(chan struct{})
		h := newSending(t, func(o *raftmux.ClientOptions) {
			o.Transport = connectFunc(func(ctx context.Context) error {
				close(connecting)
				<-ctx.Done()
				return test.err
			})
		})
		h.resolver.Set(there, "somewhere")
		sendAll(t, h.sender(t), rig.Ack(1, there, 2))
		<-connecting
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		if downs := h.router.Events().StoreUnreachable(there); downs != test.downs {
			t.Errorf("%s: told %d times, want %d", name, downs, test.downs)
		}
	}
}
