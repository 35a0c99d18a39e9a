package wire

import (
	"fmt"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/mutant"
)

// DecoderOptions chooses who owns what a Decoder yields.
type DecoderOptions struct {
	// Lent makes the Decoder lend its results instead of giving them away:
	// they are valid until Reset, their byte fields are slices of the decoded
	// body, and their structs are used again after Reset.
	Lent bool
}

// Decoder decodes raft_serverpb.RaftMessage bodies. For every body it answers
// what the generated RaftMessage.Unmarshal would make of it: the same value,
// unrecognised fields included, or the same error. It isn't for concurrent use;
// have one per stream.
//
// Owned (the default): a result is wholly the receiver's, for ever. It shares
// no byte with the body, save one that was given away (DecodeGiven), and its
// memory is never used again. Results are cut
// from slabs, but in such a way that one pointer into a result, kept alone,
// keeps no more than 64 KiB alive beyond what it leads to by itself.
//
// Lent: see DecoderOptions. Nothing of a result, neither struct nor slice, may
// be touched after Reset, nor after the body's memory was given back. In tests
// Reset overwrites all that was lent.
type Decoder struct {
	lent bool
	mode mode

	lease  lease      // lent mode's slabs
	shared generation // owned mode's slabs, for small messages
	group  entryGroup // owned mode's slabs, for the entries of one large message
	given  given      // owned mode's, for a large message that keeps its body
	wholes wholes     // owned mode's, for the structs of such messages

	poison   bool                         // Reset overwrites what it takes back
	fallback []*raft_serverpb.RaftMessage // lent, made by generated code; kept only to be poisoned
}

// mode is where memory comes from at the moment.
type mode uint8

const (
	modeLent   mode = iota // bytes alias the body, structs from the lease
	modeShared             // from the shared generation
	modeGroup              // from the group of entries
	modePlain              // from Go, each on its own
	modeGiven              // the body's own, as far as it may be kept
)

// sharedLimit is the length of a body up to which a message shares slabs with
// others. Larger ones have memory of their own.
const sharedLimit = 8 << 10

// NewDecoder returns a Decoder. It holds no memory until it is used; then, in
// owned mode, up to 64 KiB, and in lent mode up to half a MiB across Resets.
func NewDecoder(o DecoderOptions) *Decoder {
	if mutant.Active == mutant.C22 { // what the host should own is lent
		o.Lent = true
	}
	return &Decoder{lent: o.Lent, poison: o.Lent && Poisoning()}
}

// outcome is how a fast path ended.
type outcome uint8

const (
	done outcome = iota
	odd          // malformed, or too rare to be worth code: the generated code decides
	full         // the slabs are used up; try again with fresh ones
)

// target is where the parts of one message go.
type target struct {
	rm       *raft_serverpb.RaftMessage
	from, to *metapb.Peer
	epoch    *metapb.RegionEpoch
	msg      *eraftpb.Message
}

// Decode decodes one message. See Decoder for who owns the result. The body
// isn't changed; in owned mode it may be used again at once.
func (d *Decoder) Decode(body []byte) (*raft_serverpb.RaftMessage, error) {
	var m *raft_serverpb.RaftMessage
	switch {
	case d.lent:
		m = d.decodeLent(body)
	case len(body) <= sharedLimit:
		m = d.decodeShared(body)
	default:
		m = d.decodeLarge(body)
	}
	if m != nil {
		return m, nil
	}
	return d.decodeGenerated(body)
}

func (d *Decoder) decodeLent(body []byte) *raft_serverpb.RaftMessage {
	d.mode = modeLent
	n := d.lease.node(d.poison)
	if d.raftMessage(body, n.target()) != done {
		d.lease.giveBack(n)
		return nil
	}
	return &n.rm
}

// decodeShared decodes a message into the current generation, or into a new
// one if it doesn't fit any more, or in memory of its own if it wouldn't fit
// into any. It returns nil if the generated code is to do it.
func (d *Decoder) decodeShared(body []byte) *raft_serverpb.RaftMessage {
	d.mode = modeShared
	for range 2 {
		nodes := d.shared.nodes
		n := d.shared.node()
		if n != nil {
			switch d.raftMessage(body, n.target()) {
			case done:
				return &n.rm
			case odd:
				if len(nodes) > 0 { // else n is the first of a new slab: let it be
					*n = node{}
					d.shared.nodes = nodes
				}
				return nil
			}
		}
		d.shared = newGeneration()
	}
	return d.decodeLarge(body)
}

// decodeLarge decodes a message into memory that no other message shares.
func (d *Decoder) decodeLarge(body []byte) *raft_serverpb.RaftMessage {
	d.mode = modePlain
	// Kept alone, a peer must not keep the message, nor the Raft message the
	// keys: so they are allocated apart.
	peers := new(struct {
		from, to metapb.Peer
		epoch    metapb.RegionEpoch
	})
	t := target{
		rm:   new(raft_serverpb.RaftMessage),
		from: &peers.from, to: &peers.to, epoch: &peers.epoch,
		msg: new(eraftpb.Message),
	}
	o := d.raftMessage(body, t)
	d.group = entryGroup{}
	if o != done {
		return nil
	}
	return t.rm
}

func (d *Decoder) decodeGenerated(body []byte) (*raft_serverpb.RaftMessage, error) {
	m := new(raft_serverpb.RaftMessage)
	if err := m.Unmarshal(body); err != nil {
		return nil, fmt.Errorf("wire: malformed raft message: %w", err)
	}
	if d.poison {
		d.fallback = append(d.fallback, m)
	}
	return m, nil
}

// Reset ends the lease of everything that Decode has lent. In owned mode it
// does nothing: what was given away stays given away.
func (d *Decoder) Reset() {
	if !d.lent {
		return
	}
	d.lease.reset(d.poison)
	for i, m := range d.fallback {
		poisonGenerated(m)
		d.fallback[i] = nil
	}
	d.fallback = d.fallback[:0]
}

func poisonGenerated(m *raft_serverpb.RaftMessage) {
	if m.FromPeer != nil {
		poisonPeer(m.FromPeer)
	}
	if m.ToPeer != nil {
		poisonPeer(m.ToPeer)
	}
	if m.RegionEpoch != nil {
		poisonEpoch(m.RegionEpoch)
	}
	if m.Message != nil {
		for _, e := range m.Message.Entries {
			poisonEntry(e)
		}
		poisonRaft(m.Message)
		m.Message.Snapshot = nil
	}
	m.ExtraMsg, m.MergeTarget = nil, nil
	poisonMessage(m)
}
