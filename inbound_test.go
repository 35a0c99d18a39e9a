package raftmux

import (
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/wire"
)

// What may happen once a minute may happen at once, and again when the minute is over.
func TestMinutely(t *testing.T) {
	t.Parallel()
	var m minutely
	start := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {time.Minute - 1, false}, {time.Minute, true}, {2*time.Minute - 1, false}, {5 * time.Minute, true}} {
		if got := m.may(start.Add(step.after)); got != step.want {
			t.Errorf("after %v: %v", step.after, got)
		}
	}
}

type noHandler struct{}

func (noHandler) Step(*raft_serverpb.RaftMessage) error { return nil }

// C5: a batch that a stream had read when a newer one took over is not handed over.
func TestC5BatchReadBeforeTheEnd(t *testing.T) {
	t.Parallel()
	server, err := NewServer(ServerOptions{StoreID: 1, Handler: noHandler{}})
	if err != nil {
		t.Fatal(err)
	}
	in := &inbound{server: server, turn: newTurn()}
	in.use(server.options.NewReceiver())
	batch := new(wire.Incoming)
	if err := in.take(batch); err != nil {
		t.Errorf("before: %v", err)
	}
	in.over.Store(true)
	if err := in.take(batch); status.Code(err) != codes.Aborted {
		t.Errorf("after: %v", err)
	}
	if stats := server.Stats(); stats.Batches != 1 {
		t.Errorf("%+v", stats)
	}
}
