package kvstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
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
	db        *pebble.DB
	batch     *pebble.Batch
	directory *directory
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
		if entry.GetType() == raftpb.EntryConfChange {
			if err := a.change(r, entry); err != nil {
				return err
			}
			continue
		}
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
			a.directory.wrote(c.id.store)
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
	result, err := a.effect(r, c)
	if err != nil {
		return err
	}
	if c.id.store == r.store && c.id.incarnation == r.writes.incarnation {
		if waiting := r.writes.find(c.id.sequence); waiting != nil {
			a.acks = append(a.acks, acknowledgement{waiting, result})
		}
	}
	return nil
}

// effect does what a command says.
func (a *applier) effect(r *region, c *command) (result answer, err error) {
	key := dataKey(r.id, c.key)
	switch c.op {
	case opReplace:
		return a.replace(r, c.value)
	case opDel:
		if result.existed, err = a.exists(key); err != nil {
			return result, err
		}
		err = a.batch.Delete(key, nil)
	default:
		err = a.batch.Set(key, c.value, nil)
	}
	a.touched[string(key)] = c.op == opSet
	return result, err
}

// replace notes the order to replace a store; the leader will carry it out.
func (a *applier) replace(r *region, value []byte) (result answer, err error) {
	var order Replacement
	if err := json.Unmarshal(value, &order); err != nil {
		return answer{err: badChange("malformed order: %v", err)}, nil
	}
	next, refusal := r.descriptor.replacing(order)
	if refusal != nil {
		return answer{err: inRegion(r.id, refusal)}, nil
	}
	return answer{existed: next.Replacement != nil}, a.describe(r, next)
}

// change applies a conf change, or skips one that doesn't fit, which every
// replica does alike. Raft hears of it in either case, once the batch is on disk.
func (a *applier) change(r *region, entry *raftpb.Entry) error {
	told := &raftpb.ConfChange{}
	if err := proto.Unmarshal(entry.GetData(), told); err != nil {
		told = &raftpb.ConfChange{}
	}
	c, refusal := decodeChange(told)
	next := r.descriptor
	if refusal == nil {
		next, refusal = r.descriptor.with(c)
	}
	if refusal != nil {
		told = &raftpb.ConfChange{} // a change of nothing
		refusal = inRegion(r.id, refusal)
	}
	r.changes = append(r.changes, told)
	if waiting := r.change; waiting != nil && waiting.change.body.By == c.body.By {
		r.change = nil
		a.acks = append(a.acks, acknowledgement{waiting, answer{peer: c.peer, err: refusal}})
	}
	if refusal != nil {
		return nil
	}
	return a.describe(r, next)
}

// describe gives a region a new descriptor.
func (a *applier) describe(r *region, next *Descriptor) error {
	value, err := next.encode()
	if err != nil {
		return err
	}
	for _, peer := range next.Peers {
		if err := a.directory.learn(a.batch, peer.StoreID, peer.Address); err != nil {
			return err
		}
	}
	a.directory.describe(r.id, r.descriptor, next)
	r.describe(next)
	return a.batch.Set(regionKey(r.id, partDescriptor), value, nil)
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
