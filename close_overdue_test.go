package raftmux_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

type resolverFunc func(ctx context.Context, storeID uint64) (string, error)

func (f resolverFunc) Resolve(ctx context.Context, storeID uint64, _ string) (string, error) {
	return f(ctx, storeID)
}

// tardyRouter is a Router one of whose callbacks doesn't return until it is released.
type tardyRouter struct {
	raftmux.Router
	release <-chan struct{}
}

// guarded is a log that may be read while it is written.
type guarded struct {
	mu   sync.Mutex
	text strings.Builder
}

func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.Write(p)
}

func (g *guarded) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

func (h tardyRouter) ReportUnreachable(uint64, uint64) bool {
	<-h.release
	return true
}

// C24: a host that doesn't return is waited for, and the log says who it is.
func TestC24CloseSaysWhomItWaitsFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		resolve func(release <-chan struct{}) error
		want    string
	}{
		"callback": {
			func(<-chan struct{}) error { return errors.New("nobody knows") },
			`msg="close waits for a callback of the Router that has not returned" call="ReportUnreachable(1, 2)"`,
		},
		"resolver": {
			func(release <-chan struct{}) error { <-release; return errors.New("nobody knows") },
			`msg="close waits for a Resolver, Dialer or SnapshotSender that has not returned"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				var log guarded
				var router raftmux.Router = rig.NewRouter[raftmux.SnapshotStatus](t)
				if name == "callback" {
					router = tardyRouter{router, release}
				}
				client, err := raftmux.NewClient(raftmux.ClientOptions{
					StoreID:  here,
					Resolver: resolverFunc(func(context.Context, uint64) (string, error) { return "", test.resolve(release) }),
					Router:   router,
					Logger:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
				})
				if err != nil {
					t.Fatal(err)
				}
				sender := client.NewSender()
				mustSend(t, sender, rig.Ack(1, there, 2))
				sender.Close()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				closed := make(chan error, 1)
				go func() { closed <- client.Close(ctx) }()
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if log.String() != "" {
					t.Errorf("says so at once: %s", &log)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if !strings.Contains(log.String(), test.want) || strings.Count(log.String(), "\n") != 1 {
					t.Errorf("the log is %q, want %s", &log, test.want)
				}
				close(release)
				if err := <-closed; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
