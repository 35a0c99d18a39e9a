package kvstore

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's, about stores that are dead on purpose
	goleak.VerifyTestMain(m)
}

// cluster is some stores in this process, on file systems that forget what was
// not synced when they crash.
type cluster struct {
	t       testing.TB
	options Options
	peers   map[uint64]string            // the Raft addresses of all stores
	given   map[uint64]map[uint64]string // Options.Peers of each
	clients map[uint64]string
	fs      map[uint64]*vfs.MemFS
	stores  map[uint64]*Store
	joined  map[uint64]bool
	wrapFS  func(id uint64, fs vfs.FS) vfs.FS // what a store gets in place of its disk
}

// newCluster starts n stores. What options leaves open is set to suit tests.
func newCluster(t testing.TB, n int, options Options) *cluster {
	t.Helper()
	return newClusterOn(t, n, options, nil)
}

func newClusterOn(t testing.TB, n int, options Options, wrapFS func(uint64, vfs.FS) vfs.FS) *cluster {
	t.Helper()
	c := &cluster{
		t: t, options: options, wrapFS: wrapFS,
		peers: map[uint64]string{}, given: map[uint64]map[uint64]string{}, clients: map[uint64]string{},
		fs: map[uint64]*vfs.MemFS{}, stores: map[uint64]*Store{}, joined: map[uint64]bool{},
	}
	raft, clients := map[uint64]net.Listener{}, map[uint64]net.Listener{}
	for id := uint64(1); id <= uint64(n); id++ {
		raft[id], clients[id] = listenLocal(t, "127.0.0.1:0"), listenLocal(t, "127.0.0.1:0")
		c.peers[id], c.clients[id] = raft[id].Addr().String(), clients[id].Addr().String()
		c.fs[id] = vfs.NewCrashableMem()
	}
	t.Cleanup(c.close)
	for id := range raft {
		c.given[id] = maps.Clone(c.peers)
		c.open(id, raft[id], clients[id])
	}
	return c
}

// join starts a new store, which is in no region yet.
func (c *cluster) join(id uint64) *Store {
	c.t.Helper()
	raft, clients := listenLocal(c.t, "127.0.0.1:0"), listenLocal(c.t, "127.0.0.1:0")
	c.peers[id], c.clients[id] = raft.Addr().String(), clients.Addr().String()
	c.fs[id] = vfs.NewCrashableMem()
	c.given[id] = map[uint64]string{id: c.peers[id]}
	for other := range c.stores {
		c.given[id][other] = c.peers[other]
	}
	c.joined[id] = true
	c.open(id, raft, clients)
	return c.stores[id]
}

// lose kills a store and takes its disk away, for good.
func (c *cluster) lose(id uint64) {
	c.t.Helper()
	c.kill(id)
	delete(c.fs, id)
}

func listenLocal(t testing.TB, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	eventually(t, 5*time.Second, "listen on "+address, func() bool {
		var err error
		listener, err = net.Listen("tcp", address)
		return err == nil
	})
	return listener
}

func (c *cluster) open(id uint64, raft, clients net.Listener) {
	c.t.Helper()
	options := c.options
	options.StoreID, options.Dir, options.Peers, options.Join = id, "data", c.given[id], c.joined[id]
	options.FS, options.RaftListener, options.ClientListener = c.fs[id], raft, clients
	if c.wrapFS != nil {
		options.FS = c.wrapFS(id, c.fs[id])
	}
	store, err := Open(options)
	if err != nil {
		c.t.Fatalf("open store %d: %v", id, err)
	}
	c.stores[id] = store
}

// start brings a store back at its old addresses.
func (c *cluster) start(id uint64) {
	c.t.Helper()
	c.open(id, listenLocal(c.t, c.peers[id]), listenLocal(c.t, c.clients[id]))
}

// stop closes a store as SIGTERM would.
func (c *cluster) stop(id uint64) {
	c.t.Helper()
	if err := c.stores[id].Close(context.Background()); err != nil {
		c.t.Errorf("close store %d: %v", id, err)
	}
	delete(c.stores, id)
}

// kill takes stores away together with all that they had not synced: their
// workers stop, and then the disks are cloned before Pebble can say goodbye.
func (c *cluster) kill(ids ...uint64) {
	c.t.Helper()
	for _, id := range ids {
		c.stores[id].host.cancel()
	}
	for _, id := range ids {
		c.stores[id].host.stop()
		crashed := c.fs[id].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
		c.stop(id)
		c.fs[id] = crashed
	}
}

// killAll takes all stores away at once.
func (c *cluster) killAll() { c.kill(slices.Collect(maps.Keys(c.stores))...) }

func (c *cluster) close() {
	for id := range c.stores {
		c.stop(id)
	}
}

// waitConverged waits until all stores have applied the same.
func (c *cluster) waitConverged() {
	c.t.Helper()
	eventually(c.t, 30*time.Second, "all stores have applied the same", func() bool {
		for index := range c.options.Regions {
			var applied uint64
			for _, store := range c.stores {
				view := &store.host.views[index]
				if view.leader.Load() == 0 || (applied != 0 && view.applied.Load() != applied) {
					return false
				}
				applied = view.applied.Load()
			}
		}
		return true
	})
}

// checkEqual stops all stores and compares their replicas. One more entry, a new
// leader's first, may be applied by some of them while they stop; then it lets
// them go on, and compares again.
func (c *cluster) checkEqual() {
	c.t.Helper()
	for try := 1; ; try++ {
		c.waitConverged()
		c.close()
		different := c.differences()
		if len(different) == 0 {
			return
		}
		if try == 5 {
			c.t.Errorf("the replicas differ: %v", different)
			return
		}
		for id := range c.fs {
			c.start(id)
		}
	}
}

// differences compares the replicas of stopped stores.
func (c *cluster) differences() (different []string) {
	c.t.Helper()
	digests := map[uint64]uint64{}
	for id, fs := range c.fs {
		replicas, err := Inspect(Options{Dir: "data", FS: fs})
		if err != nil {
			c.t.Fatal(err)
		}
		for region := uint64(1); region <= uint64(replicas.Regions()); region++ {
			digest, err := replicas.Digest(region)
			if err != nil {
				c.t.Fatal(err)
			}
			if known, ok := digests[region]; ok && known != digest {
				different = append(different, fmt.Sprintf("region %d on store %d", region, id))
			}
			digests[region] = digest
		}
		if err := replicas.Close(); err != nil {
			c.t.Fatal(err)
		}
	}
	return different
}

// eventually polls until the condition holds.
func eventually(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// mustSet writes until it is acknowledged.
func mustSet(t testing.TB, store *Store, key, value string) {
	t.Helper()
	var err error
	eventually(t, 30*time.Second, fmt.Sprintf("set %s", key), func() bool {
		err = store.Set([]byte(key), []byte(value))
		return err == nil
	})
}

func mustGet(t testing.TB, store *Store, key string) (value []byte) {
	t.Helper()
	eventually(t, 30*time.Second, "get "+key, func() bool {
		var err error
		value, err = store.Get([]byte(key))
		return err == nil
	})
	return value
}
