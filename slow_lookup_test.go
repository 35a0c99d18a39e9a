package raftmux

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// slowLookup is a Resolver that takes its time, and a Transport whose streams take
// one batch each and break soon. Its host keeps nothing.
type slowLookup struct {
	stubTransport
	deaf
	lookup, life time.Duration
	asked        chan time.Time // when each look-up began
}

func (r *slowLookup) Resolve(context.Context, uint64, string) (string, error) {
	r.asked <- time.Now()
	time.Sleep(r.lookup)
	return "here", nil
}

func (r *slowLookup) Connect(context.Context, string) (peer.Link, error) { return r, nil }

func (r *slowLookup) Open(ctx context.Context, _ peer.Kind, _ wire.StreamID) (peer.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, r.life)
	return &brittleStream{stubStream{ctx: ctx, cancel: cancel}}, nil
}

type brittleStream struct{ stubStream }

func (s *brittleStream) Send(batch queue.Batch) error {
	batch.Buffers.Free()
	<-s.ctx.Done()
	return s.ctx.Err()
}

func (s *brittleStream) Wait(answered func(uint64)) error {
	answered(0)
	<-s.ctx.Done()
	return errors.New("broken")
}

// C12, C8: whether a stream that broke is forgiven is up to how long it lived, not to
// the look-up before it: the second short one clears the queue, and attempts are
// spaced; one that lived for long keeps the queue, and the next begins at once.
func TestC12SlowLookupIsNoCredit(t *testing.T) {
	const step, lookup, messages = 100 * time.Millisecond, time.Second, 10
	for name, test := range map[string]struct {
		life        time.Duration
		queued      uint64        // after the second break
		least, most time.Duration // of the second wait
	}{
		"short lives": {life: time.Millisecond, queued: 0, least: 2 * step * 4 / 5, most: 2 * step * 6 / 5},
		"long lives":  {life: 6 * step, queued: messages - 2, least: 0, most: step / 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &slowLookup{lookup: lookup, life: test.life, asked: make(chan time.Time, messages)}
				client, err := NewClient(ClientOptions{
					StoreID: 1, Resolver: store, Router: store, Transport: store,
					BackoffStep: step, MaxMessageAge: time.Hour, MaxBatchMessages: 1,
				})
				if err != nil {
					t.Fatal(err)
				}
				sender := client.NewSender()
				for range messages {
					if err := sender.Send(rig.Append(1, 2, 3, 1, 10)); err != nil {
						t.Fatal(err)
					}
				}
				sender.Flush()
				<-store.asked
				second, third := <-store.asked, <-store.asked
				status, _ := client.Store(2)
				l := status.Connections[0].Ledger
				if l.Sent != 2 || l.Queued != test.queued || l.Dropped["unreachable"] != messages-2-test.queued {
					t.Errorf("after the second break: %+v", l)
				}
				if wait := third.Sub(second) - lookup - test.life; wait < test.least || wait > test.most {
					t.Errorf("the third attempt came %v after the second, not within %v to %v", wait, test.least, test.most)
				}
				sender.Close()
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := client.Close(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
