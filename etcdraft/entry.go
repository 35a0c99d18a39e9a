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
// follows it. rest is what fields.scan has accepted, so each field ends within it.
func (e *entryFields) next(rest []byte) (behind []byte, err error) {
	tag, value, next := field(rest, 0)
	for tag != tagEntry {
		rest = rest[next:]
		tag, value, next = field(rest, 0)
	}
	*e = entryFields{}
	return rest[next:], e.scan(rest[next-int(value) : next])
}

func (e *entryFields) scan(b []byte) error {
	for i := 0; i < len(b); {
		tag, value, next := field(b, i)
		if next > len(b) {
			return errMalformed
		}
		switch tag {
		case tagEntryType:
			e.kind = value
		case tagEntryTerm:
			e.term = value
		case tagEntryIndex:
			e.index = value
		case tagEntryData:
			e.payload = b[next-int(value) : next]
		default:
			if err := passOver(tag, tagEntryData); err != nil {
				return err
			}
		}
		i = next
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
