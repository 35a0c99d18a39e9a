package faults

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/internal/rig"
)

// node is an etcdraft.Handler that keeps its messages, as etcd's raft does.
type node struct {
	mu   sync.Mutex
	kept []*raftpb.Message
}

func (n *node) Step(_ etcdraft.Header, m *raftpb.Message) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept = append(n.kept, m)
	return nil
}

// C22: the receiver of etcdraft can be wrapped like any other, and messages that
// waited are the host's to keep like those that did not.
func TestEtcdraftReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host node
		rules := setRules(t, Options{}, "delay 1s MsgAppend", "duplicate MsgHeartbeat", "drop MsgRequestVote")
		r := rules.Receiver(etcdraft.NewReceiver(&host))()
		for i := uint64(1); i <= 3; i++ {
			m := rig.Index(rig.Append(7, 2, 72, 2, 100), i)
			m.Message.Entries[0].Index, m.Message.Entries[1].Index = i+1, i+2
			filtered, refused := receiveBatch(t, r, m, rig.Vote(7, 2, 72))
			if filtered != 1 || refused != 0 {
				t.Errorf("%d filtered, %d refused", filtered, refused)
			}
		}
		receiveBatch(t, r, rig.Index(rig.Heartbeat(7, 2, 72), 9))
		time.Sleep(time.Second)
		synctest.Wait()
		var indexes []uint64
		for _, m := range host.kept {
			indexes = append(indexes, m.GetIndex())
			for _, entry := range m.GetEntries() {
				if len(entry.GetData()) != 100 || entry.GetData()[0] < 'a' || entry.GetData()[0] > 'b' {
					t.Errorf("message %d has an entry with %q", m.GetIndex(), entry.GetData())
				}
			}
		}
		if !slices.Equal(indexes, []uint64{9, 9, 1, 2, 3}) {
			t.Errorf("%v came, %+v", indexes, rules.Stats())
		}
	})
}
