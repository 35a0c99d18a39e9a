package kvstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// check looks whether a file is a snapshot of a region at an index, whole, and of
// nothing else: it is going to be part of the database. What it lets pass can be
// loaded; it reads all of it, for Pebble looks at a block's checksum when it reads it.
func (f *snapshotFiles) check(path string, region, index uint64) (err error) {
	file, err := f.fs.Open(path)
	if err != nil {
		return err
	}
	defer func() {
		// Pebble takes some tables that can't be, as one bit in the footer may make one
		// of ours, for a mistake of the program, and panics.
		if broken := recover(); broken != nil {
			err = fmt.Errorf("not a snapshot: %v", broken)
		}
		err = errors.Join(err, file.Close())
	}()
	readable, err := sstable.NewSimpleReadable(openTable{file})
	if err != nil {
		return err
	}
	options := &pebble.Options{}
	options.EnsureDefaults()
	table, err := sstable.NewReader(context.Background(), readable, options.MakeReaderOptions())
	if err != nil {
		return fmt.Errorf("not a snapshot: %w", err)
	}
	return errors.Join(checkContents(table, region, index), table.Close())
}

// openTable is a file that its reader doesn't close: it may not get that far.
type openTable struct{ sstable.ReadableFile }

// Close implements io.Closer.
func (openTable) Close() error { return nil }

// checkContents looks at what a table has. In the database a deletion would reach what other
// regions have, one of a range without being seen among the rows.
func checkContents(table *sstable.Reader, region, index uint64) error {
	deletions, err := table.NewRawRangeDelIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil {
		return err
	}
	if deletions != nil {
		deletions.Close()
		return errors.New("the snapshot deletes a range")
	}
	rangeKeys, err := table.NewRawRangeKeyIter(context.Background(), sstable.NoFragmentTransforms, sstable.NoReadEnv)
	if err != nil {
		return err
	}
	if rangeKeys != nil {
		rangeKeys.Close()
		return errors.New("the snapshot has range keys")
	}
	iterator, err := table.NewIter(sstable.NoTransforms, nil, nil, sstable.AssertNoBlobHandles)
	if err != nil {
		return err
	}
	rows := &tableRows{iterator: iterator}
	return errors.Join(checkRows(rows, region, index), rows.err, iterator.Error(), iterator.Close())
}

// checkRows looks at each row that a region's state machine has, in their order.
func checkRows(rows *tableRows, region, index uint64) error {
	if !rows.next() || !bytes.Equal(rows.key, regionKey(region, partApplied)) {
		return errors.New("not a snapshot of this region")
	}
	if len(rows.value) != 8 || binary.BigEndian.Uint64(rows.value) != index {
		return fmt.Errorf("the snapshot's applied index is %x, not %d", rows.value, index)
	}
	if !rows.next() || !bytes.Equal(rows.key, regionKey(region, partDescriptor)) {
		return errors.New("the snapshot lacks a descriptor")
	}
	d, err := decodeDescriptor(rows.value)
	if err != nil {
		return err
	}
	if len(d.voterStores()) == 0 {
		return errors.New("the snapshot's descriptor has no voters")
	}
	valid := rows.next()
	for ; valid && bytes.HasPrefix(rows.key, regionKey(region, partDedup)); valid = rows.next() {
		if len(rows.key) != len(dedupKey(region, 0)) {
			return fmt.Errorf("the snapshot has a dedup row without a store, at key %x", rows.key)
		}
		if _, err := decodeDedupRow(rows.value); err != nil {
			return err
		}
	}
	for ; valid; valid = rows.next() {
		if !bytes.HasPrefix(rows.key, regionKey(region, partData)) {
			return errors.New("the snapshot has keys of others")
		}
	}
	return nil
}

// tableRows are those of a table, one after the other.
type tableRows struct {
	iterator sstable.Iterator

	begun      bool
	key, value []byte // of the row; valid until the next one
	err        error  // why there is no next one, if it isn't the end
}

// next says whether there is one more row.
func (r *tableRows) next() bool {
	row := r.iterator.Next
	if !r.begun {
		row, r.begun = r.iterator.First, true
	}
	kv := row()
	if kv == nil {
		return false
	}
	if kv.Kind() != pebble.InternalKeyKindSet {
		r.err = fmt.Errorf("the snapshot has a %s at key %x", kv.Kind(), kv.K.UserKey)
		return false
	}
	r.key = kv.K.UserKey
	r.value, _, r.err = kv.Value(nil)
	return r.err == nil
}
