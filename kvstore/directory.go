package kvstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/raftmux/raftmux"
)

// directory is what a store knows of the others: where they are, who has ever
// been heard of, and who is gone for good. It is the raftmux.Resolver of the
// store's Client. It is safe for concurrent use.
//
// Addresses come from Options.Peers, which win, and with membership changes;
// what is gone is said by the regions' descriptors. Addresses, and who was met,
// are on disk, written by whoever learns it in the batch that depends on it.
type directory struct {
	own uint64

	mu      sync.Mutex
	fixed   map[uint64]string // Options.Peers
	learned map[uint64]string
	heard   map[uint64]string // where a store answered since the start; what learned has may be out of date
	met     map[uint64]bool
	filled  map[uint64]bool // stores with a voter that began as a learner, and those that wrote
	retired map[uint64]bool
	told    map[uint64]bool // those of them that onRetired was called for
	upSince map[uint64]time.Time
	hosts   map[uint64]int // by store, how many regions of this one have a peer there
	// onRetired is called, without the lock, when a store is found to be gone.
	onRetired func(store uint64)
}

var _ raftmux.Resolver = (*directory)(nil)

// The names of the rows of a directory, each followed by a store's id.
const (
	rowAddress = "address/"
	rowMet     = "met/"
)

func directoryKey(row string, store uint64) []byte {
	return binary.BigEndian.AppendUint64(metaKey(row), store)
}

func loadDirectory(db *pebble.DB, own uint64, peers map[uint64]string) (*directory, error) {
	d := &directory{
		own: own, fixed: maps.Clone(peers), onRetired: func(uint64) {},
		learned: map[uint64]string{}, heard: map[uint64]string{}, met: map[uint64]bool{}, filled: map[uint64]bool{}, retired: map[uint64]bool{}, told: map[uint64]bool{}, upSince: map[uint64]time.Time{},
		hosts: map[uint64]int{},
	}
	for row, take := range map[string]func(store uint64, value []byte){
		rowAddress: func(store uint64, value []byte) { d.learned[store] = string(value) },
		rowMet:     func(store uint64, _ []byte) { d.met[store] = true },
	} {
		iterator, err := db.NewIter(&pebble.IterOptions{
			LowerBound: metaKey(row),
			UpperBound: directoryKey(row, 1<<63),
		})
		if err != nil {
			return nil, err
		}
		for valid := iterator.First(); valid; valid = iterator.Next() {
			if key := iterator.Key(); len(key) == 1+len(row)+8 {
				take(binary.BigEndian.Uint64(key[1+len(row):]), iterator.Value())
			}
		}
		if err := iterator.Close(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Resolve implements raftmux.Resolver.
func (d *directory) Resolve(_ context.Context, store uint64, _ string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.buried(store) {
		return "", fmt.Errorf("%w: store %d was replaced", raftmux.ErrTombstone, store)
	}
	if address := d.address(store); address != "" {
		return address, nil
	}
	return "", fmt.Errorf("%w: store %d is in no region and not in Options.Peers", raftmux.ErrStoreNotFound, store)
}

// addressOf returns where a store is, empty if that isn't known.
func (d *directory) addressOf(store uint64) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.address(store)
}

// finds says whether there is a store with that id that messages can be sent to.
func (d *directory) finds(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.buried(store) && d.address(store) != ""
}

// buried says whether a store is gone, and no region here needs it any more to get it out.
func (d *directory) buried(store uint64) bool { return d.retired[store] && d.hosts[store] == 0 }

func (d *directory) address(store uint64) string {
	if address := d.fixed[store]; address != "" {
		return address
	}
	if address := d.heard[store]; address != "" {
		return address
	}
	return d.learned[store]
}

// hear notes where a store has answered.
func (d *directory) hear(store uint64, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heard[store] = address
}

// know notes a store's address that is on disk, in a descriptor.
func (d *directory) know(store uint64, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned[store] = address
}

// learn notes a store's address, as part of the batch.
func (d *directory) learn(batch *pebble.Batch, store uint64, address string) error {
	d.mu.Lock()
	known := d.learned[store] == address
	if !known && d.learned[store] != "" {
		delete(d.heard, store) // it has moved since
	}
	d.learned[store] = address
	d.mu.Unlock()
	if known || address == "" {
		return nil
	}
	return batch.Set(directoryKey(rowAddress, store), []byte(address), nil)
}

// meet notes that a store was heard of, as part of the batch.
func (d *directory) meet(batch *pebble.Batch, store uint64) error {
	d.mu.Lock()
	d.met[store] = true
	d.mu.Unlock()
	return batch.Set(directoryKey(rowMet, store), nil, nil)
}

// describe notes what a region's descriptor says, in place of what an earlier one did.
func (d *directory) describe(region uint64, before, now *Descriptor) {
	d.retire(now.Retired)
	d.fill(region, now)
	d.move(before, now)
	d.bury()
}

// move notes where the peers of a region are now.
func (d *directory) move(before, now *Descriptor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, peer := range now.Peers {
		d.hosts[peer.StoreID]++
	}
	for _, peer := range before.Peers {
		if d.hosts[peer.StoreID]--; d.hosts[peer.StoreID] == 0 {
			delete(d.hosts, peer.StoreID)
		}
	}
}

// hasPeers says whether any region of this store has a peer on another one.
func (d *directory) hasPeers(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hosts[store] > 0
}

// retire notes which stores a descriptor says are gone for good.
func (d *directory) retire(stores []uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, store := range stores {
		// What others think of this store, they tell when it asks.
		if store != d.own {
			d.retired[store] = true
		}
	}
}

// bury has those forgotten that are gone and that no region has a peer on any more. Until
// then the old store, should it live, may be needed to take itself out, and regions that
// have not heard of the order need it like before.
func (d *directory) bury() {
	var news []uint64
	d.mu.Lock()
	for store := range d.retired {
		switch {
		case d.hosts[store] > 0:
			delete(d.told, store) // while the folder is read, regions come one by one
		case !d.told[store]:
			d.told[store] = true
			news = append(news, store)
		}
	}
	d.mu.Unlock()
	for _, store := range news {
		d.onRetired(store)
	}
}

// isBuried is buried for callers without the lock.
func (d *directory) isBuried(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.buried(store)
}

func (d *directory) isRetired(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.retired[store]
}

// fill notes the stores that must have been there, as a region's descriptor has it:
// a peer that was made a voter had caught up before. Of a founding one that isn't said.
func (d *directory) fill(region uint64, descriptor *Descriptor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, peer := range descriptor.Peers {
		if peer.Role == Voter && peer.ID > lastFoundingPeer(region) {
			d.filled[peer.StoreID] = true
		}
	}
}

// wrote notes that a store has written to a region, so it must have been there.
func (d *directory) wrote(store uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filled[store] = true
}

// hasMet says whether a store is known to have been there.
func (d *directory) hasMet(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met[store] || d.filled[store]
}

// knows says whether a store was ever heard of, if only its address.
func (d *directory) knows(store uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.address(store) != "" || d.met[store] || d.filled[store] || d.retired[store]
}

// others returns the ids of all other stores that have an address and are not gone.
func (d *directory) others() map[uint64]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	others := maps.Clone(d.learned)
	maps.Copy(others, d.heard)
	maps.Copy(others, d.fixed)
	maps.DeleteFunc(others, func(store uint64, _ string) bool { return store == d.own || d.retired[store] })
	return others
}

// retiredStores returns the ids of the stores that are gone, in order.
func (d *directory) retiredStores() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.retired))
}

// setUp notes that a store can be reached, or can't.
func (d *directory) setUp(store uint64, up bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !up {
		delete(d.upSince, store)
		return
	}
	d.upSince[store] = time.Now()
}

// upFor returns for how long another store has been in reach, 0 if it isn't.
func (d *directory) upFor(store uint64) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	since, up := d.upSince[store]
	if !up {
		return 0
	}
	return max(time.Since(since), 1)
}
