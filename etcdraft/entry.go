package etcdraft

import (
	"bytes"

	"go.etcd.io/raft/v3/raftpb"
)

// entryFields is what is in an encoded entry.
type entryFields struct {
	kind, term, index uint64
	payload           []byte
}

// next parses the first entry in rest, of which there is one, and returns what
// follows it.
func (e *entryFields) next(rest []byte) (behind []byte, err error) {
	for {
		tag, data, err := varint(rest)
		if err != nil {
			return nil, err
		}
		if tag>>3 != 7 {
			if rest, err = skip(tag, data); err != nil {
				return nil, err
			}
			continue
		}
		encoded, behind, err := bytesField(tag, data)
		if err != nil {
			return nil, err
		}
		*e = entryFields{}
		return behind, e.scan(encoded)
	}
}

func (e *entryFields) scan(encoded []byte) error {
	for len(encoded) > 0 {
		tag, data, err := varint(encoded)
		if err != nil {
			return err
		}
		switch tag >> 3 {
		case 1:
			e.kind, data, err = varintField(tag, data)
		case 2:
			e.term, data, err = varintField(tag, data)
		case 3:
			e.index, data, err = varintField(tag, data)
		case 4:
			e.payload, data, err = bytesField(tag, data)
		default:
			data, err = skip(tag, data)
		}
		if err != nil {
			return err
		}
		encoded = data
	}
	return nil
}

// set fills in the scalars. Those that are 0 stay absent.
func (e *entryFields) set(entry *raftpb.Entry, s *entryScalars) {
	s.kind, s.term, s.index = raftpb.EntryType(int32(e.kind)), e.term, e.index
	if s.kind != 0 {
		entry.Type = &s.kind
	}
	present(&entry.Term, &s.term)
	present(&entry.Index, &s.index)
}

// entry makes an entry, in reserved memory or else in what suits its size.
func (d *decoder) entry(e *entryFields, reserved bool) *raftpb.Entry {
	if !reserved && entryBytes+len(e.payload) > largeBytes {
		entry := new(raftpb.Entry)
		e.set(entry, new(entryScalars))
		entry.Data = bytes.Clone(e.payload)
		return entry
	}
	if !reserved {
		d.generation.reserve(0, 1, 0, len(e.payload))
	}
	entry, scalars := d.generation.entry()
	e.set(entry, scalars)
	if len(e.payload) > 0 {
		entry.Data = d.generation.copy(e.payload)
	}
	return entry
}
