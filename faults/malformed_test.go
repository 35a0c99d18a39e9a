package faults

import (
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
)

// C20: what can't be a message between stores is refused at once, whatever the rules
// say of its kind: one that waited would be one to a wrong store for the Server.
func TestMalformedDoesNotWait(t *testing.T) {
	for name, change := range map[string]func(*raft_serverpb.RaftMessage){
		"no to_peer": func(m *raft_serverpb.RaftMessage) { m.ToPeer = nil },
		"store 0":    func(m *raft_serverpb.RaftMessage) { m.ToPeer.StoreId = 0 },
		"peer 0":     func(m *raft_serverpb.RaftMessage) { m.ToPeer.Id = 0 },
		"local":      func(m *raft_serverpb.RaftMessage) { m.Message.MsgType = eraftpb.MessageType_MsgHup },
	} {
		message := appends(1)[0]
		change(message)
		body, err := message.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var host arrivals
		rules := setRules(t, Options{}, "delay 50ms")
		receiver := rules.Receiver(raftmux.HandlerReceiver(&host, false))()
		if envelope, err := receiver.Decode(body); err == nil {
			t.Errorf("%s: taken, for store %d", name, envelope.ToStoreID)
		}
		receiver.Discard()
		rules.Close()
	}
}
