package kvstore

import (
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// snapshotRows are those of a region at an index, as a snapshot of it has them.
func snapshotRows(t *testing.T, region, index uint64) map[string]string {
	t.Helper()
	descriptor, err := foundingDescriptor(region, []uint64{1}, map[uint64]string{1: "127.0.0.1:1"}).encode()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		string(regionKey(region, partApplied)):    string(binary.BigEndian.AppendUint64(nil, index)),
		string(regionKey(region, partDescriptor)): string(descriptor),
		string(dedupKey(region, 1)):               string((&dedupRow{incarnation: 1, low: 2, window: []uint64{3}}).encode()),
		string(dataKey(region, []byte("key"))):    "value",
	}
}

// tableOf returns the file that has the rows.
func tableOf(t *testing.T, rows map[string]string) []byte {
	t.Helper()
	return tableWith(t, rows, func(*sstable.Writer) error { return nil })
}

// tableWith returns the file that has the rows, and what else is written to it.
func tableWith(t *testing.T, rows map[string]string, more func(*sstable.Writer) error) []byte {
	t.Helper()
	fs := vfs.NewMem()
	created, err := fs.Create("table", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	writer := sstable.NewWriter(objstorageprovider.NewFileWritable(created), sstable.WriterOptions{TableFormat: tableFormat})
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		if err := writer.Set([]byte(key), []byte(rows[key])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(more(writer), writer.Close()); err != nil {
		t.Fatal(err)
	}
	file, err := fs.Open("table")
	if err != nil {
		t.Fatal(err)
	}
	table, err := io.ReadAll(file)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return table
}

// checkTable has a file checked.
func checkTable(t *testing.T, table []byte, region, index uint64) (*snapshotFiles, error) {
	t.Helper()
	f := &snapshotFiles{fs: vfs.NewMem()}
	file, err := f.fs.Create("table", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write(table)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	return f, f.check("table", region, index)
}

// malformed are snapshots that a store must not take, by what is said of them.
func malformed(t *testing.T, region, index uint64) map[string][]byte {
	t.Helper()
	tables := map[string][]byte{}
	for want, change := range map[string]func(rows map[string]string){
		"not a snapshot of this region":   func(rows map[string]string) { delete(rows, string(regionKey(region, partApplied))) },
		"the snapshot lacks a descriptor": func(rows map[string]string) { delete(rows, string(regionKey(region, partDescriptor))) },
		"malformed descriptor":            func(rows map[string]string) { rows[string(regionKey(region, partDescriptor))] = "not JSON" },
		"descriptor has no voters":        func(rows map[string]string) { rows[string(regionKey(region, partDescriptor))] = "{}" },
		"a dedup row without a store":     func(rows map[string]string) { rows[string(regionKey(region, partDedup))+"x"] = "\x01\x01" },
		"malformed dedup row":             func(rows map[string]string) { rows[string(dedupKey(region, 2))] = "\xff" },
		"keys of others":                  func(rows map[string]string) { rows[string(dataKey(region+1, nil))] = "" },
		"the snapshot has keys of others": func(rows map[string]string) { rows[string(partEnd(region, partDedup))] = "" },
	} {
		rows := snapshotRows(t, region, index)
		change(rows)
		tables[want] = tableOf(t, rows)
	}
	// Any of these would reach the next region's row.
	rows := snapshotRows(t, region, index)
	neighbour, end := dataKey(region+1, []byte("key")), dataKey(region+2, nil)
	for want, more := range map[string]func(*sstable.Writer) error{
		"the snapshot deletes a range": func(w *sstable.Writer) error { return w.DeleteRange(neighbour, end) },
		"the snapshot has range keys":  func(w *sstable.Writer) error { return w.RangeKeyDelete(neighbour, end) },
		"the snapshot has a DEL":       func(w *sstable.Writer) error { return w.Delete(neighbour) },
		"the snapshot has a MERGE":     func(w *sstable.Writer) error { return w.Merge(neighbour, nil) },
	} {
		tables[want] = tableWith(t, rows, more)
	}
	return tables
}

func TestMalformedSnapshotsAreRefused(t *testing.T) {
	if _, err := checkTable(t, tableOf(t, snapshotRows(t, 1, 9)), 1, 9); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for want, table := range malformed(t, 1, 9) {
		if _, err := checkTable(t, table, 1, 9); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// No bit of a file that came in may make Pebble panic, or change a row unnoticed. The
// footer has no checksum, and room that is not used.
func TestSnapshotsWithAFlippedBitAreRefused(t *testing.T) {
	const footer = 53
	rows := snapshotRows(t, 1, 9)
	table := tableOf(t, rows)
	for at := range table {
		for bit := range 8 {
			table[at] ^= 1 << bit
			f, err := checkTable(t, table, 1, 9)
			if err == nil && (at < len(table)-footer || !maps.Equal(rowsIn(t, f), rows)) {
				t.Errorf("byte %d of %d, bit %d: passed", at, len(table), bit)
			}
			table[at] ^= 1 << bit
		}
	}
}

// rowsIn reads the file that was checked.
func rowsIn(t *testing.T, f *snapshotFiles) map[string]string {
	t.Helper()
	file, err := f.fs.Open("table")
	if err != nil {
		t.Fatal(err)
	}
	options := &pebble.Options{}
	options.EnsureDefaults()
	iterator, err := pebble.NewExternalIter(options, &pebble.IterOptions{}, [][]sstable.ReadableFile{{file}})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for valid := iterator.First(); valid; valid = iterator.Next() {
		rows[string(iterator.Key())] = string(iterator.Value())
	}
	if err := iterator.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// What is malformed never reaches Raft: the store goes on with what it has.
func TestStoreOutlivesMalformedSnapshots(t *testing.T) {
	const index, term = 1000, 50
	c := newCluster(t, 1, Options{Regions: 1})
	store := c.stores[1]
	mustSet(t, store, "key", "value")
	tables := malformed(t, 1, index)
	flipped := tableOf(t, snapshotRows(t, 1, index))
	flipped[len(flipped)-1] ^= 1
	tables["a flipped bit"] = flipped
	self, other := PeerID(1, 1), PeerID(1, 2)
	for name, table := range tables {
		writer, err := snapshotSink{store.host}.CreateSnapshot(t.Context(), &raft_serverpb.RaftMessage{
			RegionId: 1,
			FromPeer: &metapb.Peer{Id: other, StoreId: 2},
			ToPeer:   &metapb.Peer{Id: self, StoreId: 1},
			Message: &eraftpb.Message{MsgType: eraftpb.MessageType_MsgSnapshot, From: other, To: self, Term: term, Snapshot: &eraftpb.Snapshot{
				Metadata: &eraftpb.SnapshotMetadata{Index: index, Term: term, ConfState: &eraftpb.ConfState{Voters: []uint64{self}}},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write(table); err != nil {
			t.Fatal(err)
		}
		if err := writer.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "store 1, region 1") {
			t.Errorf("%s: %v", name, err)
		}
		mustSet(t, store, "key", name)
		if got := mustGet(t, store, "key"); string(got) != name {
			t.Errorf("after %s the key is %q", name, got)
		}
	}
	select {
	case err := <-store.Failed():
		t.Error(err)
	default:
	}
	if restored := store.host.restored.Load(); restored != 0 {
		t.Errorf("%d snapshots were restored", restored)
	}
	if files, err := store.host.files.fs.List(store.host.files.dir); err != nil || len(files) > 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
}
