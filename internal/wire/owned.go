package wire

import "github.com/pingcap/kvproto/pkg/eraftpb"

// The slabs of owned mode. The garbage collector keeps a whole slab alive while
// one pointer leads into it, and with it everything to which anything in the
// slab leads. So slabs are bound together in generations that refer to nothing
// outside themselves, and it is the generation whose size is bounded.

// Slab sizes are chosen to fill a size class of Go's allocator, whose 8 bytes
// of header come on top for memory that holds pointers. The allocator carves a
// class out of spans, and getting a span is dear: of 8 KiB it has one in each
// span, of the classes here four and more. And they are chosen so that the slabs
// of a generation run out at about the same time, whose rests are lost with it.
const (
	generationSize = 62 << 10

	nodeSlab      = 13 // of 520 bytes
	nodeSlabSize  = 6784
	entrySlab     = 43 // of 112 bytes
	entrySlabSize = 4864
	ptrSlab       = 127 // of 8 bytes
	ptrSlabSize   = 1 << 10
	byteSlabSize  = 6 << 10

	// ownBytes is the length from which bytes get an allocation of their own
	// rather than end a slab early.
	ownBytes = 2 << 10
)

// generation is the memory of some messages that live and die together: no
// pointer leads out of it. It holds the unused rest of each kind of slab.
type generation struct {
	left    int // what may still be allocated
	nodes   []node
	entries []eraftpb.Entry
	ptrs    []*eraftpb.Entry
	free    []byte // len 0
}

func newGeneration() generation { return generation{left: generationSize} }

// take answers whether n bytes more may be allocated, and counts them.
func (g *generation) take(n int) bool {
	if n > g.left {
		return false
	}
	g.left -= n
	return true
}

func (g *generation) node() *node {
	if len(g.nodes) == 0 {
		if !g.take(nodeSlabSize) {
			return nil
		}
		g.nodes = make([]node, nodeSlab)
	}
	n := &g.nodes[0]
	g.nodes = g.nodes[1:]
	return n
}

func (g *generation) entry() *eraftpb.Entry {
	if len(g.entries) == 0 {
		if !g.take(entrySlabSize) {
			return nil
		}
		g.entries = make([]eraftpb.Entry, entrySlab)
	}
	e := &g.entries[0]
	g.entries = g.entries[1:]
	return e
}

// growList moves list, which is the front of the rest of the pointer slab, to a
// larger slab.
func (g *generation) growList(list []*eraftpb.Entry) []*eraftpb.Entry {
	if cap(list) == 0 && len(g.ptrs) > 0 {
		return g.ptrs[:0]
	}
	n, size := ptrSlab, ptrSlabSize
	for n < 2*len(list) {
		n, size = 2*n, 2*size
	}
	if !g.take(size) {
		return nil
	}
	g.ptrs = make([]*eraftpb.Entry, n)
	return append(g.ptrs[:0], list...)
}

func (g *generation) bytes(b []byte) []byte {
	n := len(b)
	if n > cap(g.free)-len(g.free) {
		// An allocation of its own may be rounded up by an eighth.
		if own := n + n/8 + 16; n >= ownBytes {
			if !g.take(own) {
				return nil
			}
			return clone(b)
		}
		if !g.take(byteSlabSize) {
			return nil
		}
		g.free = make([]byte, 0, byteSlabSize)
	}
	at := len(g.free)
	g.free = append(g.free, b...)
	return g.free[at:len(g.free):len(g.free)]
}

// The most that a group of entries takes: 16 KiB of structs and 32 of bytes.
const (
	groupEntries = 146
	groupBytes   = 32 << 10
)

// entryGroup is the memory of a run of entries of one large message, so that
// one of them, kept alone, doesn't keep the message. It is filled up and left.
type entryGroup struct {
	entries []eraftpb.Entry
	free    []byte
}

// newEntryGroup returns a group for the entries that are in rest, or the first
// of them, whose body has n bytes.
func newEntryGroup(n int, rest []byte) entryGroup {
	count, size := 0, 0
	for i := 0; i < len(rest) && count < groupEntries && rest[i] == entryTag; count++ {
		body, end := delimited(rest, i+1)
		if end == overrun || len(body) > sharedLimit || size+len(body) > groupBytes {
			break
		}
		size += len(body)
		i = end
	}
	return entryGroup{
		entries: make([]eraftpb.Entry, max(count, 1)),
		free:    make([]byte, 0, max(size, n)),
	}
}

// fits answers whether the group has room for an entry whose body has n bytes:
// the bytes that an entry holds are never more than those of its body.
func (g *entryGroup) fits(n int) bool {
	return len(g.entries) > 0 && n <= cap(g.free)-len(g.free)
}

func (g *entryGroup) entry() *eraftpb.Entry {
	e := &g.entries[0]
	g.entries = g.entries[1:]
	return e
}

func (g *entryGroup) bytes(b []byte) []byte {
	at := len(g.free)
	g.free = append(g.free, b...)
	return g.free[at:len(g.free):len(g.free)]
}
