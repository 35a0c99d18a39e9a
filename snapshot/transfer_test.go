package snapshot_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/snapshot"
)

var (
	_ raftmux.SnapshotSender   = (*snapshot.Sender)(nil)
	_ raftmux.SnapshotReceiver = (*snapshot.Receiver)(nil)
)

// Snapshots of all sizes arrive as they are, and their messages with them.
func TestArrives(t *testing.T) {
	t.Parallel()
	for i, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 77} {
		for _, told := range []bool{true, false} {
			t.Run(fmt.Sprint(size, told), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				region := uint64(i + 1)
				want := random(region, size)
				m := message(region, size)
				if !told {
					m = message(region, -1)
				}
				sender := newSender(t, memory{region: want})
				if err := sender.SendSnapshot(context.Background(), s.address, m); err != nil {
					t.Fatal(err)
				}
				s.expect(t, region, want)
				if got := s.host.of(region)[0].message; got.String() != m.String() {
					t.Errorf("the message is %v", got)
				}
				if len(s.files(t, ".tmp")) > 0 || len(sender.Transfers())+len(s.Transfers()) > 0 {
					t.Error("something is left")
				}
			})
		}
	}
}

// What a host puts into a snapshot's data is its own affair, even if it can be read
// as a RaftSnapshotData: only one of the same region, and of its usual size, is.
func TestHostsOwnData(t *testing.T) {
	t.Parallel()
	const size = 5000
	want := random(7, size)
	region := &metapb.Region{Id: 7}
	for name, own := range map[string][]byte{
		"text":           []byte("a host's own"),
		"no region":      encoded(raft_serverpb.RaftSnapshotData{FileSize: 1}),
		"another region": encoded(raft_serverpb.RaftSnapshotData{FileSize: 1, Region: &metapb.Region{Id: 8}}),
		"negative":       encoded(raft_serverpb.RaftSnapshotData{FileSize: 1 << 63}),
		"large":          encoded(raft_serverpb.RaftSnapshotData{FileSize: 1, Region: region, Data: []*raft_serverpb.KeyValue{{Value: make([]byte, 1<<20)}}}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			sender := newSender(t, memory{7: want})
			m := message(7, -1)
			m.Message.Snapshot.Data = own
			if err := sender.SendSnapshot(context.Background(), s.address, m); err != nil {
				t.Fatal(err)
			}
			s.expect(t, 7, want)
		})
	}
}
