package rig

import (
	"bytes"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// Message returns a Raft message of the given type for the region's peer
// toPeer on toStore, from peer 1 of store 1 (see [From]) at term 5.
func Message(region, toStore, toPeer uint64, typ eraftpb.MessageType) *raft_serverpb.RaftMessage {
	return &raft_serverpb.RaftMessage{
		RegionId:    region,
		FromPeer:    &metapb.Peer{Id: 1, StoreId: 1},
		ToPeer:      &metapb.Peer{Id: toPeer, StoreId: toStore},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: 1},
		Message:     &eraftpb.Message{MsgType: typ, From: 1, To: toPeer, Term: 5},
	}
}

// From changes the sender of m and returns m.
func From(m *raft_serverpb.RaftMessage, store, peer uint64) *raft_serverpb.RaftMessage {
	m.FromPeer = &metapb.Peer{Id: peer, StoreId: store}
	if m.Message != nil {
		m.Message.From = peer
	}
	return m
}

// Index sets the log index of m, which tests use to number messages, and returns m.
func Index(m *raft_serverpb.RaftMessage, index uint64) *raft_serverpb.RaftMessage {
	m.Message.Index = index
	return m
}

// Heartbeat returns a leader's heartbeat.
func Heartbeat(region, toStore, toPeer uint64) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgHeartbeat)
	m.Message.Commit = 7
	return m
}

// Ack returns a follower's acknowledgement: small like a heartbeat, and of the
// data lane.
func Ack(region, toStore, toPeer uint64) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgAppendResponse)
	m.Message.Index = 7
	return m
}

// Append returns an append of n entries with size bytes of data each.
func Append(region, toStore, toPeer uint64, n, size int) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgAppend)
	m.Message.LogTerm, m.Message.Index, m.Message.Commit = 5, 10, 7
	m.Message.Entries = make([]*eraftpb.Entry, n)
	for i := range m.Message.Entries {
		m.Message.Entries[i] = &eraftpb.Entry{
			Term:  5,
			Index: 11 + uint64(i),
			Data:  bytes.Repeat([]byte{byte('a' + i%26)}, size),
		}
	}
	return m
}

// Vote returns a request for a vote.
func Vote(region, toStore, toPeer uint64) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgRequestVote)
	m.Message.LogTerm, m.Message.Index = 5, 10
	return m
}

// Snapshot returns a snapshot message with size bytes of data in it.
func Snapshot(region, toStore, toPeer uint64, size int) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgSnapshot)
	m.Message.Snapshot = &eraftpb.Snapshot{
		Data: bytes.Repeat([]byte{'s'}, size),
		Metadata: &eraftpb.SnapshotMetadata{
			ConfState: &eraftpb.ConfState{Voters: []uint64{1, toPeer}},
			Index:     100,
			Term:      5,
		},
	}
	return m
}

// Extra returns a message that has no Raft message in it, only an extra_msg,
// like the ones by which TiKV's hibernating regions wake each other.
func Extra(region, toStore, toPeer uint64) *raft_serverpb.RaftMessage {
	m := Message(region, toStore, toPeer, eraftpb.MessageType_MsgHup)
	m.Message = nil
	m.ExtraMsg = &raft_serverpb.ExtraMessage{Type: raft_serverpb.ExtraMessageType_MsgRegionWakeUp}
	return m
}
