package etcdraft

import (
	"errors"
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux/internal/rig"
)

// refusing is a host that takes nothing.
type refusing struct{ err error }

func (r refusing) Step(Header, *raftpb.Message) error { return r.err }

// C20: what comes by another way than a stream is checked like all else, and the
// host's refusal is the caller's to see.
func TestDeliver(t *testing.T) {
	message := &raft_serverpb.RaftMessage{}
	data := encode(Header{RegionID: 7, From: Peer{1, 11}, To: Peer{2, 12}}, &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(3),
		Snapshot: &raftpb.Snapshot{Data: []byte("data"), Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(9), Term: proto.Uint64(3), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
		}},
	})
	if err := message.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	host := new(keeper)
	if err := Deliver(host, message); err != nil {
		t.Fatal(err)
	}
	clear(message.Message.Snapshot.Data) // the caller's again
	if got := host.messages[0].GetSnapshot().GetData(); string(got) != "data" {
		t.Errorf("the host has %q", got)
	}
	busy := errors.New("busy")
	if err := Deliver(refusing{busy}, message); !errors.Is(err, busy) {
		t.Errorf("%v, want the host's refusal", err)
	}
	message.Message.Snapshot.Metadata.Index = 0
	if err := Deliver(host, message); err == nil || len(host.messages) != 1 {
		t.Errorf("%v for a snapshot without an index", err)
	}
	if err := Deliver(host, rig.Heartbeat(7, 12, 2)); err != nil { // no other message is excluded
		t.Error(err)
	}
	if err := Deliver(host, &raft_serverpb.RaftMessage{RegionId: 7, ToPeer: &metapb.Peer{Id: 2, StoreId: 12}}); err == nil {
		t.Error("a message without a Raft message was taken")
	}
}
