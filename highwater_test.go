package raftmux_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C21: above the host's high-water mark appends are refused, the host is told of
// each, and all else passes; below it, everything does.
func TestC21HighWater(t *testing.T) {
	t.Parallel()
	for _, rpc := range []rig.RPC{rig.BatchRaft, rig.Raft} {
		t.Run(string(rpc), func(t *testing.T) {
			t.Parallel()
			var (
				box     inbox
				high    atomic.Bool
				mu      sync.Mutex
				refused []raftmux.Envelope
			)
			high.Store(true)
			server := newReceiving(t, raftmux.ServerOptions{
				Handler:   &box,
				HighWater: high.Load,
				AppendRefused: func(envelope raftmux.Envelope) {
					mu.Lock()
					defer mu.Unlock()
					refused = append(refused, envelope)
				},
			})
			stream := rig.NewRaftClient(t, server.addr, rig.RaftClientOptions{}).Open(t, rpc)
			var messages []*raft_serverpb.RaftMessage
			for typ := eraftpb.MessageType_MsgPropose; typ <= eraftpb.MessageType_MsgRequestPreVoteResponse; typ++ {
				switch typ {
				case eraftpb.MessageType_MsgUnreachable, eraftpb.MessageType_MsgSnapStatus, eraftpb.MessageType_MsgCheckQuorum:
				default:
					messages = append(messages, rig.Message(uint64(typ)+1, there, 2, typ))
				}
			}
			messages = append(messages, rig.Extra(100, there, 2), rig.Append(7, there, 3, 1, 100_000))
			if err := stream.Send(messages...); err != nil {
				t.Fatal(err)
			}
			for _, message := range box.wait(t, len(messages)-2) {
				if message.GetMessage().GetMsgType() == eraftpb.MessageType_MsgAppend {
					t.Errorf("handed over: %v", message.RegionId)
				}
			}
			server.waitStats(t, func(s raftmux.ServerStats) bool { return s.Overloaded == 2 && s.Malformed == 0 })
			mu.Lock()
			if len(refused) != 2 || refused[1].RegionID != 7 || refused[1].ToPeerID != 3 || refused[1].ToStoreID != there {
				t.Errorf("told of %+v", refused)
			}
			mu.Unlock()
			high.Store(false)
			if err := stream.Send(rig.Append(8, there, 3, 1, 10)); err != nil {
				t.Fatal(err)
			}
			box.wait(t, len(messages)-1)
		})
	}
}
