package groups

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

type itemKind uint8

const (
	itemMessage itemKind = iota
	itemTick
	itemUnreachable // a message to the peer was dropped
	itemStoreDown   // messages to the store may be lost
	itemCampaign
	itemWake // clients begin to write
)

type item struct {
	kind    itemKind
	region  uint64
	id      uint64 // of a peer or a store
	message *raftpb.Message
}

// mailbox is how the world reaches a worker.
type mailbox struct {
	mu     sync.Mutex
	items  []item
	closed bool
	wake   chan struct{} // capacity 1
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

// push reports false when a message found the mailbox full. All else always fits.
func (b *mailbox) push(it item) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it.kind == itemMessage && len(b.items) >= mailboxSize {
		return false
	}
	b.items = append(b.items, it)
	b.nudge()
	return true
}

// take returns all items in exchange for an empty slice.
func (b *mailbox) take(spare []item) (items []item, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items = b.items
	b.items = spare
	return items, b.closed
}

func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.nudge()
}

func (b *mailbox) nudge() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
