package etcdraft

import (
	"unsafe"

	"go.etcd.io/raft/v3/raftpb"
)

// Received messages live in slabs that are never used again, because etcd's raft
// keeps what it is given: entries, whole messages, and pointers to single
// fields. What keeps one piece alive keeps the whole slab, and all that the slab
// points to. So slabs come in generations: a generation is bounded, nothing in
// it points out of it, and what is large has memory of its own, where even a
// pointer to a single field of it doesn't keep the rest.

const (
	// generationBytes bounds a generation. A large message has memory of its
	// own, but its small entries may begin in one generation that others share
	// and end in another: twice this, with what the allocator rounds up, must
	// stay below 64 KiB.
	generationBytes = 28 << 10
	// largeBytes is the cost above which a message or an entry is large.
	largeBytes = 8 << 10

	// The most that slabs have. With a header of 8 bytes, which the allocator gives
	// to slabs with pointers, they fill size classes of which it has five and more
	// in what it takes from the heap at once, which is dear. Of 8192 it has one.
	messagesPerSlab = 9728 / messageBytes
	entriesPerSlab  = 4864 / entryBytes
	pointersPerSlab = 512 / pointerBytes
	bytesPerSlab    = 9472

	messageBytes = int(unsafe.Sizeof(messageSlot{}))
	entryBytes   = int(unsafe.Sizeof(entrySlot{}))
	pointerBytes = int(unsafe.Sizeof((*raftpb.Entry)(nil)))
)

// messageSlot is a message with the memory that its fields point to.
type messageSlot struct {
	message raftpb.Message
	scalars messageScalars
}

type messageScalars struct {
	to, from, term, logTerm, index, commit, rejectHint uint64

	kind   raftpb.MessageType
	reject bool
}

// entrySlot is an entry with the memory that its fields point to.
type entrySlot struct {
	entry   raftpb.Entry
	scalars entryScalars
}

type entryScalars struct {
	term, index uint64
	kind        raftpb.EntryType
}

// generation hands out memory. The zero value is one that is used up.
type generation struct {
	left     int // what may still be allocated
	alike    int // how many messages like its first one a slab is for
	messages []messageSlot
	entries  []entrySlot
	pointers []*raftpb.Entry
	bytes    []byte
}

// reserve makes room for what follows in one generation, this one or a fresh
// one. What is reserved costs less than largeBytes.
func (g *generation) reserve(messages, entries, pointers, bytes int) {
	if g.grow(messages, entries, pointers, bytes) {
		return
	}
	*g = generation{left: generationBytes, alike: messagesPerSlab}
	if entries > 0 {
		all := max(1, generationBytes/(messages*messageBytes+entries*entryBytes+pointers*pointerBytes+bytes))
		rounds := (all + messagesPerSlab - 1) / messagesPerSlab
		g.alike = all / rounds
	}
	g.grow(messages, entries, pointers, bytes)
}

// grow allocates the slabs that lack room, if the generation can pay for all.
func (g *generation) grow(messages, entries, pointers, bytes int) bool {
	charge := 0
	if messages = g.lacking(messages, len(g.messages), messagesPerSlab); messages > 0 {
		charge += messages * messageBytes
	}
	if entries = g.lacking(entries, len(g.entries), entriesPerSlab); entries > 0 {
		charge += entries * entryBytes
	}
	if pointers = g.lacking(pointers, len(g.pointers), pointersPerSlab); pointers > 0 {
		charge += pointers * pointerBytes
	}
	if bytes = g.lacking(bytes, len(g.bytes), bytesPerSlab); bytes > 0 {
		charge += bytes
	}
	if charge > g.left {
		return false
	}
	g.left -= charge
	if messages > 0 {
		g.messages = make([]messageSlot, messages)
	}
	if entries > 0 {
		g.entries = make([]entrySlot, entries)
	}
	if pointers > 0 {
		g.pointers = make([]*raftpb.Entry, pointers)
	}
	if bytes > 0 {
		g.bytes = make([]byte, bytes)
	}
	return true
}

// lacking returns the length of the slab to allocate, 0 if there is room. The
// slabs of a generation are for the same number of messages, so that they run out
// together: what is left over is lost with the generation.
func (g *generation) lacking(need, room, slab int) int {
	if need <= room {
		return 0
	}
	return need * max(1, min(slab/need, g.alike))
}

// The following hand out what was reserved.

func (g *generation) message() (*raftpb.Message, *messageScalars) {
	slot := &g.messages[0]
	g.messages = g.messages[1:]
	return &slot.message, &slot.scalars
}

func (g *generation) entry() (*raftpb.Entry, *entryScalars) {
	slot := &g.entries[0]
	g.entries = g.entries[1:]
	return &slot.entry, &slot.scalars
}

// list returns n pointers that nothing can be appended to.
func (g *generation) list(n int) []*raftpb.Entry {
	list := g.pointers[:n:n]
	g.pointers = g.pointers[n:]
	return list
}

// copy returns a copy that nothing can be appended to.
func (g *generation) copy(value []byte) []byte {
	n := copy(g.bytes, value)
	kept := g.bytes[:n:n]
	g.bytes = g.bytes[n:]
	return kept
}
