package raftmux_test

import (
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// heldEncoder is an Encoder that holds up who encodes until it is released.
type heldEncoder struct {
	encoded        []byte
	begun, release chan struct{}
}

func newHeldEncoder(t *testing.T, message *raft_serverpb.RaftMessage) *heldEncoder {
	t.Helper()
	encoded, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &heldEncoder{encoded: encoded, begun: make(chan struct{}), release: make(chan struct{})}
}

func (e *heldEncoder) Size() int { return len(e.encoded) }

func (e *heldEncoder) AppendTo(buffer []byte) []byte {
	close(e.begun)
	<-e.release
	return append(buffer, e.encoded...)
}

// C10: a removed store has a down edge to tell yet, and is up again before its end
// comes to that. The host hears of the edge, and then that the store is up.
func TestC10RemovedStoreTellsItsEdgeLate(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	h := toPeer(t, peer, func(o *raftmux.ClientOptions) { o.BackoffStep = time.Hour }) // nothing connects again
	wait := func(downs, ups int, msg string) {
		t.Helper()
		h.router.WaitFor(t, rig.WaitTimeout, func(e events) bool {
			return e.StoreUnreachable(there) == downs && e.StoreUp(there) == ups
		}, msg)
	}
	broken := status.Error(codes.Unavailable, "broken")
	s := h.sender(t)
	sendAll(t, s, rig.Ack(1, there, 2))
	peer.WaitMessages(t, 1)
	wait(0, 1, "up")
	peer.EndStreams(broken)
	wait(1, 1, "down")
	sendAll(t, s, rig.Heartbeat(1, there, 2)) // by the control connection
	peer.WaitMessages(t, 2)
	wait(1, 2, "up again")
	peer.EndStreams(broken) // within the step: it is to be told of later
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		status, _ := h.Store(there)
		return status.State == raftmux.StoreDown
	}, "no stream is left")

	// A worker that encodes holds up the end of what was removed.
	message := rig.Ack(1, there, 2)
	encoder := newHeldEncoder(t, message)
	var running sync.WaitGroup
	running.Go(func() {
		worker := h.NewSender()
		defer worker.Close()
		_ = worker.SendEncoded(raftmux.EnvelopeOf(message), encoder)
	})
	<-encoder.begun
	running.Go(func() { h.RemoveStore(there) })
	release := sync.OnceFunc(func() { close(encoder.release); running.Wait() })
	t.Cleanup(release)
	// What comes before it is removed waits for the end of the step, and is dropped.
	// A Sender that knows the store stays with it until it has ended.
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		other := h.NewSender()
		defer other.Close()
		sendAll(t, other, rig.Heartbeat(1, there, 2))
		return peer.Count() > 2
	}, "the store has come back")
	wait(1, 3, "the store that has come back is up")
	release()
	wait(2, 4, "down for what was removed, and up for what lives")
	last := rig.StoreUp
	for _, e := range h.router.Events() {
		if e.Kind == rig.StoreUp || e.Kind == rig.StoreUnreachable {
			last = e.Kind
		}
	}
	if last != rig.StoreUp {
		t.Errorf("the store is up, and the host heard %v last", last)
	}
}
