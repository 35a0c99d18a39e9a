package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// logCacheBytes bounds the recent entries that a region keeps in memory.
const logCacheBytes = 64 << 10

// logStore is the raft.Storage of one region: its log and hard state on the
// store's Pebble, with the newest entries in memory. It belongs to the region's
// worker. Entries up to truncated are gone: they are in the state machine, and
// who still needs them gets that, as a snapshot.
type logStore struct {
	db        *pebble.DB
	region    uint64
	confState *raftpb.ConfState // as it was at the start; Raft asks once
	snapshots snapshotMaker

	hardState *raftpb.HardState
	truncated position
	lastIndex uint64
	lastTerm  uint64
	// bytes is the size of the entries since the start or the last compaction.
	bytes int

	// recent are the entries up to lastIndex, without a gap. It is nil while the
	// region is idle.
	recent      []*raftpb.Entry
	recentBytes int
}

// position is a place in the log.
type position struct{ index, term uint64 }

// The log of a region of a new cluster begins behind this position, at which
// all of the founding peers agree without a word. A later peer has nothing
// there, so it gets a snapshot, with the descriptor in it.
const (
	foundingIndex = 1
	foundingTerm  = 1
)

// snapshotMaker is what Raft's wish for a snapshot is passed on to.
type snapshotMaker interface {
	// snapshot returns one that is ready, or raft.ErrSnapshotTemporarilyUnavailable.
	snapshot() (*raftpb.Snapshot, error)
}

// loadLog reads what a region had on disk; the log of one without anything
// begins at 1.
func loadLog(db *pebble.DB, region uint64, confState *raftpb.ConfState) (*logStore, error) {
	l := &logStore{db: db, region: region, confState: confState}
	value, err := getCopy(db, regionKey(region, partHardState))
	if err != nil {
		return nil, err
	}
	if value != nil {
		if l.hardState, err = decodeHardState(value); err != nil {
			return nil, err
		}
	}
	if value, err = getCopy(db, regionKey(region, partTruncated)); err != nil {
		return nil, err
	}
	if value != nil {
		if l.truncated, err = decodePosition(value); err != nil {
			return nil, err
		}
	}
	l.lastIndex, l.lastTerm = l.truncated.index, l.truncated.term
	iterator, err := db.NewIter(&pebble.IterOptions{
		LowerBound: regionKey(region, partLog),
		UpperBound: partEnd(region, partLog),
	})
	if err != nil {
		return nil, err
	}
	if iterator.Last() {
		entry, err := decodeEntry(iterator.Key(), iterator.Value())
		if err != nil {
			return nil, errors.Join(err, iterator.Close())
		}
		l.lastIndex, l.lastTerm = entry.GetIndex(), entry.GetTerm()
	}
	return l, iterator.Close()
}

// isNew says whether the region never took part in anything.
func (l *logStore) isNew() bool {
	return l.lastIndex <= foundingIndex && l.hardState.GetTerm() <= foundingTerm && l.hardState.GetVote() == 0
}

// compact gives up the entries up to an index, which must be applied. The batch
// must be committed before anything else relies on it.
func (l *logStore) compact(batch *pebble.Batch, index uint64) error {
	term, err := l.Term(index)
	if err != nil {
		return fmt.Errorf("kvstore: region %d: compact to %d: %w", l.region, index, err)
	}
	if err := batch.DeleteRange(logKey(l.region, l.truncated.index+1), logKey(l.region, index+1), nil); err != nil {
		return err
	}
	l.bytes = int(uint64(l.bytes) * (l.lastIndex - index) / (l.lastIndex - l.truncated.index))
	l.truncated = position{index, term}
	return batch.Set(regionKey(l.region, partTruncated), encodePosition(l.truncated), nil)
}

// restored notes that a snapshot took the place of everything.
func (l *logStore) restored(at position, hardState *raftpb.HardState) {
	l.forget()
	l.bytes = 0
	l.truncated, l.hardState = at, hardState
	l.lastIndex, l.lastTerm = at.index, at.term
}

// stage adds entries and a hard state to the batch. Memory is changed by saved,
// once the batch is on disk; nothing may read the region's log in between.
func (l *logStore) stage(batch *pebble.Batch, hardState *raftpb.HardState, entries []*raftpb.Entry) error {
	if !raft.IsEmptyHardState(hardState) {
		if err := batch.Set(regionKey(l.region, partHardState), encodeHardState(hardState), nil); err != nil {
			return err
		}
	}
	if len(entries) == 0 {
		return nil
	}
	var buffer []byte
	for _, entry := range entries {
		buffer = appendEntry(buffer[:0], entry)
		if err := batch.Set(logKey(l.region, entry.GetIndex()), buffer, nil); err != nil {
			return err
		}
	}
	// A new leader's entries replace all that was behind them.
	for index := entries[len(entries)-1].GetIndex() + 1; index <= l.lastIndex; index++ {
		if err := batch.Delete(logKey(l.region, index), nil); err != nil {
			return err
		}
	}
	return nil
}

// saved notes that what was staged is on disk.
func (l *logStore) saved(hardState *raftpb.HardState, entries []*raftpb.Entry) {
	if !raft.IsEmptyHardState(hardState) {
		l.hardState = hardState
	}
	if len(entries) == 0 {
		return
	}
	first := entries[0].GetIndex()
	for len(l.recent) > 0 && l.recent[len(l.recent)-1].GetIndex() >= first {
		l.recentBytes -= entryBytes(l.recent[len(l.recent)-1])
		l.recent = l.recent[:len(l.recent)-1]
	}
	for _, entry := range entries {
		l.recent = append(l.recent, entry)
		l.recentBytes += entryBytes(entry)
		l.bytes += entryBytes(entry)
	}
	drop := 0
	for drop < len(l.recent)-1 && l.recentBytes > logCacheBytes {
		l.recentBytes -= entryBytes(l.recent[drop])
		drop++
	}
	if drop > 0 {
		// A fresh slice, so that what was dropped is free to go.
		l.recent = append(make([]*raftpb.Entry, 0, len(l.recent)-drop+8), l.recent[drop:]...)
	}
	last := entries[len(entries)-1]
	l.lastIndex, l.lastTerm = last.GetIndex(), last.GetTerm()
}

// forget gives up the cache of a region that is idle.
func (l *logStore) forget() { l.recent, l.recentBytes = nil, 0 }

// InitialState implements raft.Storage.
func (l *logStore) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return l.hardState, l.confState, nil
}

// FirstIndex implements raft.Storage.
func (l *logStore) FirstIndex() (uint64, error) { return l.truncated.index + 1, nil }

// LastIndex implements raft.Storage.
func (l *logStore) LastIndex() (uint64, error) { return l.lastIndex, nil }

// Snapshot implements raft.Storage. The first call for a snapshot has the receiver
// asked whether it has room, and then one made; Raft asks again with every answer of
// the peer that needs it.
func (l *logStore) Snapshot() (*raftpb.Snapshot, error) { return l.snapshots.snapshot() }

// Term implements raft.Storage.
func (l *logStore) Term(index uint64) (uint64, error) {
	switch {
	case index == l.truncated.index:
		return l.truncated.term, nil
	case index < l.truncated.index:
		return 0, raft.ErrCompacted
	case index == l.lastIndex:
		return l.lastTerm, nil
	case index > l.lastIndex:
		return 0, raft.ErrUnavailable
	}
	if first := l.recentFirst(); index >= first {
		return l.recent[index-first].GetTerm(), nil
	}
	value, err := getCopy(l.db, logKey(l.region, index))
	if err != nil {
		return 0, err
	}
	entry, err := decodeEntry(logKey(l.region, index), value)
	if err != nil {
		return 0, err
	}
	return entry.GetTerm(), nil
}

// recentFirst returns the index of the first entry in memory, or one behind the
// last entry.
func (l *logStore) recentFirst() uint64 { return l.lastIndex + 1 - uint64(len(l.recent)) }

// Entries implements raft.Storage.
func (l *logStore) Entries(low, high, maxSize uint64) ([]*raftpb.Entry, error) {
	if low <= l.truncated.index {
		return nil, raft.ErrCompacted
	}
	if high > l.lastIndex+1 {
		return nil, raft.ErrUnavailable
	}
	var entries []*raftpb.Entry
	var size uint64
	// take returns false when the size is reached.
	take := func(entry *raftpb.Entry) bool {
		size += uint64(entryBytes(entry))
		if len(entries) > 0 && size > maxSize {
			return false
		}
		entries = append(entries, entry)
		return true
	}
	first := l.recentFirst()
	if low < first {
		more, err := l.readEntries(low, min(high, first), take)
		if err != nil || !more {
			return entries, err
		}
	}
	for index := max(low, first); index < high; index++ {
		if !take(l.recent[index-first]) {
			break
		}
	}
	return entries, nil
}

// readEntries gives entries from disk to take until it returns false.
func (l *logStore) readEntries(low, high uint64, take func(*raftpb.Entry) bool) (more bool, err error) {
	iterator, err := l.db.NewIter(&pebble.IterOptions{
		LowerBound: logKey(l.region, low),
		UpperBound: logKey(l.region, high),
	})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, iterator.Close()) }()
	want := low
	for valid := iterator.First(); valid; valid = iterator.Next() {
		entry, err := decodeEntry(iterator.Key(), iterator.Value())
		if err != nil {
			return false, err
		}
		if entry.GetIndex() != want {
			break
		}
		want++
		if !take(entry) {
			return false, nil
		}
	}
	if want != high {
		return false, fmt.Errorf("kvstore: region %d: log entry %d is missing", l.region, want)
	}
	return true, nil
}

// entryBytes is what an entry counts for, in the cache and in messages.
func entryBytes(entry *raftpb.Entry) int { return len(entry.GetData()) + 24 }

// appendEntry appends an entry's value: term, type, data. Its index is in the key.
func appendEntry(buffer []byte, entry *raftpb.Entry) []byte {
	buffer = binary.AppendUvarint(buffer, entry.GetTerm())
	buffer = append(buffer, byte(entry.GetType()))
	return append(buffer, entry.GetData()...)
}

func decodeEntry(key, value []byte) (*raftpb.Entry, error) {
	term, n := binary.Uvarint(value)
	if n <= 0 || len(value) < n+1 || len(key) != regionPrefixLen+8 {
		return nil, fmt.Errorf("kvstore: malformed log entry at key %x", key)
	}
	entry := &raftpb.Entry{
		Term:  new(term),
		Index: new(binary.BigEndian.Uint64(key[regionPrefixLen:])),
		Type:  raftpb.EntryType(value[n]).Enum(),
	}
	if data := value[n+1:]; len(data) > 0 {
		entry.Data = append([]byte(nil), data...)
	}
	return entry, nil
}

func encodeHardState(state *raftpb.HardState) []byte {
	buffer := make([]byte, 0, 24)
	buffer = binary.BigEndian.AppendUint64(buffer, state.GetTerm())
	buffer = binary.BigEndian.AppendUint64(buffer, state.GetVote())
	return binary.BigEndian.AppendUint64(buffer, state.GetCommit())
}

func decodeHardState(value []byte) (*raftpb.HardState, error) {
	if len(value) != 24 {
		return nil, fmt.Errorf("kvstore: malformed hard state of %d bytes", len(value))
	}
	return &raftpb.HardState{
		Term:   new(binary.BigEndian.Uint64(value)),
		Vote:   new(binary.BigEndian.Uint64(value[8:])),
		Commit: new(binary.BigEndian.Uint64(value[16:])),
	}, nil
}

func encodePosition(p position) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.index), p.term)
}

func decodePosition(value []byte) (position, error) {
	if len(value) != 16 {
		return position{}, fmt.Errorf("kvstore: malformed truncated state of %d bytes", len(value))
	}
	return position{binary.BigEndian.Uint64(value), binary.BigEndian.Uint64(value[8:])}, nil
}

// getCopy returns a copy of a value, nil if there is none.
func getCopy(reader pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := reader.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := append(make([]byte, 0, len(value)), value...)
	return kept, closer.Close()
}
