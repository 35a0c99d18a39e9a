package kvstore

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
)

// loadState reads a region's applied index and dedup table.
func loadState(db *pebble.DB, region uint64) (applied uint64, dedup map[uint64]*dedupRow, err error) {
	value, err := getCopy(db, regionKey(region, partApplied))
	if err != nil {
		return 0, nil, err
	}
	if value != nil {
		if len(value) != 8 {
			return 0, nil, fmt.Errorf("kvstore: region %d: malformed applied index", region)
		}
		applied = binary.BigEndian.Uint64(value)
	}
	dedup = map[uint64]*dedupRow{}
	iterator, err := db.NewIter(&pebble.IterOptions{
		LowerBound: regionKey(region, partDedup),
		UpperBound: partEnd(region, partDedup),
	})
	if err != nil {
		return 0, nil, err
	}
	for valid := iterator.First(); valid; valid = iterator.Next() {
		row, err := decodeDedupRow(iterator.Value())
		if err != nil {
			_ = iterator.Close()
			return 0, nil, err
		}
		dedup[binary.BigEndian.Uint64(iterator.Key()[regionPrefixLen:])] = row
	}
	return applied, dedup, iterator.Close()
}

// acknowledgement is an answer that waits for the batch to be on disk.
type acknowledgement struct {
	request *request
	answer  answer
}

// applier applies committed entries of many regions to one batch. What it does
// depends on nothing but the entries and the region's state, so that replicas
// stay equal.
type applier struct {
	db    *pebble.DB
	batch *pebble.Batch
	// acks are the answers to send once the batch is on disk.
	acks []acknowledgement
	// touched says for each data key in the batch whether it will exist.
	touched map[string]bool
}

func (a *applier) apply(r *region, entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	dirty := map[uint64]*dedupRow{}
	for _, entry := range entries {
		if len(entry.GetData()) == 0 || entry.GetType() != raftpb.EntryNormal {
			continue // a new leader's first entry
		}
		c, err := decodeCommand(entry.GetData())
		if err != nil {
			continue // nobody's request; it is skipped on every replica alike
		}
		row := r.dedup[c.id.store]
		if row == nil {
			row = &dedupRow{}
			r.dedup[c.id.store] = row
		}
		if !row.admit(c.id, c.low) {
			continue
		}
		dirty[c.id.store] = row
		if err := a.execute(r, &c); err != nil {
			return err
		}
	}
	for store, row := range dirty {
		if err := a.batch.Set(dedupKey(r.id, store), row.encode(), nil); err != nil {
			return err
		}
	}
	r.applied = entries[len(entries)-1].GetIndex()
	return a.batch.Set(regionKey(r.id, partApplied), binary.BigEndian.AppendUint64(nil, r.applied), nil)
}

func (a *applier) execute(r *region, c *command) error {
	key := dataKey(r.id, c.key)
	var result answer
	var err error
	if c.op == opDel {
		if result.existed, err = a.exists(key); err != nil {
			return err
		}
		err = a.batch.Delete(key, nil)
	} else {
		err = a.batch.Set(key, c.value, nil)
	}
	if err != nil {
		return err
	}
	a.touched[string(key)] = c.op == opSet
	if c.id.store == r.store && c.id.incarnation == r.writes.incarnation {
		if waiting := r.writes.find(c.id.sequence); waiting != nil {
			a.acks = append(a.acks, acknowledgement{waiting, result})
		}
	}
	return nil
}

func (a *applier) exists(key []byte) (bool, error) {
	if exists, ok := a.touched[string(key)]; ok {
		return exists, nil
	}
	value, err := getCopy(a.db, key)
	return value != nil, err
}

// reset makes the applier ready for the next batch.
func (a *applier) reset() {
	a.batch.Reset()
	clear(a.acks)
	a.acks = a.acks[:0]
	clear(a.touched)
}
