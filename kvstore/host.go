package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
)

var (
	errBusy    = fmt.Errorf("%w too many requests are waiting, nothing was written", ErrTryAgain)
	errClosed  = fmt.Errorf("%w the store is shutting down, the outcome of a write is unknown", ErrTryAgain)
	errForeign = errors.New("kvstore: not a message between peers of a region on this store")
	errFull    = errors.New("kvstore: the worker's inbox is full")
)

// Host is a store without its network: the regions on their Pebble, and the
// workers that drive them. It is the etcdraft.Handler of the store's
// raftmux.Server and the raftmux.Router of its Client.
type Host struct {
	options     Options
	stores      []uint64 // all, in order
	incarnation uint64
	db          *pebble.DB
	views       []view // by region id - 1
	// upSince is when each other store came up, in Unix ns, 0 while it is not.
	upSince map[uint64]*atomic.Int64
	workers []*worker

	cancel  context.CancelFunc
	running sync.WaitGroup
	failed  chan error
}

var (
	_ etcdraft.Handler = (*Host)(nil)
	_ raftmux.Router   = (*Host)(nil)
)

// openHost opens or makes the folder and loads the regions. Messages may come
// from then on; they wait for start.
func openHost(options Options) (*Host, error) {
	h := &Host{
		options: options,
		stores:  options.storeIDs(),
		views:   make([]view, options.Regions),
		failed:  make(chan error, 1),
		cancel:  func() {},
		upSince: map[uint64]*atomic.Int64{},
	}
	for _, store := range h.stores {
		h.upSince[store] = new(atomic.Int64)
	}
	var err error
	if h.db, err = openPebble(options, false); err != nil {
		return nil, err
	}
	if err := h.load(); err != nil {
		for _, w := range h.workers {
			_ = w.applier.batch.Close()
		}
		return nil, errors.Join(err, h.db.Close())
	}
	return h, nil
}

func openPebble(options Options, readOnly bool) (*pebble.DB, error) {
	db, err := pebble.Open(options.Dir, &pebble.Options{
		FS:                 options.FS,
		ReadOnly:           readOnly,
		ErrorIfNotExists:   readOnly,
		Logger:             pebbleLogger{options.Logger},
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       16 << 20,
	})
	if err != nil && strings.Contains(err.Error(), "lock") {
		return nil, fmt.Errorf("kvstore: open %s: is another store using it? %w", options.Dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("kvstore: open %s: %w", options.Dir, err)
	}
	return db, nil
}

func (h *Host) load() error {
	var err error
	h.incarnation, err = claim(h.db, identity{
		Format:  identityFormat,
		StoreID: h.options.StoreID,
		Stores:  h.stores,
		Regions: h.options.Regions,
	})
	if err != nil {
		return err
	}
	for range h.options.Workers {
		h.workers = append(h.workers, newWorker(h))
	}
	for id := uint64(1); id <= uint64(h.options.Regions); id++ {
		r, err := openRegion(h, id)
		if err != nil {
			return fmt.Errorf("kvstore: region %d: %w", id, err)
		}
		h.workerOf(id).regions[id] = r
	}
	return nil
}

// start sets the workers to work, each with a transport of its own.
func (h *Host) start(newTransport func() transport) {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	for _, w := range h.workers {
		w.sender = newTransport()
		h.running.Go(func() {
			if err := w.run(ctx); err != nil {
				cancel() // what one worker can't save, no other should acknowledge
				h.fail(err)
			}
		})
	}
}

// fail tells whoever listens that the store can't go on.
func (h *Host) fail(err error) {
	select {
	case h.failed <- err:
	default: // the first reason is the one that matters
	}
}

// stop ends the workers. When it returns, every request has its answer.
func (h *Host) stop() {
	h.cancel()
	h.running.Wait()
}

// close closes the Pebble, after stop.
func (h *Host) close() error { return h.db.Close() }

func (h *Host) workerOf(region uint64) *worker {
	return h.workers[region%uint64(len(h.workers))]
}

// Step implements etcdraft.Handler. It never waits: what the worker has no room
// for is refused.
func (h *Host) Step(header etcdraft.Header, message *raftpb.Message) error {
	region := header.RegionID
	if region == 0 || region > uint64(h.options.Regions) ||
		header.To != (etcdraft.Peer{ID: PeerID(region, h.options.StoreID), StoreID: h.options.StoreID}) ||
		header.From.ID != PeerID(region, header.From.StoreID) || h.options.Peers[header.From.StoreID] == "" {
		return errForeign
	}
	if !h.workerOf(region).inbox.push(item{kind: itemMessage, region: region, message: message}) {
		return errFull
	}
	return nil
}

// ReportUnreachable implements raftmux.Router.
func (h *Host) ReportUnreachable(regionID, peerID uint64) bool {
	return h.report(regionID, item{kind: itemUnreachable, region: regionID, id: peerID})
}

// ReportSnapshotStatus implements raftmux.Router.
func (h *Host) ReportSnapshotStatus(regionID, peerID uint64, status raftmux.SnapshotStatus) bool {
	kind := itemSnapshotFailed
	if status == raftmux.SnapshotFinish {
		kind = itemSnapshotFinished
	}
	return h.report(regionID, item{kind: kind, region: regionID, id: peerID})
}

func (h *Host) report(region uint64, it item) bool {
	if region == 0 || region > uint64(h.options.Regions) {
		return true // not ours; asking again would not help
	}
	return h.workerOf(region).inbox.push(it) || h.workerOf(region).inbox.isClosed()
}

// StoreUnreachable implements raftmux.Router. A worker that was told already is
// told again if another one has no room yet, which does no harm.
func (h *Host) StoreUnreachable(storeID uint64) bool {
	if since := h.upSince[storeID]; since != nil {
		since.Store(0)
	}
	all := true
	for _, w := range h.workers {
		all = (w.inbox.push(item{kind: itemStoreUnreachable, id: storeID}) || w.inbox.isClosed()) && all
	}
	return all
}

// StoreUp implements raftmux.Router. Raft's own probes find the peers soon
// enough; this is for who leads.
func (h *Host) StoreUp(storeID uint64) bool {
	if since := h.upSince[storeID]; since != nil {
		since.Store(time.Now().UnixNano())
	}
	return true
}

// upFor returns for how long another store has been in reach.
func (h *Host) upFor(storeID uint64) time.Duration {
	since := h.upSince[storeID].Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}

// submit hands a request to its worker. Its answer comes by the deadline.
func (h *Host) submit(op operation, key, value []byte) *request {
	r := &request{
		op:       op,
		region:   RegionOf(key, h.options.Regions),
		key:      key,
		value:    value,
		deadline: time.Now().Add(h.options.RequestTimeout),
		done:     make(chan answer, 1),
	}
	kind := itemWrite
	if op == 0 {
		kind = itemRead
	}
	if !h.workerOf(r.region).inbox.push(item{kind: kind, region: r.region, request: r}) {
		r.finish(answer{err: errBusy})
	}
	return r
}
