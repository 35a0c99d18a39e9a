package wire

import (
	"github.com/pingcap/kvproto/pkg/disk_usage"
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
)

// The fast paths, one per message type. Each takes its known fields by their
// one-byte tags, written as number<<3|type, and keeps fields that are unknown.
// Whatever else it meets it calls odd: a known number with another wire type
// or a longer tag, a rare field, a sub-message for the second time (which would
// merge), unknown fields that aren't adjacent, groups, and anything malformed.
//
// Varints are read at one place of each loop, their first byte without a call:
// most fields are varints, and a call costs as much as reading one.

// raftMessage decodes b into t, whose structs are zero.
func (d *Decoder) raftMessage(b []byte, t target) outcome {
	m := t.rm
	var unknown span
	i := 0
	for i < len(b) {
		tag := b[i]
		if tag&7 == wireVarint && i+1 < len(b) {
			v, next := uint64(b[i+1]), i+2
			if v >= 0x80 {
				v, next = uvarint(b, i+1)
			}
			switch tag {
			case 1<<3 | wireVarint:
				m.RegionId = v
			case 6<<3 | wireVarint:
				m.IsTombstone = int(v) != 0
			case 12<<3 | wireVarint:
				m.DiskUsage = disk_usage.DiskUsage(v)
			default:
				next = unknown.field(b, i, 12)
			}
			i = next
			continue
		}
		if tag&7 != wireBytes || tag >= 0x80 {
			i = unknown.field(b, i, 12)
			continue
		}
		sub, next := delimited(b, i+1)
		if next == overrun {
			return odd
		}
		o := done
		switch {
		case tag == 2<<3|wireBytes && m.FromPeer == nil:
			m.FromPeer = t.from
			o = d.peer(sub, t.from)
		case tag == 3<<3|wireBytes && m.ToPeer == nil:
			m.ToPeer = t.to
			o = d.peer(sub, t.to)
		case tag == 4<<3|wireBytes && m.Message == nil:
			m.Message = t.msg
			o = d.message(sub, t.msg)
		case tag == 5<<3|wireBytes && m.RegionEpoch == nil:
			m.RegionEpoch = t.epoch
			o = d.epoch(sub, t.epoch)
		case tag == 7<<3|wireBytes:
			o = d.bytesTo(sub, &m.StartKey)
		case tag == 8<<3|wireBytes:
			o = d.bytesTo(sub, &m.EndKey)
		case tag == 11<<3|wireBytes:
			o = d.bytesTo(sub, &m.ExtraCtx)
		default: // merge_target (9), extra_msg (10), and a part for the second time among them
			next = unknown.field(b, i, 12)
		}
		if o != done {
			return o
		}
		i = next
	}
	if i != len(b) {
		return odd
	}
	return d.unknownTo(b, unknown, &m.XXX_unrecognized)
}

// message decodes b into m, which is zero.
func (d *Decoder) message(b []byte, m *eraftpb.Message) outcome {
	var unknown span
	var sub []byte
	var entries []*eraftpb.Entry
	i := 0
	for i < len(b) {
		tag := b[i]
		if tag&7 == wireVarint && i+1 < len(b) {
			v, next := uint64(b[i+1]), i+2
			if v >= 0x80 {
				v, next = uvarint(b, i+1)
			}
			switch tag {
			case 1<<3 | wireVarint:
				m.MsgType = eraftpb.MessageType(v)
			case 2<<3 | wireVarint:
				m.To = v
			case 3<<3 | wireVarint:
				m.From = v
			case 4<<3 | wireVarint:
				m.Term = v
			case 5<<3 | wireVarint:
				m.LogTerm = v
			case 6<<3 | wireVarint:
				m.Index = v
			case 8<<3 | wireVarint:
				m.Commit = v
			case 10<<3 | wireVarint:
				m.Reject = int(v) != 0
			case 11<<3 | wireVarint:
				m.RejectHint = v
			case 13<<3 | wireVarint:
				m.RequestSnapshot = v
			case 14<<3 | wireVarint:
				m.DeprecatedPriority = v
			case 15<<3 | wireVarint:
				m.Priority = int64(v)
			default:
				next = unknown.field(b, i, 15)
			}
			i = next
			continue
		}
		switch tag {
		case entryTag:
			start := i
			if sub, i = delimited(b, i+1); i == overrun {
				return odd
			}
			if len(entries) == cap(entries) {
				if entries = d.growEntries(entries, b[start:]); entries == nil {
					return full
				}
			}
			e, o := d.entry(sub, b[start:])
			if o != done {
				return o
			}
			entries = append(entries, e)
		case 12<<3 | wireBytes:
			if sub, i = delimited(b, i+1); i == overrun {
				return odd
			}
			if o := d.bytesTo(sub, &m.Context); o != done {
				return o
			}
		default: // snapshot (9) among them
			i = unknown.field(b, i, 15)
		}
	}
	if i != len(b) {
		return odd
	}
	if entries != nil {
		m.Entries = d.claimEntries(entries)
	}
	return d.unknownTo(b, unknown, &m.XXX_unrecognized)
}

// entryTag is the tag of eraftpb.Message.entries.
const entryTag = 7<<3 | wireBytes

// entry decodes b into an entry of its own. rest is the enclosing message from
// that entry on.
func (d *Decoder) entry(b, rest []byte) (*eraftpb.Entry, outcome) {
	if d.mode == modePlain {
		return d.entryOfLarge(b, rest)
	}
	e := d.newEntry()
	if e == nil {
		return nil, full
	}
	return e, d.entryFields(b, e)
}

// entryFields decodes b into e, which is zero.
func (d *Decoder) entryFields(b []byte, e *eraftpb.Entry) outcome {
	var unknown span
	var sub []byte
	i := 0
	for i < len(b) {
		tag := b[i]
		if tag&7 == wireVarint && i+1 < len(b) {
			v, next := uint64(b[i+1]), i+2
			if v >= 0x80 {
				v, next = uvarint(b, i+1)
			}
			switch tag {
			case 1<<3 | wireVarint:
				e.EntryType = eraftpb.EntryType(v)
			case 2<<3 | wireVarint:
				e.Term = v
			case 3<<3 | wireVarint:
				e.Index = v
			case 5<<3 | wireVarint:
				e.SyncLog = int(v) != 0
			default:
				next = unknown.field(b, i, 6)
			}
			i = next
			continue
		}
		switch tag {
		case 4<<3 | wireBytes:
			if sub, i = delimited(b, i+1); i == overrun {
				return odd
			}
			if o := d.bytesTo(sub, &e.Data); o != done {
				return o
			}
		case 6<<3 | wireBytes:
			if sub, i = delimited(b, i+1); i == overrun {
				return odd
			}
			if o := d.bytesTo(sub, &e.Context); o != done {
				return o
			}
		default:
			i = unknown.field(b, i, 6)
		}
	}
	if i != len(b) {
		return odd
	}
	return d.unknownTo(b, unknown, &e.XXX_unrecognized)
}

// peer decodes b into p, which is zero.
func (d *Decoder) peer(b []byte, p *metapb.Peer) outcome {
	var unknown span
	i := 0
	for i < len(b) {
		tag := b[i]
		if tag&7 == wireVarint && i+1 < len(b) {
			v, next := uint64(b[i+1]), i+2
			if v >= 0x80 {
				v, next = uvarint(b, i+1)
			}
			switch tag {
			case 1<<3 | wireVarint:
				p.Id = v
			case 2<<3 | wireVarint:
				p.StoreId = v
			case 3<<3 | wireVarint:
				p.Role = metapb.PeerRole(v)
			case 4<<3 | wireVarint:
				p.IsWitness = int(v) != 0
			default:
				next = unknown.field(b, i, 4)
			}
			i = next
			continue
		}
		i = unknown.field(b, i, 4)
	}
	if i != len(b) {
		return odd
	}
	return d.unknownOfPart(b, unknown, &p.XXX_unrecognized)
}

// epoch decodes b into e, which is zero.
func (d *Decoder) epoch(b []byte, e *metapb.RegionEpoch) outcome {
	var unknown span
	i := 0
	for i < len(b) {
		tag := b[i]
		if tag&7 == wireVarint && i+1 < len(b) {
			v, next := uint64(b[i+1]), i+2
			if v >= 0x80 {
				v, next = uvarint(b, i+1)
			}
			switch tag {
			case 1<<3 | wireVarint:
				e.ConfVer = v
			case 2<<3 | wireVarint:
				e.Version = v
			default:
				next = unknown.field(b, i, 2)
			}
			i = next
			continue
		}
		i = unknown.field(b, i, 2)
	}
	if i != len(b) {
		return odd
	}
	return d.unknownOfPart(b, unknown, &e.XXX_unrecognized)
}

// bytesTo keeps b in a field.
func (d *Decoder) bytesTo(b []byte, to *[]byte) outcome {
	if *to = d.bytes(b); *to == nil {
		return full
	}
	return done
}

// unknownTo keeps the unknown fields of a message, if there are any.
func (d *Decoder) unknownTo(b []byte, unknown span, to *[]byte) outcome {
	if unknown.end == 0 {
		return done
	}
	return d.bytesTo(b[unknown.start:unknown.end:unknown.end], to)
}

// unknownOfPart is unknownTo for a peer or an epoch. Those of a large message lie
// in one allocation, in which none may hold another's bytes alive: that is left
// to the generated code.
func (d *Decoder) unknownOfPart(b []byte, unknown span, to *[]byte) outcome {
	if unknown.end == 0 {
		return done
	}
	if d.mode == modePlain {
		return odd
	}
	return d.unknownTo(b, unknown, to)
}
