package raftmux

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// stampede connects everyone until they are cut, and nobody from then on.
type stampede struct {
	mu       sync.Mutex
	cut      chan struct{}
	attempts map[string][]time.Time // after the cut, by address
}

func (s *stampede) Resolve(_ context.Context, storeID uint64, _ string) (string, error) {
	return string(rune('A' + storeID)), nil
}

func (s *stampede) Connect(_ context.Context, address string) (peer.Link, error) {
	select {
	case <-s.cut:
	default:
		return s, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[address] = append(s.attempts[address], time.Now())
	return nil, errSeq
}

func (s *stampede) Open(ctx context.Context, _ peer.Kind, _ wire.StreamID) (peer.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, cancel)
	go func() {
		select {
		case <-s.cut:
			cancel()
		case <-ctx.Done():
		}
	}()
	return &stubStream{ctx: ctx, cancel: cancel}, nil
}

func (s *stampede) Close() {}

// C12: a hundred stores that broke at one moment are not tried again at one
// moment: the attempts of each round are spread over the jitter, a fifth of the
// wait to either side, and over most of it.
func TestC12HundredStoresDontStampede(t *testing.T) {
	const stores, step = 100, time.Second
	synctest.Test(t, func(t *testing.T) {
		s := &stampede{cut: make(chan struct{}), attempts: make(map[string][]time.Time)}
		client, err := NewClient(ClientOptions{
			StoreID: 1, Resolver: s, Router: deaf{}, BackoffStep: step, Transport: s,
		})
		if err != nil {
			t.Fatal(err)
		}
		sender := client.NewSender()
		for store := range uint64(stores) {
			if err := sender.Send(rig.Append(1, 2+store, 1, 1, 10)); err != nil {
				t.Fatal(err)
			}
		}
		sender.Close()
		time.Sleep(time.Minute)
		cut := time.Now()
		close(s.cut)
		time.Sleep(time.Minute)

		s.mu.Lock()
		if len(s.attempts) != stores {
			t.Errorf("%d stores were tried again", len(s.attempts))
		}
		// The streams had lived for long, so the first attempt costs no backoff; but
		// all of them broke at once.
		var firsts []time.Duration
		for _, attempts := range s.attempts {
			firsts = append(firsts, attempts[0].Sub(cut))
		}
		slices.Sort(firsts)
		if most := firsts[stores-1]; most > step/5 || firsts[stores*3/4]-firsts[stores/4] < step/20 {
			t.Errorf("the first attempts are from %v to %v", firsts[0], most)
		}
		// The waits before those after it are jittered.
		for round := 1; round <= 8; round++ {
			wait := step * time.Duration(min(round, 5))
			var waits, moments []time.Duration
			for _, attempts := range s.attempts {
				if len(attempts) <= round {
					t.Fatalf("a store was tried %d times within a minute", len(attempts))
				}
				waits = append(waits, attempts[round].Sub(attempts[round-1]))
				moments = append(moments, attempts[round].Sub(attempts[0]))
			}
			slices.Sort(waits)
			slices.Sort(moments)
			least, most := waits[0], waits[stores-1]
			if least < wait*4/5 || most > wait*6/5 || most-least < wait/4 {
				t.Errorf("round %d: waits are from %v to %v, and should be around %v", round, least, most, wait)
			}
			// No twentieth of the window sees a quarter of the stores.
			for i := range stores - stores/4 {
				if together := moments[i+stores/4] - moments[i]; together < wait/50 {
					t.Errorf("round %d: %d stores are tried within %v", round, stores/4, together)
				}
			}
		}
		s.mu.Unlock()
		if err := client.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}
