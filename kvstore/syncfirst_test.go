package kvstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// slowDisk makes every sync of a store wait while its gate is closed.
type slowDisk struct {
	gate    atomic.Pointer[chan struct{}] // nil while open
	waiting atomic.Int64
}

func (d *slowDisk) close() {
	gate := make(chan struct{})
	d.gate.Store(&gate)
}

func (d *slowDisk) open() {
	if gate := d.gate.Swap(nil); gate != nil {
		close(*gate)
	}
}

// MaybeError implements errorfs.Injector; it only ever waits.
func (d *slowDisk) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		if gate := d.gate.Load(); gate != nil {
			d.waiting.Add(1)
			<-*gate
		}
	}
	return nil
}

// String implements errorfs.Injector.
func (d *slowDisk) String() string { return "slow disk" }

// A write that a majority has not synced is not acknowledged, however many have
// received it: nobody says that it has an entry before the entry is on its disk.
func TestNothingIsAcknowledgedBeforeAMajoritySynced(t *testing.T) {
	disks := map[uint64]*slowDisk{1: {}, 2: {}, 3: {}}
	c := newClusterOn(t, 3, Options{Regions: 1, RequestTimeout: 30 * time.Second}, func(id uint64, fs vfs.FS) vfs.FS {
		return errorfs.Wrap(fs, disks[id])
	})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	mustSet(t, c.stores[1], "key", "before")
	c.waitConverged()

	leader := c.stores[1].host.stores[1] // region 1's home
	for id, disk := range disks {
		if id != leader {
			disk.close()
			defer disk.open() // or the stores can't be closed
		}
	}
	acknowledged := make(chan error, 1)
	go func() { acknowledged <- c.stores[leader].Set([]byte("key"), []byte("after")) }()
	eventually(t, 20*time.Second, "both followers sync", func() bool {
		for id, disk := range disks {
			if id != leader && disk.waiting.Load() == 0 {
				return false
			}
		}
		return true
	})
	select {
	case err := <-acknowledged:
		t.Fatalf("acknowledged (%v) though no follower has synced", err)
	case <-time.After(300 * time.Millisecond): // what must not happen needs some time not to
	}
	for _, disk := range disks {
		disk.open()
	}
	select {
	case err := <-acknowledged:
		if err != nil {
			t.Errorf("with the disks back: %v", err)
		}
	case <-time.After(40 * time.Second):
		t.Error("no answer with the disks back")
	}
}
