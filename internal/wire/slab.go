package wire

import (
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// node is one message with the parts that nearly every message has.
type node struct {
	rm       raft_serverpb.RaftMessage
	from, to metapb.Peer
	epoch    metapb.RegionEpoch
	msg      eraftpb.Message
}

func (n *node) target() target {
	return target{rm: &n.rm, from: &n.from, to: &n.to, epoch: &n.epoch, msg: &n.msg}
}

// bytes returns b as a message may hold it: itself when lent, else a copy. The
// result is never nil, even if empty, except when the slabs are used up.
func (d *Decoder) bytes(b []byte) []byte {
	switch {
	case d.mode == modeLent:
		return b
	case len(b) == 0:
		return []byte{}
	case d.mode == modeShared:
		return d.shared.bytes(b)
	case d.mode == modeGroup:
		return d.group.bytes(b)
	case d.mode == modeGiven:
		return d.given.bytes(b)
	}
	return clone(b)
}

// clone copies b. Written like this, Go doesn't clear the memory first.
func clone(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c
}

// newEntry returns a zero entry, or nil when the slabs are used up.
func (d *Decoder) newEntry() *eraftpb.Entry {
	switch d.mode {
	case modeLent:
		return d.lease.entry(d.poison)
	case modeGiven:
		return d.given.entry()
	}
	return d.shared.entry()
}

// growEntries returns list with room for one more entry at least, or nil when
// the slabs are used up. rest is the message from the next entry on.
func (d *Decoder) growEntries(list []*eraftpb.Entry, rest []byte) []*eraftpb.Entry {
	switch d.mode {
	case modeLent:
		return d.lease.growList(list)
	case modeShared:
		return d.shared.growList(list)
	case modeGiven:
		return d.given.list(list, rest)
	}
	return append(make([]*eraftpb.Entry, 0, len(list)+countEntries(rest)), list...)
}

// claimEntries takes list, which growEntries made, out of the slab.
func (d *Decoder) claimEntries(list []*eraftpb.Entry) []*eraftpb.Entry {
	n := len(list)
	switch d.mode {
	case modeLent:
		d.lease.ptrAt += n
	case modeShared:
		d.shared.ptrs = d.shared.ptrs[n:]
	}
	return list[:n:n]
}

// entryOfLarge decodes the entry b of a message that is too large to share
// memory with others. Its small entries share a group; a large one has its own
// memory.
func (d *Decoder) entryOfLarge(b, rest []byte) (*eraftpb.Entry, outcome) {
	if len(b) > sharedLimit {
		e := new(eraftpb.Entry)
		return e, d.entryFields(b, e)
	}
	if !d.group.fits(len(b)) {
		d.group = newEntryGroup(len(b), rest)
	}
	d.mode = modeGroup
	e := d.group.entry()
	o := d.entryFields(b, e)
	d.mode = modePlain
	return e, o
}

// countEntries counts the entries in the eraftpb.Message fields b, exactly if
// they are well-formed. It never answers less than one, nor more than b can
// hold.
func countEntries(b []byte) int {
	n, i := 0, 0
	for i < len(b) {
		if b[i] == entryTag {
			_, i = delimited(b, i+1)
			n++
			continue
		}
		if i = skipUnknown(b, i, 0); i < 0 {
			break
		}
	}
	return max(n, 1)
}
