package snapshot_test

import (
	"context"
	"fmt"
	"testing"

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
