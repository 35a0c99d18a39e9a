package wire

import "github.com/pingcap/kvproto/pkg/eraftpb"

// The slabs of lent mode grow in chunks, and keep up to these many across
// Resets: half a MiB in all. What a rare large batch needed goes back to Go.
const (
	nodeChunk   = 32
	entryChunk  = 64
	ptrChunk    = 64
	keepNodes   = 512
	keepEntries = 2048
	keepPtrs    = 2048
)

// lease is the memory of everything lent since the last reset. What lies in it
// unused is zero, unless it is poisoned.
type lease struct {
	nodes   [][]node // chunks, so that none moves
	nodeAt  int
	entries [][]eraftpb.Entry
	entryAt int
	ptrs    []*eraftpb.Entry // the newest chunk; older ones are not used again
	ptrAt   int
}

// node returns a zero node.
func (l *lease) node(poisoned bool) *node {
	chunk, i := l.nodeAt/nodeChunk, l.nodeAt%nodeChunk
	if chunk == len(l.nodes) {
		l.nodes = append(l.nodes, make([]node, nodeChunk))
	}
	l.nodeAt++
	n := &l.nodes[chunk][i]
	if poisoned {
		*n = node{}
	}
	return n
}

// giveBack returns n, which was the last to be taken.
func (l *lease) giveBack(n *node) {
	*n = node{}
	l.nodeAt--
	// A list that was begun, not all that is free: a batch may have a large message
	// and a million malformed ones.
	for i := l.ptrAt; i < len(l.ptrs) && l.ptrs[i] != nil; i++ {
		l.ptrs[i] = nil
	}
}

// entry returns a zero entry.
func (l *lease) entry(poisoned bool) *eraftpb.Entry {
	chunk, i := l.entryAt/entryChunk, l.entryAt%entryChunk
	if chunk == len(l.entries) {
		l.entries = append(l.entries, make([]eraftpb.Entry, entryChunk))
	}
	l.entryAt++
	e := &l.entries[chunk][i]
	if poisoned {
		*e = eraftpb.Entry{}
	}
	return e
}

// growList moves list, which is the front of the rest of the pointer chunk, to
// a larger chunk.
func (l *lease) growList(list []*eraftpb.Entry) []*eraftpb.Entry {
	if cap(list) == 0 && l.ptrAt < len(l.ptrs) {
		return l.ptrs[l.ptrAt:l.ptrAt]
	}
	// Twice the chunk that was too small, so that soon one lasts from reset
	// to reset; no more than a few times what list itself has need of.
	n := max(ptrChunk, min(2*len(l.ptrs), keepPtrs), 2*len(list))
	l.ptrs, l.ptrAt = make([]*eraftpb.Entry, n), 0
	return append(l.ptrs[:0], list...)
}

// reset takes everything back.
func (l *lease) reset(poison bool) {
	if poison {
		l.poison()
	} else {
		l.clear()
	}
	l.nodes = keep(l.nodes, keepNodes/nodeChunk)
	l.entries = keep(l.entries, keepEntries/entryChunk)
	if clear(l.ptrs[:l.ptrAt]); len(l.ptrs) > keepPtrs {
		l.ptrs = nil
	}
	l.nodeAt, l.entryAt, l.ptrAt = 0, 0, 0
}

// keep cuts chunks down to n of them.
func keep[T any](chunks [][]T, n int) [][]T {
	if len(chunks) <= n {
		return chunks
	}
	clear(chunks[n:])
	return chunks[:n]
}

func (l *lease) clear() {
	for i, left := 0, l.nodeAt; left > 0; i, left = i+1, left-nodeChunk {
		clear(l.nodes[i][:min(left, nodeChunk)])
	}
	for i, left := 0, l.entryAt; left > 0; i, left = i+1, left-entryChunk {
		clear(l.entries[i][:min(left, entryChunk)])
	}
}

func (l *lease) poison() {
	for i := range l.nodeAt {
		l.nodes[i/nodeChunk][i%nodeChunk].poison()
	}
	for i := range l.entryAt {
		poisonEntry(&l.entries[i/entryChunk][i%entryChunk])
	}
}
