package report

import (
	"fmt"
	"sync"
)

// calling is a Host that notes which of its calls is under way, for whoever waits for
// its end in vain.
type calling struct {
	host Host

	mu  sync.Mutex
	now string // the call's name, "" if there is none
	ids [2]uint64
}

func (c *calling) begin(name string, ids ...uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.ids = name, [2]uint64{}
	copy(c.ids[:], ids)
}

func (c *calling) end() { c.begin("") }

// String returns the call, "" if there is none.
func (c *calling) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.now == "":
		return ""
	case c.ids[1] == 0:
		return fmt.Sprintf("%s(%d)", c.now, c.ids[0])
	}
	return fmt.Sprintf("%s(%d, %d)", c.now, c.ids[0], c.ids[1])
}

// ReportUnreachable implements Host.
func (c *calling) ReportUnreachable(regionID, peerID uint64) bool {
	c.begin("ReportUnreachable", regionID, peerID)
	defer c.end()
	return c.host.ReportUnreachable(regionID, peerID)
}

// ReportSnapshotStatus implements Host.
func (c *calling) ReportSnapshotStatus(regionID, peerID uint64, status SnapshotStatus) bool {
	c.begin("ReportSnapshotStatus", regionID, peerID)
	defer c.end()
	return c.host.ReportSnapshotStatus(regionID, peerID, status)
}

// StoreUnreachable implements Host.
func (c *calling) StoreUnreachable(storeID uint64) bool {
	c.begin("StoreUnreachable", storeID)
	defer c.end()
	return c.host.StoreUnreachable(storeID)
}

// StoreUp implements Host.
func (c *calling) StoreUp(storeID uint64) bool {
	c.begin("StoreUp", storeID)
	defer c.end()
	return c.host.StoreUp(storeID)
}
