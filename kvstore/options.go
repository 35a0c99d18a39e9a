package kvstore

import (
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux/snapshot"
)

// Defaults of Options.
const (
	DefaultRegions        = 300
	DefaultRequestTimeout = 5 * time.Second
	DefaultMaxValueSize   = 8 << 20
	DefaultMaxLogEntries  = 4096
	DefaultMaxLogBytes    = 16 << 20
)

// The most that Options.Regions and Options.Workers may be. The log of each region takes
// part in every tick.
const (
	MaxRegions = 1 << 20
	MaxWorkers = 256
)

// maxMaxValueSize leaves a write room in a message and in a command.
const maxMaxValueSize = 32 << 20

// Options configures a Store. StoreID, Dir and Peers are mandatory; every other
// field has a default, which its zero value stands for.
type Options struct {
	// StoreID is the own id, from 1 to 999.
	StoreID uint64
	// Dir is the store's folder. It is made if it is missing, and belongs to this
	// store id, these peers, this number of regions and their cluster ever after.
	Dir string
	// Peers are the Raft addresses of stores, the own one too, by store id. The
	// stores that begin a cluster all name the same, and each region has a replica
	// on each of them. One that joins names itself and those that run, as many as
	// there are, and hears of others from them. It begins when all of these have
	// answered, but for those that ReplaceStore was told of.
	Peers map[uint64]string
	// Join says that the store, if its folder is new, comes to a cluster that there
	// is. It has no replica of anything until a membership change gives it one.
	Join bool
	// Addr is where the store listens for the others, and ClientAddr for clients.
	// The default of Addr is the own address in Peers, that of ClientAddr is a
	// free port on 127.0.0.1.
	Addr, ClientAddr string
	// RaftListener and ClientListener are used in place of the addresses. The
	// Store closes them.
	RaftListener, ClientListener net.Listener
	// Regions is the number of regions of the cluster. Default 300.
	Regions int
	// Workers is the number of goroutines that drive the regions. Default one per
	// core, at most 4.
	Workers int
	// ConnectionsPerStore is the number of TCP connections to each other store.
	// Default raftmux's.
	ConnectionsPerStore int
	// RequestTimeout bounds a write or a read. Default 5 s.
	RequestTimeout time.Duration
	// MaxValueSize bounds a key and its value together. Default 8 MiB, at most 32 MiB.
	MaxValueSize int
	// MaxLogEntries and MaxLogBytes bound the log that a region keeps of what it
	// has applied. Above either, it gives up the older half, or more if it must; a
	// peer that still needs what is gone gets a snapshot. The leader waits for
	// peers that are alive and on their way, up to twice the limits. Bytes are
	// counted from the store's start. Default 4096 and 16 MiB.
	MaxLogEntries, MaxLogBytes int
	// SnapshotRate bounds the bytes per second of all snapshots that the store
	// sends, so that they leave others room; negative for no bound. Default
	// 100 MiB/s, TiKV's.
	SnapshotRate int64
	// FS is where Dir is. Default the disk.
	FS vfs.FS
	// Registerer takes the metrics of raftmux: of what the store sends and receives,
	// and of snapshots. They don't name the store, so no two share one. Close takes
	// them out again. Default none.
	Registerer prometheus.Registerer
	// Logger takes the log. Default none.
	Logger *slog.Logger

	// wrapTransport lets tests meddle with what the workers send.
	wrapTransport func(transport) transport
	// wrapPrecheck lets them meddle with the questions for room, and snapshotPlaces is
	// how many snapshots a store takes at a time.
	wrapPrecheck   func(precheck) precheck
	snapshotPlaces int
	// sayAwaited is how often a store says for whom it waits.
	sayAwaited time.Duration
	// forgetAfter is after what time a store without peers is forgotten.
	forgetAfter time.Duration
	// unsafeNoSync is for the test that proves that the other tests can fail.
	unsafeNoSync bool
}

func (o Options) withDefaults() Options {
	if o.Regions == 0 {
		o.Regions = DefaultRegions
	}
	if o.Workers == 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 4, max(o.Regions, 1))
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = DefaultRequestTimeout
	}
	if o.MaxValueSize == 0 {
		o.MaxValueSize = DefaultMaxValueSize
	}
	if o.MaxLogEntries == 0 {
		o.MaxLogEntries = DefaultMaxLogEntries
	}
	if o.MaxLogBytes == 0 {
		o.MaxLogBytes = DefaultMaxLogBytes
	}
	if o.SnapshotRate == 0 {
		o.SnapshotRate = snapshot.DefaultRate
	}
	if o.sayAwaited == 0 {
		o.sayAwaited = sayAwaited
	}
	if o.forgetAfter == 0 {
		o.forgetAfter = forgetAfter
	}
	if o.Addr == "" {
		o.Addr = o.Peers[o.StoreID]
	}
	if o.ClientAddr == "" {
		o.ClientAddr = "127.0.0.1:0"
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// AddressError says that a store can't do with an address.
type AddressError struct {
	// Option is the name of the one that the address was to be for.
	Option string
	// Address is what is in it, or the default.
	Address string
	// Err says what is wrong.
	Err error
}

// Error implements error.
func (e *AddressError) Error() string { return fmt.Sprintf("kvstore: option %s: %v", e.Option, e.Err) }

// Unwrap returns what is wrong.
func (e *AddressError) Unwrap() error { return e.Err }

// validate checks options whose defaults are filled in.
func (o Options) validate() error {
	switch {
	case o.StoreID == 0 || o.StoreID >= maxStoreID:
		return fmt.Errorf("kvstore: option StoreID is %d, must be from 1 to %d", o.StoreID, maxStoreID-1)
	case o.Dir == "":
		return fmt.Errorf("kvstore: option Dir is mandatory")
	case len(o.Peers) == 0:
		return fmt.Errorf("kvstore: option Peers is mandatory, and includes the own store")
	case o.Regions < 1 || o.Regions > MaxRegions:
		return fmt.Errorf("kvstore: option Regions is %d, must be from 1 to %d", o.Regions, MaxRegions)
	case o.Workers < 1 || o.Workers > MaxWorkers:
		return fmt.Errorf("kvstore: option Workers is %d, must be from 1 to %d", o.Workers, MaxWorkers)
	case o.RequestTimeout < 0:
		return fmt.Errorf("kvstore: option RequestTimeout is %v, must be positive", o.RequestTimeout)
	case o.MaxValueSize < 1 || o.MaxValueSize > maxMaxValueSize:
		return fmt.Errorf("kvstore: option MaxValueSize is %d, must be from 1 to %d", o.MaxValueSize, maxMaxValueSize)
	case o.MaxLogEntries < 2 || o.MaxLogBytes < 1:
		return fmt.Errorf("kvstore: options MaxLogEntries and MaxLogBytes are %d and %d, must be at least 2 and 1", o.MaxLogEntries, o.MaxLogBytes)
	case o.Join && len(o.Peers) < 2:
		return fmt.Errorf("kvstore: option Peers must name a store of the cluster to join")
	}
	if _, ok := o.Peers[o.StoreID]; !ok {
		return fmt.Errorf("kvstore: option Peers lacks the own store %d; it has %v", o.StoreID, o.storeIDs())
	}
	for id, address := range o.Peers {
		if id == 0 || id >= maxStoreID {
			return fmt.Errorf("kvstore: option Peers has store %d, must be from 1 to %d", id, maxStoreID-1)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return &AddressError{"Peers", address, fmt.Errorf("store %d: %w", id, err)}
		}
	}
	return nil
}

// storeIDs returns the ids of all stores in order.
func (o Options) storeIDs() []uint64 {
	ids := make([]uint64, 0, len(o.Peers))
	for id := range o.Peers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
