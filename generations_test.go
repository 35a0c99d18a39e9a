package raftmux_test

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// generationOf opens a stream as a raftmux store would, on a connection of its own.
func generationOf(t *testing.T, address string, incarnation, index, generation int) *rig.RaftStream {
	t.Helper()
	return rig.NewRaftClient(t, address, rig.RaftClientOptions{Metadata: map[string]string{
		"raftmux-stream": fmt.Sprintf("%d/data/%d/%d", incarnation, index, generation),
	}}).Open(t, rig.BatchRaft)
}

// C5: a newer generation of a connection ends the older; one that comes too late
// is refused; a new incarnation takes over whatever its number. Other
// connections are left alone.
func TestC5NewerGenerationTakesOver(t *testing.T) {
	t.Parallel()
	var box inbox
	log := newLogCounter()
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box, Logger: slog.New(log)})
	ended := func(stream *rig.RaftStream) {
		t.Helper()
		if err := stream.Status(t); status.Code(err) != codes.Aborted {
			t.Errorf("ended with %v", err)
		}
	}
	other := generationOf(t, server.addr, 77, 1, 1)
	other.Header(t)
	second := generationOf(t, server.addr, 77, 0, 2)
	second.Header(t)
	third := generationOf(t, server.addr, 77, 0, 3)
	third.Header(t)
	ended(second)
	ended(generationOf(t, server.addr, 77, 0, 2)) // late
	ended(generationOf(t, server.addr, 77, 0, 3)) // the same again
	reborn := generationOf(t, server.addr, 78, 0, 1)
	reborn.Header(t)
	ended(third)
	const twins = "a store's stream is refused, for a newer life of that store has one; is another Client that store, too?"
	if n := log.count(twins); n != 0 {
		t.Errorf("%d twins in one life", n)
	}
	// Late, of the life before; or, if that is still there, one of two with one id.
	late := generationOf(t, server.addr, 77, 0, 4)
	if err := late.Status(t); status.Code(err) != codes.Aborted || !strings.HasSuffix(err.Error(), "; if that goes on, another Client is store 1, too") {
		t.Errorf("ended with %v", err)
	}
	ended(generationOf(t, server.addr, 77, 0, 5))
	if n := log.count("WARN " + twins); n != 1 {
		t.Errorf("logged %d times within moments", n)
	}
	for i, stream := range []*rig.RaftStream{reborn, other} {
		if err := stream.Send(rig.Ack(uint64(i)+1, there, 2)); err != nil {
			t.Fatal(err)
		}
		box.wait(t, i+1)
	}
	// What the host has taken is counted a moment later.
	server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Streams == 2 && s.Messages == 2 })
}

// heldUp is a server whose host takes messages, and holds up the stream of the first
// one until release.
func heldUp(t *testing.T, box *inbox) (server *receiving, release func()) {
	t.Helper()
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	server = newReceiving(t, raftmux.ServerOptions{Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
		_ = box.Step(m)
		if m.Message.Index == 1 {
			<-gate
		}
		return nil
	})})
	t.Cleanup(release)
	return server, release
}

// C5: nothing of the newer generation is delivered before the older has ended,
// and nothing of the older after.
func TestC5NewerWaitsForOlder(t *testing.T) {
	t.Parallel()
	var box inbox
	server, release := heldUp(t, &box)
	older := generationOf(t, server.addr, 77, 0, 1)
	older.Header(t)
	for _, m := range numbered(1, 1, 300, 10) { // a batch each; the first one is held
		if err := older.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	box.wait(t, 1)
	newer := generationOf(t, server.addr, 77, 0, 2)
	if err := newer.Send(numbered(1, 1001, 1010, 10)...); err != nil {
		t.Fatal(err)
	}
	rig.Never(t, 50*time.Millisecond, func() bool { return len(box.all()) > 1 }, "the newer one overtook")
	release()
	if err := older.Status(t); status.Code(err) != codes.Aborted {
		t.Errorf("the older one ended with %v", err)
	}
	if err := newer.Finish(t); err != nil {
		t.Errorf("the newer one ended with %v", err)
	}
	list := box.all()
	if tail := list[len(list)-10]; tail.Message.Index != 1001 {
		t.Fatalf("%d messages, the tenth from the end is %d", len(list), tail.Message.Index)
	}
	for i, m := range list[:len(list)-10] {
		if m.Message.Index != uint64(i)+1 {
			t.Fatalf("message %d is at the place of %d", m.Message.Index, i+1)
		}
	}
}

// C5: while one generation is held up, a second takes over from it and a third from
// that: the third waits for both.
func TestC5ThirdWaitsForBoth(t *testing.T) {
	t.Parallel()
	var box inbox
	server, release := heldUp(t, &box)
	first := generationOf(t, server.addr, 77, 0, 1)
	first.Header(t)
	if err := first.Send(numbered(1, 1, 10, 10)...); err != nil {
		t.Fatal(err)
	}
	box.wait(t, 1)
	var later []*rig.RaftStream
	for i := range uint64(2) {
		stream := generationOf(t, server.addr, 77, 0, 2+int(i))
		if err := stream.Send(numbered(1, 101+100*i, 110+100*i, 10)...); err != nil {
			t.Fatal(err)
		}
		// It has come once the one before has been told so, though the host still has its batch.
		if err := append([]*rig.RaftStream{first}, later...)[i].Status(t); status.Code(err) != codes.Aborted {
			t.Errorf("the one before ended with %v", err)
		}
		later = append(later, stream)
	}
	rig.Never(t, 50*time.Millisecond, func() bool { return len(box.all()) > 1 }, "a later one overtook")
	release()
	if err := later[1].Finish(t); err != nil {
		t.Errorf("the third one ended with %v", err)
	}
	last := uint64(0)
	for _, m := range box.all() {
		if m.Message.Index <= last {
			t.Fatalf("%d came behind %d", m.Message.Index, last)
		}
		last = m.Message.Index
	}
	if last != 210 {
		t.Errorf("the last one is %d", last)
	}
}

// C5, C20: metadata that says what can't be ends the stream.
func TestC5BadStreamID(t *testing.T) {
	t.Parallel()
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
	for _, options := range []rig.RaftClientOptions{
		{Metadata: map[string]string{"raftmux-stream": "77/data/0"}},
		{Metadata: map[string]string{"raftmux-stream": "77/data/0/x"}},
		{Metadata: map[string]string{"raftmux-stream": "77/" + strings.Repeat("x", 200) + "/0/1"}}, // it would be kept for long
		{Metadata: map[string]string{"raftmux-stream": "77/data/0/1"}, NoStoreID: true},
		{Metadata: map[string]string{"raftmux-stream": "77/data/0/1", "source_store_id": "one"}, NoStoreID: true},
	} {
		err := rig.NewRaftClient(t, server.addr, options).Open(t, rig.BatchRaft).Status(t)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: ended with %v", options.Metadata, err)
		}
	}
}

// C5, C19: while the host holds up one generation, those that come after it and have gone
// again, or were followed by a newer one, aren't kept, nor what their windows let in.
func TestC5HeldUpGenerationsAreNotKept(t *testing.T) {
	t.Parallel()
	var box inbox
	server, release := heldUp(t, &box)
	stream := generationOf(t, server.addr, 77, 0, 1)
	stream.Header(t)
	if err := stream.Send(numbered(1, 1, 10, 10)...); err != nil {
		t.Fatal(err)
	}
	box.wait(t, 1)
	for generation := 2; generation < 10; generation++ {
		before := stream
		stream = generationOf(t, server.addr, 77, 0, generation)
		if err := stream.Send(numbered(1, 101, 110, 10)...); err != nil {
			t.Fatal(err)
		}
		if err := before.Status(t); status.Code(err) != codes.Aborted {
			t.Fatalf("generation %d ended with %v", generation-1, err)
		}
	}
	stream.Cancel()
	server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Streams == 0 })
	last := generationOf(t, server.addr, 77, 0, 10)
	if err := last.Send(numbered(1, 1001, 1010, 10)...); err != nil {
		t.Fatal(err)
	}
	rig.Never(t, 50*time.Millisecond, func() bool { return len(box.all()) > 1 }, "a later one overtook")
	release()
	if err := last.Finish(t); err != nil {
		t.Errorf("the last one ended with %v", err)
	}
	if all := box.all(); len(all) != 20 || all[10].Message.Index != 1001 {
		t.Errorf("%d messages", len(all))
	}
}
