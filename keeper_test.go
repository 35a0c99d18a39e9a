package raftmux_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// largeMessages are of all sizes, so that some lie in one HTTP/2 frame, some
// across two, and some across many.
func largeMessages() (messages []*raft_serverpb.RaftMessage) {
	for i, size := range []int{100, 5000, 9000, 20, 16 << 10, 40000, 300, 70000, 256 << 10, 10, 1000} {
		messages = append(messages,
			rig.Append(uint64(1+i), there, 2, 1, size), rig.Append(uint64(100+i), there, 2, 3, size/3), rig.Ack(7, there, 2))
	}
	return messages
}

// C22: large messages come as they were sent, lent or owned, in a batch or each
// alone; what is owned lasts.
func TestC22LargeMessages(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		for _, lend := range []bool{false, true} {
			var mu sync.Mutex
			var seen []string
			var kept []*raft_serverpb.RaftMessage
			server := newReceiving(t, raftmux.ServerOptions{
				LendMessages: lend,
				Handler: handlerFunc(func(m *raft_serverpb.RaftMessage) error {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, m.String())
					if !lend {
						kept = append(kept, m)
					}
					return nil
				}),
			})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			var want []string
			for range 4 {
				messages := largeMessages()
				for _, m := range messages {
					want = append(want, m.String())
				}
				if err := stream.Send(messages...); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.Finish(t); err != nil {
				t.Fatal(err)
			}
			if err := server.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(seen) != len(want) {
				t.Fatalf("%s, lent %v: %d messages, not %d", rpc, lend, len(seen), len(want))
			}
			for i := range want {
				if seen[i] != want[i] {
					t.Errorf("%s, lent %v: message %d is another", rpc, lend, i)
				}
				if !lend && kept[i].String() != want[i] {
					t.Errorf("%s: message %d has changed", rpc, i)
				}
			}
		}
	}
}

// plainReceiver is a Receiver that keeps the bytes until Deliver.
type plainReceiver struct {
	t      *testing.T
	inner  raftmux.Receiver
	held   [][]byte
	copies [][]byte
}

func (r *plainReceiver) Decode(message []byte) (raftmux.Envelope, error) {
	r.held, r.copies = append(r.held, message), append(r.copies, bytes.Clone(message))
	return r.inner.Decode(message)
}

func (r *plainReceiver) Deliver() int {
	for i, message := range r.held {
		if !bytes.Equal(message, r.copies[i]) {
			r.t.Errorf("the bytes of message %d have changed before Deliver", i)
		}
	}
	r.held, r.copies = nil, nil
	return r.inner.Deliver()
}

func (r *plainReceiver) Discard() { r.held, r.copies = nil, nil; r.inner.Discard() }

// keepingReceiver is one that also counts and checks what it is given for good.
type keepingReceiver struct {
	plainReceiver
	given *atomic.Int64
	kept  *[][]byte
	was   *[][]byte
}

func (r *keepingReceiver) DecodeGiven(message []byte) (raftmux.Envelope, error) {
	r.given.Add(1)
	if len(message) <= 8<<10 {
		r.t.Errorf("%d bytes given", len(message))
	}
	*r.kept, *r.was = append(*r.kept, message), append(*r.was, bytes.Clone(message))
	return r.inner.Decode(message)
}

// A Receiver has the bytes until Deliver; a Keeper has those of large messages
// for ever, but is given none while the host is above its high-water mark.
func TestC22ReceiverHasTheBytes(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		for name, high := range map[string]*atomic.Bool{"plain": nil, "keeper": new(atomic.Bool), "keeper above the mark": new(atomic.Bool)} {
			var given atomic.Int64
			var kept, was [][]byte
			var box inbox
			inner := raftmux.HandlerReceiver(&box, true)
			options := raftmux.ServerOptions{NewReceiver: func() raftmux.Receiver {
				plain := plainReceiver{t: t, inner: inner()}
				if high == nil {
					return &plain
				}
				return &keepingReceiver{plainReceiver: plain, given: &given, kept: &kept, was: &was}
			}}
			if high != nil {
				high.Store(name != "keeper")
				options.HighWater = high.Load
			}
			server := newReceiving(t, options)
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			for range 3 {
				if err := stream.Send(largeMessages()...); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.Finish(t); err != nil {
				t.Fatal(err)
			}
			if err := server.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := given.Load(); (got > 0) != (name == "keeper") {
				t.Errorf("%s, %s: %d messages given", rpc, name, got)
			}
			for i := range kept {
				if !bytes.Equal(kept[i], was[i]) {
					t.Errorf("%s: given message %d has changed", rpc, i)
				}
			}
		}
	}
}
