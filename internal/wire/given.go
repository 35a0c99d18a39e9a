package wire

import (
	"unsafe"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// A large body that lies in memory of its own needn't be copied again: the
// message may keep it. But then one kept pointer into that memory keeps all of
// it, which may be 64 KiB more than what the pointer leads to by itself.

const (
	// givenLimit is the cost, in bytes of the body and of its entries' structs,
	// up to which all parts of a message may keep each other alive.
	givenLimit = 48 << 10
	// givenBeyond is how much of a larger body may be something else than the
	// data of its one entry. What isn't that data may be there twice, for the
	// message has a copy of it, and Go rounds up.
	givenBeyond = 24 << 10
	// givenTogether bounds the cost of messages whose structs were allocated at
	// once: one that is kept keeps them all. The last givenRest is for entries
	// behind the first, which are counted only when they have been decoded.
	givenTogether = 62 << 10
	givenRest     = 4 << 10
	// headSize is how much of a body worthGiving looks at.
	headSize = 256

	entryCost = int(unsafe.Sizeof(eraftpb.Entry{}) + unsafe.Sizeof((*eraftpb.Entry)(nil)))
	wholeCost = int(unsafe.Sizeof(whole{}))
)

// worthGiving says whether a body of that size, which begins with head, is
// likely to be kept by the message that is made of it: it is large, and it is
// either not very large, or has one entry and little else. A mistake costs a
// copy and nothing else.
func worthGiving(head []byte, size int) bool {
	const raftMessageTag = 4<<3 | wireBytes
	if size <= givenLimit {
		return size > sharedLimit
	}
	for i := 0; i < len(head); {
		switch tag := head[i]; {
		case tag == raftMessageTag: // look into it
			_, i = uvarint(head, i+1)
		case tag == entryTag:
			n, end := uvarint(head, i+1)
			return end != overrun && n <= uint64(size) && size-int(n) <= givenBeyond
		case tag&7 == wireVarint:
			_, i = uvarint(head, i+1)
		case tag&7 == wireBytes:
			_, i = delimited(head, i+1)
		default:
			return false
		}
	}
	return false
}

// whole is a message with one entry, in one allocation.
type whole struct {
	node
	entry eraftpb.Entry
	list  [1]*eraftpb.Entry
}

// given is a body that was given to the Decoder, while it is decoded.
type given struct {
	body    []byte
	whole   *whole
	entries []eraftpb.Entry // not used yet
}

// wholes are messages that were allocated at once.
type wholes struct {
	unused []whole
	cost   int // of the used ones: they, their bodies, and their entries
}

// next returns one for a message of a body of n bytes, givenLimit at most.
func (w *wholes) next(n int) *whole {
	cost := wholeCost + n + n/8 // the allocator rounds up
	if len(w.unused) == 0 || w.cost+cost > givenTogether-givenRest {
		*w = wholes{unused: make([]whole, (givenTogether-givenRest)/cost)}
	}
	w.cost += cost
	first := &w.unused[0]
	w.unused = w.unused[1:]
	return first
}

// charge answers whether the one that was used last may have that many entries.
func (w *wholes) charge(entries int) bool {
	if entries > 1 {
		w.cost += entries * entryCost
	}
	return w.cost <= givenTogether
}

// DecodeGiven is Decode of a body in memory of its own, which the caller gives
// away: it never looks at it again, nor changes it. An owned result may then
// lie in that memory, which spares a copy of large messages; what is said of
// results at Decoder holds all the same.
func (d *Decoder) DecodeGiven(body []byte) (*raft_serverpb.RaftMessage, error) {
	if d.lent || len(body) <= sharedLimit {
		return d.Decode(body)
	}
	if m := d.decodeGiven(body); m != nil {
		return m, nil
	}
	return d.Decode(body)
}

// decodeGiven returns nil if the message has to be decoded in another way.
func (d *Decoder) decodeGiven(body []byte) *raft_serverpb.RaftMessage {
	together := len(body) <= givenLimit
	var w *whole
	if together {
		w = d.wholes.next(len(body))
	} else {
		w = new(whole)
	}
	d.mode, d.given = modeGiven, given{body: body, whole: w}
	defer func() { d.given = given{} }()
	m, t := &w.rm, w.target()
	if together {
		if d.raftMessage(body, t) != done || !d.wholes.charge(len(m.GetMessage().GetEntries())) {
			*w = whole{}
			return nil
		}
		return m
	}
	// Kept alone, a peer must not keep the message.
	peers := new(struct {
		from, to metapb.Peer
		epoch    metapb.RegionEpoch
	})
	t.from, t.to, t.epoch = &peers.from, &peers.to, &peers.epoch
	if d.raftMessage(body, t) != done {
		return nil
	}
	// Everything in whole leads to the entry's data, or is kept by it: that is
	// right if there is little besides.
	entries := m.GetMessage().GetEntries()
	if len(entries) != 1 || !d.given.mayKeep(entries[0].Data) {
		return nil
	}
	return m
}

// mayKeep says whether b, a part of the body, may keep the body alive.
func (g *given) mayKeep(b []byte) bool {
	return len(g.body) <= givenLimit || len(g.body)-len(b) <= givenBeyond
}

// bytes returns b as a message may hold it.
func (g *given) bytes(b []byte) []byte {
	if g.mayKeep(b) {
		return b
	}
	return clone(b)
}

// list returns room for all the entries of the message, the first of which rest
// begins with, or nil if they cost too much. It has no room for more than were
// counted: before is empty, unless the message is malformed.
func (g *given) list(before []*eraftpb.Entry, rest []byte) []*eraftpb.Entry {
	n := countEntries(rest)
	switch {
	case len(before) > 0 || n > 1 && len(g.body)+n*entryCost > givenLimit:
		return nil
	case n == 1:
		return g.whole.list[:0]
	}
	g.entries = make([]eraftpb.Entry, n)
	return make([]*eraftpb.Entry, 0, n)
}

// entry returns a zero entry, for which list has made room.
func (g *given) entry() *eraftpb.Entry {
	if len(g.entries) == 0 {
		return &g.whole.entry
	}
	e := &g.entries[0]
	g.entries = g.entries[1:]
	return e
}
