package kvstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// An order to replace a store can't be taken back, so one that can only be a mistake
// is refused, and says why.
func TestMistakenOrdersToReplaceAreRefused(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	for name, test := range map[string]struct {
		store, old, substitute uint64
		want                   string
	}{
		"the store that is asked":   {3, 3, 4, "store 3 is to be replaced by 4 and is the one that was asked"},
		"by one that is in already": {1, 3, 2, fmt.Sprintf("region 1: store 2, which is to replace 3, has voter %d already; name a store that has none, or take peer %d out by RAFT.REMOVE", PeerID(1, 2), PeerID(1, 3))},
		"by itself":                 {1, 3, 3, "store 3 can't replace itself"},
		"by no store":               {1, 3, 0, "store id 0 is not from 1 to 999"},
	} {
		var err error
		eventually(t, 30*time.Second, name+" is answered", func() bool {
			_, err = c.stores[test.store].ReplaceStore(test.old, test.substitute, "127.0.0.1:1")
			return !errors.Is(err, ErrTryAgain)
		})
		if !errors.Is(err, ErrChange) || !strings.Contains(fmt.Sprint(err), test.want) || strings.Contains(fmt.Sprint(err), "give it again") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for id, store := range c.stores {
		for region := uint64(1); region <= 2; region++ {
			if d, err := store.Peers(region); err != nil || d.Replacement != nil || len(d.Retired) > 0 {
				t.Errorf("region %d on store %d has an order: %+v, %v", region, id, d, err)
			}
		}
	}
	c.checkEqual()
}

// Who has lost a majority is told to give the order again.
func TestOrderToReplaceWithoutALeader(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1, RequestTimeout: time.Second})
	mustSet(t, c.stores[1], "key", "value")
	c.kill(2, 3)
	_, err := c.stores[1].ReplaceStore(3, 4, "127.0.0.1:1")
	if !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), "1 of 1 regions have not taken the order; give it again") {
		t.Error(err)
	}
}
