package raftmux_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// framed returns a body as it stands in a batch.
func framed(body []byte) []byte {
	if len(body) > 127 {
		panic("a test's frame is too long")
	}
	return append([]byte{1<<3 | 2, byte(len(body))}, body...)
}

// C20: a malformed message inside a batch costs only itself.
func TestC20MalformedCostsItself(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	last := rig.Ack(3, there, 2)
	encoded, err := last.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	local := rig.Message(4, there, 2, eraftpb.MessageType_MsgHup)
	noPeer := rig.Ack(4, there, 2)
	noPeer.ToPeer = nil
	batch := &tikvpb.BatchRaftMessage{
		Msgs: []*raft_serverpb.RaftMessage{rig.Ack(1, there, 2), local, noPeer, rig.Ack(2, there, 2)},
		// On the wire these are messages like the others, behind them.
		XXX_unrecognized: bytes.Join([][]byte{
			framed([]byte{0x1a, 0x7f, 1}),          // a peer that is cut short
			framed(nil),                            // nothing: no to_peer
			framed(bytes.Repeat([]byte{0xff}, 12)), // no tag at all
			framed(encoded),
		}, nil),
	}
	if err := stream.SendBatch(batch); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(rig.Ack(5, there, 2)); err != nil {
		t.Fatal(err)
	}
	for i, m := range box.wait(t, 4) {
		if want := []uint64{1, 2, 3, 5}[i]; m.RegionId != want {
			t.Errorf("message %d is for region %d, not %d", i, m.RegionId, want)
		}
	}
	stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Messages == 4 })
	if stats.Malformed != 5 || stats.Streams != 1 || stream.Ended() {
		t.Errorf("stats %+v, the stream has ended: %v", stats, stream.Ended())
	}
	if err := stream.Finish(t); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}

// C20: entries of two bytes take sixty times as much once they are decoded. A message with
// too many is dropped before anyone decodes it, and costs only itself.
func TestC20TooManyEntries(t *testing.T) {
	t.Parallel()
	for name, high := range map[string]bool{"taken": false, "above the mark": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var box inbox
			options := raftmux.ServerOptions{Handler: &box}
			if high {
				options.HighWater = func() bool { return true }
				options.AppendRefused = func(raftmux.Envelope) {}
			}
			server := newReceiving(t, options)
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
			many := rig.Message(2, there, 2, eraftpb.MessageType_MsgAppend)
			many.Message.XXX_unrecognized = bytes.Repeat([]byte{7<<3 | 2, 0}, 4<<20+1)
			if err := stream.Send(rig.Ack(1, there, 2), many, rig.Ack(3, there, 2)); err != nil {
				t.Fatal(err)
			}
			stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Batches == 1 })
			if got := box.all(); len(got) != 2 || got[0].RegionId != 1 || got[1].RegionId != 3 || stats.Malformed != 1 {
				t.Errorf("%d messages came, stats %+v", len(got), stats)
			}
			if err := stream.Finish(t); err != nil {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
}

// C20: what the host refuses costs only itself; other regions' messages flow.
func TestC20RefusedCostsItself(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		t.Run(string(rpc), func(t *testing.T) {
			t.Parallel()
			var box inbox
			server := newReceiving(t, raftmux.ServerOptions{Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
				if m.RegionId == 5 {
					return errors.New("unknown region")
				}
				return box.Step(m)
			})})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			for range 10 {
				err := stream.Send(rig.Ack(1, there, 2), rig.Ack(5, there, 2), rig.Ack(2, there, 2))
				if err != nil {
					t.Fatal(err)
				}
			}
			box.wait(t, 20)
			stats := server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Messages == 20 && s.Refused == 10 })
			if stats.Malformed != 0 || stream.Ended() {
				t.Errorf("stats %+v, ended: %v", stats, stream.Ended())
			}
		})
	}
}

// C20: a batch whose framing is broken ends the stream, and nothing of it is
// delivered; what came before it stands.
func TestC20BrokenFraming(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string][]byte{
		"cut short":   {1<<3 | 2, 100, 1, 2},
		"wire type 7": {15<<3 | 7},
		"field 0":     {0, 1},
		"too many":    bytes.Repeat([]byte{1<<3 | 2, 0}, 1<<20), // one more than may be
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var box inbox
			log := newLogCounter()
			server := newReceiving(t, raftmux.ServerOptions{Handler: &box, Logger: slog.New(log)})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
			if err := stream.Send(rig.Ack(1, there, 2)); err != nil {
				t.Fatal(err)
			}
			_ = stream.SendBatch(&tikvpb.BatchRaftMessage{
				Msgs: []*raft_serverpb.RaftMessage{rig.Ack(2, there, 2)}, XXX_unrecognized: broken,
			})
			if err := stream.Status(t); status.Code(err) != codes.InvalidArgument {
				t.Errorf("ended with %v", err)
			}
			if n := log.count("WARN a malformed batch ends the stream"); n != 1 {
				t.Errorf("logged %d times", n)
			}
			if got := box.all(); len(got) != 1 || got[0].RegionId != 1 {
				t.Errorf("%d messages at the host", len(got))
			}
		})
	}
}

// C22: messages are the host's to keep: whatever comes later, and though all
// memory that is used again is poisoned, every byte of them stays.
func TestC22OwnedMayBeKept(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	var want []string
	for round := range uint64(40) {
		batch := []*raft_serverpb.RaftMessage{
			rig.Ack(round, there, 2),
			rig.Append(round, there, 2, int(round%5), int(round*round*50)),
			rig.Append(round, there, 2, 100, 7),
			rig.Extra(round, there, 2),
			rig.Snapshot(round, there, 2, int(round)),
		}
		for _, m := range batch {
			m.StartKey = []byte(fmt.Sprintf("key %d", round))
			if m.Message != nil {
				m.Message.Context = []byte(fmt.Sprintf("context %d", round))
			}
			want = append(want, m.String())
		}
		if err := stream.Send(batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Finish(t); err != nil {
		t.Fatal(err)
	}
	got := box.wait(t, len(want))
	for i, m := range got {
		if m.String() != want[i] {
			t.Fatalf("message %d has changed", i)
		}
	}
}

// C22: lent messages are whole while Step runs, and poisoned after their batch.
func TestC22LentIsPoisoned(t *testing.T) {
	t.Parallel()
	var ( // of the stream's goroutine, until it has ended
		seen    []string
		kept    []*raft_serverpb.RaftMessage
		entries []*eraftpb.Entry
		data    []byte
		problem string
	)
	server := newReceiving(t, raftmux.ServerOptions{
		LendMessages: true,
		Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
			seen = append(seen, m.String())
			if m.RegionId != 99 {
				kept, entries = append(kept, m), append(entries, m.GetMessage().GetEntries()...)
				if len(entries) > 0 {
					data = entries[len(entries)-1].Data
				}
				return nil
			}
			for i, k := range kept[1:] { // the first one's memory is the new message's
				if k.RegionId < 1<<32 || k.Message.Term < 1<<32 {
					problem = fmt.Sprintf("message %d is readable after its time: %v", i+1, k)
				}
			}
			for i, e := range entries {
				if e.Index < 1<<32 || !strings.Contains(string(e.Data), "lent") {
					problem = fmt.Sprintf("entry %d is readable after its time: %v", i, e)
				}
			}
			if bytes.Contains(data, []byte("ccccc")) {
				problem = fmt.Sprintf("bytes are readable after their time: %q", data)
			}
			return nil
		}),
	})
	stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rig.BatchRaft)
	batch := []*raft_serverpb.RaftMessage{
		rig.Append(1, there, 2, 1, 10), rig.Append(2, there, 2, 3, 1000), rig.Ack(3, there, 2),
	}
	next := rig.Ack(99, there, 2)
	if err := stream.Send(batch...); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(next); err != nil {
		t.Fatal(err)
	}
	if err := stream.Finish(t); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if problem != "" {
		t.Error(problem)
	}
	if len(seen) != 4 || len(entries) != 4 {
		t.Fatalf("%d messages, %d entries", len(seen), len(entries))
	}
	for i, m := range append(batch, next) {
		if seen[i] != m.String() {
			t.Errorf("message %d was lent as %s", i, seen[i])
		}
	}
}

// C22, C5: the messages of a stream reach the host in order.
func TestC22OrderWithinStream(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		t.Run(string(rpc), func(t *testing.T) {
			t.Parallel()
			var box inbox
			server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			const n = 1000
			messages := numbered(1, 1, n, 30)
			for len(messages) > 0 {
				k := min(len(messages), 1+len(messages)%37)
				if err := stream.Send(messages[:k]...); err != nil {
					t.Fatal(err)
				}
				messages = messages[k:]
			}
			var list []uint64
			for _, m := range box.wait(t, n) {
				list = append(list, m.Message.Index)
			}
			wantRange(t, list, 1, n)
		})
	}
}
