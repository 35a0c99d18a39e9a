package kvstore

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// Bounds of a worker's inbox. Reports have room of their own: they are few, and
// a host that can't hear that its peers are gone makes things worse.
const (
	inboxItems     = 16 << 10
	inboxBytes     = 64 << 20
	inboxForReport = 4 << 10
)

// itemKind says what an item of an inbox is.
type itemKind uint8

const (
	itemMessage itemKind = iota
	itemWrite
	itemRead
	itemChange
	itemTombstone
	itemIsStale
	itemHandOver
	itemUnreachable
	itemSnapshotFailed
	itemSnapshotFinished
	itemStoreUnreachable
	itemRoom
)

// item is one thing for a worker to do. It belongs to the worker once pushed.
type item struct {
	kind    itemKind
	region  uint64
	id      uint64 // the peer or the store of a report, a tombstone or an answer
	header  etcdraft.Header
	message *raftpb.Message
	file    string // with the data of a MsgSnap
	request *request
	room    *roomAnswer
}

func (i *item) bytes() int {
	switch {
	case i.message != nil:
		size := 64
		for _, entry := range i.message.GetEntries() {
			size += entryBytes(entry)
		}
		return size
	case i.request != nil:
		return 64 + len(i.request.key) + len(i.request.value)
	}
	return 0
}

// inbox is what a worker is asked to do. Anyone may push, which never waits; the
// worker takes everything at once.
type inbox struct {
	// wake holds one token while there may be something to take.
	wake chan struct{}

	mu     sync.Mutex
	items  []item
	bytes  int
	closed bool
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// push adds an item, unless the inbox is full or closed.
func (b *inbox) push(it item) bool {
	limit := inboxItems
	if it.kind >= itemUnreachable {
		limit += inboxForReport
	}
	size := it.bytes()
	b.mu.Lock()
	if b.closed || len(b.items) >= limit || (size > 0 && b.bytes+size > inboxBytes && len(b.items) > 0) {
		b.mu.Unlock()
		return false
	}
	b.items = append(b.items, it)
	b.bytes += size
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// take returns what waits; spare, emptied, is used for what comes next.
func (b *inbox) take(spare []item) []item {
	clear(spare)
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items, b.bytes = spare[:0], 0
	return items
}

// close refuses everything from now on and returns what was left.
func (b *inbox) close() []item {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	items := b.items
	b.items, b.bytes = nil, 0
	return items
}

func (b *inbox) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}
