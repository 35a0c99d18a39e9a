package kvstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
)

var (
	errBusy     = fmt.Errorf("%w too many requests are waiting, nothing was written", ErrTryAgain)
	errStarting = fmt.Errorf("%w the store waits for the others to start, nothing was written", ErrTryAgain)
	errClosed   = fmt.Errorf("%w the store is shutting down, the outcome of a write is unknown", ErrTryAgain)
	errForeign  = errors.New("kvstore: not a message between peers of a region on this store")
	errFull     = errors.New("kvstore: the worker's inbox is full")
	errTooLarge = errors.New("kvstore: key and value are larger than Options.MaxValueSize")
)

// Host is a store without its network: the regions on their Pebble, and the
// workers that drive them. It is the etcdraft.Handler of the store's
// raftmux.Server and the raftmux.Router of its Client.
type Host struct {
	options   Options
	stores    []uint64 // those of Options.Peers, in order
	db        *pebble.DB
	directory *directory
	// affiliation is the cluster that the store is of.
	affiliation *affiliation
	awaited     awaited
	files       *snapshotFiles
	prechecks   *prechecks
	views       []view // by region id - 1

	// serving says that the workers run. Until then nothing below may be read.
	serving     atomic.Bool
	incarnation uint64
	workers     []*worker

	// cancelSending ends the snapshots of a region that are being sent. It is set
	// before start, and doesn't wait.
	cancelSending func(region uint64)

	sequence      atomic.Uint64 // numbers changes and files
	restored      atomic.Uint64 // snapshots
	receivedBytes atomic.Uint64 // of snapshots

	cancel  context.CancelFunc
	running sync.WaitGroup
	failed  chan error
}

var (
	_ etcdraft.Handler = (*Host)(nil)
	_ raftmux.Router   = (*Host)(nil)
)

// openHost opens or makes the folder. Nothing is served before load and start.
func openHost(options Options) (*Host, error) {
	h := &Host{
		options: options,
		stores:  options.storeIDs(),
		views:   make([]view, options.Regions),
		failed:  make(chan error, 1),
		cancel:  func() {},

		cancelSending: func(uint64) {},

		affiliation: newAffiliation(options.StoreID, options.Logger),
	}
	var err error
	if h.db, err = openPebble(options, false); err != nil {
		return nil, err
	}
	if h.directory, err = loadDirectory(h.db, options.StoreID, options.Peers); err == nil {
		h.prechecks = newPrechecks(h.directory)
		h.files, err = openSnapshotFiles(options, h.db)
	}
	if err != nil {
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
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			logger := pebbleLogger{options.Logger}
			if errors.Is(err, syscall.ENOSPC) {
				logger.Fatalf("the disk is full: %v", err) // or Pebble tries again at once, for ever
			}
			logger.Errorf("background error: %v", err)
		}},
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, syscall.EAGAIN): // of the lock on the folder
		return nil, fmt.Errorf("kvstore: open %s: the folder is in use by another process, which has to stop first: %w", options.Dir, err)
	case strings.Contains(err.Error(), "lock"):
		return nil, fmt.Errorf("kvstore: open %s: is another store of this process using it? %w", options.Dir, err)
	}
	return nil, fmt.Errorf("kvstore: open %s: %w", options.Dir, err)
}

// identity is what the folder has to be made for.
func (h *Host) identity() identity {
	return identity{
		Format:  identityFormat,
		StoreID: h.options.StoreID,
		Joined:  h.options.Join,
		Stores:  h.stores,
		Regions: h.options.Regions,
		Cluster: h.affiliation.id(),
	}
}

// affiliate finds out which cluster the store is of, and whether its folder is
// new. One that joins doesn't know yet then.
func (h *Host) affiliate() (isNew bool, err error) {
	have, err := readIdentity(h.db)
	switch {
	case err != nil:
		return false, err
	case have != nil:
		h.affiliation.settle(have.Cluster)
	case !h.options.Join:
		h.affiliation.settle(newClusterID(h.stores, h.options.Regions))
	}
	return have == nil, nil
}

// load claims the folder, and loads the regions that this store has.
func (h *Host) load() error {
	var err error
	if h.incarnation, err = claim(h.db, h.identity(), h.options.Peers); err != nil {
		return err
	}
	for range h.options.Workers {
		h.workers = append(h.workers, newWorker(h))
	}
	for id := uint64(1); id <= uint64(h.options.Regions); id++ {
		if err := h.loadRegion(id); err != nil {
			return fmt.Errorf("kvstore: store %d, region %d: %w", h.options.StoreID, id, err)
		}
	}
	return nil
}

func (h *Host) loadRegion(id uint64) error {
	w := h.workerOf(id)
	tombstone, err := getNumber(h.db, regionKey(id, partTombstone))
	if err != nil {
		return err
	}
	w.tombstones[id] = tombstone
	h.views[id-1].buried.Store(tombstone)
	peer, err := getNumber(h.db, regionKey(id, partPeer))
	if err != nil || peer <= tombstone {
		return err // there is none, or it was destroyed the moment it was made
	}
	r, err := openRegion(h, id, peer)
	if err != nil {
		return err
	}
	for _, peer := range r.descriptor.Peers {
		h.directory.know(peer.StoreID, peer.Address)
	}
	h.directory.describe(id, &Descriptor{}, r.descriptor)
	for store := range r.dedup {
		h.directory.wrote(store)
	}
	w.regions[id] = r
	return nil
}

// getNumber reads a number, 0 if there is none.
func getNumber(db *pebble.DB, key []byte) (uint64, error) {
	value, err := getCopy(db, key)
	if err != nil || value == nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("malformed number at key %x", key)
	}
	return binary.BigEndian.Uint64(value), nil
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
	h.serving.Store(true)
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
	h.prechecks.close()
}

// close closes the Pebble, after stop.
func (h *Host) close() error {
	h.prechecks.close()
	h.files.close()
	if !h.serving.Load() {
		for _, w := range h.workers {
			_ = w.applier.batch.Close()
		}
	}
	return h.db.Close()
}

func (h *Host) workerOf(region uint64) *worker {
	return h.workers[region%uint64(len(h.workers))]
}

// Step implements etcdraft.Handler. It never waits: what the worker has no room
// for is refused.
func (h *Host) Step(header etcdraft.Header, message *raftpb.Message) error {
	return h.take(header, message, "")
}

// take hands a message to its worker, which knows whether the two peers are what
// the message says. The data of a MsgSnap is in the file, which is the worker's
// unless take fails.
func (h *Host) take(header etcdraft.Header, message *raftpb.Message, file string) error {
	region := header.RegionID
	if !h.isForUs(header) || (message.GetType() == raftpb.MsgSnap) != (file != "") {
		return errForeign
	}
	it := item{kind: itemMessage, region: region, header: header, message: message, file: file}
	if !h.workerOf(region).inbox.push(it) {
		return errFull
	}
	return nil
}

// isForUs says whether a message can be from another store, and is to a region of this
// one.
func (h *Host) isForUs(header etcdraft.Header) bool {
	from, region := header.From.StoreID, header.RegionID
	return h.serving.Load() && region > 0 && region <= uint64(h.options.Regions) &&
		header.To.StoreID == h.options.StoreID &&
		from > 0 && from < maxStoreID && from != h.options.StoreID
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
	if !h.serving.Load() || region == 0 || region > uint64(h.options.Regions) {
		return true // not ours; asking again would not help
	}
	return h.workerOf(region).inbox.push(it) || h.workerOf(region).inbox.isClosed()
}

// StoreUnreachable implements raftmux.Router. A worker that was told already is
// told again if another one has no room yet, which does no harm.
func (h *Host) StoreUnreachable(storeID uint64) bool {
	h.directory.setUp(storeID, false)
	if !h.serving.Load() {
		return true
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
	h.directory.setUp(storeID, true)
	return true
}

// submit hands a request about a key to its worker. Its answer comes by the deadline.
//
// A write that is too large is refused: its entry would be in the leader's log, fit in
// no message, and with it nothing of the region would be committed any more.
func (h *Host) submit(op operation, key, value []byte) *request {
	r := &request{op: op, region: RegionOf(key, h.options.Regions), key: key, value: value}
	if op != 0 && len(key)+len(value) > h.options.MaxValueSize {
		r.done = make(chan answer, 1)
		r.finish(answer{err: errTooLarge})
		return r
	}
	return h.dispatch(r)
}

// newChange returns a request for a membership change.
func (h *Host) newChange(region uint64, c peerChange) *request {
	c.body.By = [3]uint64{h.options.StoreID, h.incarnation, h.sequence.Add(1)}
	return &request{op: opChange, region: region, change: c, done: make(chan answer, 1)}
}

// dispatch hands a request to its worker.
func (h *Host) dispatch(r *request) *request {
	r.deadline = time.Now().Add(h.options.RequestTimeout)
	if r.done == nil {
		r.done = make(chan answer, 1)
	}
	if !h.serving.Load() {
		r.finish(answer{err: errStarting})
		return r
	}
	kind := itemWrite
	switch r.op {
	case 0:
		kind = itemRead
	case opChange:
		kind = itemChange
	}
	if !h.workerOf(r.region).inbox.push(item{kind: kind, region: r.region, request: r}) {
		r.finish(answer{err: errBusy})
	}
	return r
}
