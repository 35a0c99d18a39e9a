package etcdraft

import (
	"bytes"

	"go.etcd.io/raft/v3/raftpb"
)

// A large message that came in memory of its own may lie in it, which spares a
// copy. But then one kept pointer into that memory keeps all of it.

const (
	// givenLimit is the cost, in encoded bytes and entries, up to which all
	// parts of a message may keep each other alive.
	givenLimit = 48 << 10
	// givenBeyond is how much of what is larger may be something else than the
	// data of its one entry: the context is copied, and the allocator rounds up.
	givenBeyond = 24 << 10
)

// oneEntrySlot is a message with one entry.
type oneEntrySlot struct {
	message messageSlot
	entry   entrySlot
	list    [1]*raftpb.Entry
}

// buildGiven makes the message of what scan found in size bytes that nobody else
// knows: it keeps them. It returns nil if build is to do it, because it is small
// enough to share memory with others, or because one kept part of it would keep
// too much alive.
func (d *decoder) buildGiven(size int) (*raftpb.Message, error) {
	f := &d.fields
	together := size+f.entries*(entryBytes+pointerBytes) <= givenLimit
	switch {
	case f.cost() <= largeBytes || f.snapshot != nil:
		return nil, nil
	case together && f.entries != 1:
		return f.buildTogether()
	case !together && (f.entries != 1 || size-f.entryData > givenBeyond):
		return nil, nil
	}
	var entry entryFields
	if _, err := entry.next(f.rest); err != nil {
		return nil, err
	}
	w := new(oneEntrySlot)
	scalars, ofEntry := &w.message.scalars, &w.entry.scalars
	context := f.context
	if !together {
		if size-len(entry.payload) > givenBeyond {
			return nil, nil
		}
		// What is kept without the payload must not keep it.
		apart := new(struct {
			message messageScalars
			entry   entryScalars
		})
		scalars, ofEntry = &apart.message, &apart.entry
		context = bytes.Clone(context)
	}
	f.set(&w.message.message, scalars)
	w.message.message.Context = clipped(context)
	entry.set(&w.entry.entry, ofEntry)
	w.entry.entry.Data = clipped(entry.payload)
	w.list[0] = &w.entry.entry
	w.message.message.Entries = w.list[:]
	return &w.message.message, nil
}

// buildTogether makes a message all of whose parts may keep each other alive.
func (f *fields) buildTogether() (*raftpb.Message, error) {
	slot := new(messageSlot)
	f.set(&slot.message, &slot.scalars)
	slot.message.Context = clipped(f.context)
	if f.entries == 0 {
		return &slot.message, nil
	}
	entries := make([]entrySlot, f.entries)
	slot.message.Entries = make([]*raftpb.Entry, f.entries)
	rest := f.rest
	var entry entryFields
	for i := range entries {
		var err error
		if rest, err = entry.next(rest); err != nil {
			return nil, err
		}
		entry.set(&entries[i].entry, &entries[i].scalars)
		entries[i].entry.Data = clipped(entry.payload)
		slot.message.Entries[i] = &entries[i].entry
	}
	return &slot.message, nil
}

// clipped returns b so that nothing can be appended to it, or nil if it is empty.
func clipped(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}
