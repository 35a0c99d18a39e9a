package peer

import (
	"testing"

	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// What is flushed in the moment when a pump's goroutine is about to go keeps it, and so
// does the beginning of the end: nobody else would look.
func TestPumpLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	q := queue.New(queue.Options{
		Messages: 1, Bytes: 1, Pool: new(queue.Pool), Dropped: func(queue.Reason, []report.Peer, int) {},
	})
	set := &Set{closing: make(chan struct{})}
	p := &pump{connection: &Connection{queue: q, store: &Store{set: set}}, awake: true}
	if q.NewStage().Flush(); p.leave() || !p.awake {
		t.Error("it goes, though something was flushed")
	}
	if !p.leave() || p.awake {
		t.Error("it stays, though nothing has come")
	}
	p.awake = true
	if close(set.closing); p.leave() || !p.awake {
		t.Error("it goes, though the Client is closing")
	}
}
