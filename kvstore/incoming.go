package kvstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/snapshot"
)

// A snapshot comes in three steps. Its data is written to a file, beside the
// streams (receiving); when that is complete, and is what it says, the MsgSnap goes
// to the worker like any message, with the file's path (deliver); and when Raft
// takes it, the file goes into the database in place of all that the region had,
// together with the region's new Raft state, in one atomic step (restore). A crash
// before that step leaves the region as it was, and the leader sends another.

// incoming is a snapshot whose message was given to Raft.
type incoming struct {
	at   position
	path string
}

// receiving is the file of a snapshot that is on its way.
type receiving struct {
	host    *Host
	message *raft_serverpb.RaftMessage
	path    string
	file    vfs.File
}

// snapshotSink is the snapshot.Sink of a store.
type snapshotSink struct{ host *Host }

// CreateSnapshot implements snapshot.Sink.
func (s snapshotSink) CreateSnapshot(_ context.Context, message *raft_serverpb.RaftMessage) (snapshot.Writer, error) {
	h := s.host
	region := message.GetRegionId()
	if !h.serving.Load() || region == 0 || region > uint64(h.options.Regions) || h.directory.isBuried(message.GetFromPeer().GetStoreId()) {
		return nil, fmt.Errorf("store %d, region %d: %w", h.options.StoreID, region, errForeign)
	}
	if h.isBuried(message) {
		return nil, fmt.Errorf("store %d, region %d, peer %d: %w", h.options.StoreID, region, message.GetToPeer().GetId(), errBuried)
	}
	path := h.files.fs.PathJoin(h.files.dir, fmt.Sprintf("receive-%d-%d.sst", region, h.sequence.Add(1)))
	file, err := h.files.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("kvstore: store %d, region %d: %w", h.options.StoreID, region, err)
	}
	return &receiving{host: h, message: message, path: path, file: file}, nil
}

// errBuried is why a snapshot is not taken any further.
var errBuried = errors.New("kvstore: the peer was taken out")

// isBuried says whether a message is to a peer that was destroyed. The snapshot
// package's Receiver.Cancel would do for the region: it would end a transfer to a
// newer peer as well, whose first message is what destroys the older one.
func (h *Host) isBuried(message *raft_serverpb.RaftMessage) bool {
	return message.GetToPeer().GetId() <= h.views[message.GetRegionId()-1].buried.Load()
}

// Write implements snapshot.Writer.
func (r *receiving) Write(data []byte) (int, error) {
	if r.host.isBuried(r.message) {
		return 0, errBuried
	}
	n, err := r.file.Write(data)
	r.host.receivedBytes.Add(uint64(n))
	return n, err
}

// Commit implements snapshot.Writer.
func (r *receiving) Commit(context.Context) error {
	err := r.file.Sync()
	if err = errors.Join(err, r.file.Close()); err == nil {
		err = r.deliver()
	}
	if err != nil {
		r.host.files.remove(r.path)
		return fmt.Errorf("kvstore: store %d, region %d: %w", r.host.options.StoreID, r.message.GetRegionId(), err)
	}
	return nil
}

// Discard implements snapshot.Writer.
func (r *receiving) Discard() error {
	return errors.Join(r.file.Close(), r.host.files.fs.Remove(r.path))
}

// deliver gives the message, with the file, to the region's worker.
func (r *receiving) deliver() error {
	metadata := r.message.GetMessage().GetSnapshot().GetMetadata()
	if err := r.host.files.check(r.path, r.message.GetRegionId(), metadata.GetIndex()); err != nil {
		return err
	}
	return etcdraft.Deliver(&snapshotHandler{host: r.host, path: r.path}, r.message)
}

// snapshotHandler takes the one message of a snapshot.
type snapshotHandler struct {
	host *Host
	path string
}

func (s *snapshotHandler) Step(header etcdraft.Header, message *raftpb.Message) error {
	return s.host.take(header, message, s.path)
}

// restore puts a snapshot that Raft has taken in the place of the region. The
// two tables, that of the state machine and a small one with what is this store's
// own, become visible, and durable, as one, and all else of the region vanishes.
func (r *region) restore(f *snapshotFiles, snapshot *raftpb.Snapshot, hardState *raftpb.HardState) error {
	at := position{snapshot.GetMetadata().GetIndex(), snapshot.GetMetadata().GetTerm()}
	path := ""
	for _, in := range r.incoming {
		if in.at == at {
			path = in.path
		}
	}
	if path == "" {
		return fmt.Errorf("kvstore: region %d: Raft restores a snapshot at %d that never came", r.id, at.index)
	}
	if raft.IsEmptyHardState(hardState) {
		hardState = r.log.hardState
	}
	own := path + ".own"
	_, err := f.writeTable(own, func(set func(key, value []byte) error) error {
		return errors.Join(
			set(regionKey(r.id, partPeer), binary.BigEndian.AppendUint64(nil, r.group.Self.ID)),
			set(regionKey(r.id, partTruncated), encodePosition(at)),
			set(regionKey(r.id, partHardState), encodeHardState(hardState)))
	})
	if err == nil {
		span := pebble.KeyRange{Start: regionKey(r.id, partApplied), End: regionKey(r.id, partTombstone)}
		_, err = f.db.IngestAndExcise(context.Background(), []string{path, own}, nil, nil, span)
	}
	if err != nil {
		return fmt.Errorf("kvstore: region %d: restore the snapshot at %d: %w", r.id, at.index, err)
	}
	f.remove(own)
	return r.reload(f.db, at, hardState)
}

// reload reads what a restored snapshot changed.
func (r *region) reload(db *pebble.DB, at position, hardState *raftpb.HardState) error {
	r.log.restored(at, hardState)
	r.barrier = 0
	if r.outgoing != nil {
		// It may be being written, and an excision doesn't spare what Pebble's
		// snapshots see.
		r.outgoing.confVer = 0 // fits nothing
	}
	var err error
	if r.applied, r.dedup, err = loadState(db, r.id); err != nil {
		return err
	}
	value, err := getCopy(db, regionKey(r.id, partDescriptor))
	if err != nil {
		return err
	}
	d, err := decodeDescriptor(value)
	if err != nil {
		return fmt.Errorf("region %d: %w", r.id, err)
	}
	r.describe(d)
	r.view.applied.Store(r.applied)
	r.settleRestored()
	return nil
}

// settleRestored answers the writes that are in the snapshot's window; below it
// is none that anybody waits for. Those of a DEL
// can't be told whether the key was there; they wait until their time is over.
func (r *region) settleRestored() {
	row := r.dedup[r.store]
	if row == nil || row.incarnation != r.writes.incarnation {
		return
	}
	for _, write := range r.writes.pending {
		if write.op == opSet && row.applied(write.sequence) {
			write.finish(answer{})
		}
	}
	r.writes.settle()
}

// dropIncoming removes the files that came and that Raft has dealt with.
func (r *region) dropIncoming(f *snapshotFiles) {
	for _, in := range r.incoming {
		f.remove(in.path)
	}
	r.incoming = nil
}
