package kvstore

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux/etcdraft"
)

// meddler stands between the workers and the network. It notes the proposals
// that pass, and takes messages away.
type meddler struct {
	mu    sync.Mutex
	props []*raftpb.Message
	take  func(*raftpb.Message) bool
}

type meddled struct {
	transport
	meddler *meddler
}

func (m *meddler) wrap(inner transport) transport { return &meddled{inner, m} }

func (m *meddled) SendAll(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (int, error) {
	m.meddler.mu.Lock()
	var pass []*raftpb.Message
	for _, message := range messages {
		if message.GetType() == raftpb.MsgProp {
			m.meddler.props = append(m.meddler.props, proto.Clone(message).(*raftpb.Message))
		}
		if m.meddler.take == nil || !m.meddler.take(message) {
			pass = append(pass, message)
		}
	}
	m.meddler.mu.Unlock()
	return m.transport.SendAll(group, node, pass)
}

func (m *meddler) proposals() []*raftpb.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*raftpb.Message(nil), m.props...)
}

// A proposal that is forwarded and comes to the leader once more, long after it
// was acknowledged and overwritten, changes nothing.
func TestForwardedProposalIsAppliedOnce(t *testing.T) {
	m := &meddler{}
	c := newCluster(t, 3, Options{Regions: 1, wrapTransport: m.wrap})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	home := c.stores[1].host.stores[1] // region 1's
	other := home%3 + 1
	mustSet(t, c.stores[other], "key", "old")
	mustSet(t, c.stores[home], "key", "new")
	props := m.proposals()
	if len(props) == 0 {
		t.Fatal("nothing was forwarded")
	}
	host := c.stores[home].host
	before := host.views[0].applied.Load()
	for _, prop := range props {
		err := host.Step(etcdraft.Header{
			RegionID: 1,
			From:     etcdraft.Peer{ID: PeerID(1, other), StoreID: other},
			To:       etcdraft.Peer{ID: PeerID(1, home), StoreID: home},
		}, prop)
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "the copies are in the log and gone through", func() bool {
		return host.views[0].applied.Load() >= before+uint64(len(props))
	})
	if got := mustGet(t, c.stores[other], "key"); string(got) != "new" {
		t.Errorf("the key is %q, the first write was applied again", got)
	}
	c.checkEqual()
}

// A forwarded write or read that gets lost is sent again, under the same id.
func TestLostForwardsAreRepeated(t *testing.T) {
	lost := map[raftpb.MessageType]int{}
	m := &meddler{}
	m.take = func(message *raftpb.Message) bool {
		kind := message.GetType()
		if (kind == raftpb.MsgProp || kind == raftpb.MsgReadIndex || kind == raftpb.MsgReadIndexResp) && lost[kind] < 1 {
			lost[kind]++
			return true
		}
		return false
	}
	c := newCluster(t, 3, Options{Regions: 1, wrapTransport: m.wrap, RequestTimeout: 20 * time.Second})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	other := c.stores[1].host.stores[1]%3 + 1
	if err := c.stores[other].Set([]byte("key"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	value, err := c.stores[other].Get([]byte("key"))
	if err != nil || string(value) != "value" {
		t.Fatalf("%q, %v", value, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, kind := range []raftpb.MessageType{raftpb.MsgProp, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp} {
		if lost[kind] != 1 {
			t.Errorf("%v was lost %d times", kind, lost[kind])
		}
	}
}

// Without a majority there is no leader: TRYAGAIN, after the time that was given.
func TestNoLeaderIsTryAgain(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 3, RequestTimeout: 300 * time.Millisecond})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	c.kill(2, 3)
	store := c.stores[1]
	eventually(t, 20*time.Second, "no region has a leader", func() bool {
		for i := range store.host.views {
			if store.host.views[i].leader.Load() != 0 {
				return false
			}
		}
		return true
	})
	if err := store.Set([]byte("key"), nil); !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("set: %v", err)
	}
	if _, err := store.Get([]byte("key")); !errors.Is(err, ErrTryAgain) {
		t.Errorf("get: %v", err)
	}
}
