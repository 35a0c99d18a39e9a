package kvstore

import (
	"context"
	"testing"
	"time"
)

// leadersHome says whether every region is led by its home store, by every store's account.
func (c *cluster) leadersHome() bool {
	for _, store := range c.stores {
		for index := range c.options.Regions {
			home := store.host.stores[uint64(index+1)%uint64(len(store.host.stores))]
			if store.host.views[index].leader.Load() != home {
				return false
			}
		}
	}
	return true
}

func TestLeadersSpreadAndComeHome(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 30})
	eventually(t, 10*time.Second, "each region is led by its home", c.leadersHome)
	c.kill(3)
	eventually(t, 20*time.Second, "the others take over", func() bool {
		for index := range c.options.Regions {
			if leader := c.stores[1].host.views[index].leader.Load(); leader == 0 || leader == 3 {
				return false
			}
		}
		return true
	})
	c.start(3)
	eventually(t, 30*time.Second, "leaders come home", c.leadersHome)
	c.checkEqual()
}

// A store that is about to stop gives the lead away, and no election is needed.
func TestHandOver(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 12})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	mustSet(t, c.stores[1], "key", "value")
	c.waitConverged()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c.stores[1].HandOver(ctx)
	if ctx.Err() != nil || c.stores[1].leads() {
		t.Error("the store still leads")
	}
	c.stop(1)
	mustSet(t, c.stores[2], "key", "after")
	c.start(1)
	c.checkEqual()
}
