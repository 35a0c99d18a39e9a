package snapshot_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// newInline returns an Inline whose messages come by a channel, or are refused with
// an error, and the address where it receives.
func newInline(t *testing.T, refusal error) (inline snapshot.Inline, address string, came chan *raft_serverpb.RaftMessage) {
	t.Helper()
	came = make(chan *raft_serverpb.RaftMessage, 1)
	inline = snapshot.Inline{Deliver: func(_ context.Context, m *raft_serverpb.RaftMessage) error {
		if refusal == nil {
			came <- m
		}
		return refusal
	}}
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: inline})
	if err != nil {
		t.Fatal(err)
	}
	return inline, serve(t, receiver), came
}

// C13: a snapshot that is all in its message arrives by itself, and the sender is told
// so when the host has it; what came beside it is nobody's, so it is refused.
func TestInline(t *testing.T) {
	inline, address, came := newInline(t, nil)
	m := rig.Snapshot(7, there, 27, 100)
	if err := newSender(t, inline).SendSnapshot(context.Background(), address, m); err != nil {
		t.Fatal(err)
	}
	if got := <-came; got.String() != m.String() {
		t.Errorf("received %v, want %v", got, m)
	}
	if err := newSender(t, memory{7: random(7, 10)}).SendSnapshot(context.Background(), address, message(7, 10)); err == nil {
		t.Error("data beside the message was taken")
	}
}

// C13: a host that refuses the message has the sender told that it failed.
func TestInlineRefused(t *testing.T) {
	busy := errors.New("busy")
	inline, address, _ := newInline(t, busy)
	if err := newSender(t, inline).SendSnapshot(context.Background(), address, rig.Snapshot(7, there, 27, 100)); err == nil {
		t.Error("the sender believes that it has arrived")
	}
	if _, err := (snapshot.Inline{}).CreateSnapshot(context.Background(), nil); err == nil {
		t.Error("a Sink without Deliver takes snapshots")
	}
	var wrong *snapshot.OptionError
	_, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: snapshot.Inline{}})
	if !errors.As(err, &wrong) || wrong.Field != "Sink" {
		t.Errorf("a Receiver for a Sink without Deliver: %v", err)
	}
	_, err = snapshot.NewSender(snapshot.SenderOptions{StoreID: there, Source: inline, Grace: -time.Second})
	if !errors.As(err, &wrong) || wrong.Problem != "is -1s, must be between 1ms and 24h0m0s" {
		t.Errorf("a duration is out of range: %v", err)
	}
}
