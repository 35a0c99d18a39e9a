package loop

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// mailboxSize bounds the messages that wait for a worker.
const mailboxSize = 1 << 16

type itemKind uint8

const (
	itemMessage     itemKind = iota
	itemTick                 // the clock of all stores moved
	itemUnreachable          // a message to the peer was dropped
	itemStoreDown            // messages to the store may be lost
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
	if b.closed {
		return true
	}
	if it.kind == itemMessage && len(b.items) >= mailboxSize {
		return false
	}
	b.items = append(b.items, it)
	if len(b.items) == 1 {
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns all items in exchange for an empty slice.
func (b *mailbox) take(spare []item) []item {
	b.mu.Lock()
	defer b.mu.Unlock()
	items := b.items
	b.items = spare
	return items
}

func (b *mailbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *mailbox) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}
