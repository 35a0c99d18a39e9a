// Package groups runs real Raft groups over a transport: three stores in one process,
// each with a replica of every group of go.etcd.io/raft, and clients that write to
// each group's leader and wait. It tells what a transport is worth to Raft: how many
// writes are committed, how long they take, and whether leaders stay.
package groups

import (
	"context"
	"net"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// Start makes a store's transport, which may give the host messages from now on.
type Start func(store uint64, host Host) (Transport, error)

// Transport carries the messages of one store to the others.
type Transport interface {
	// Address is where the others reach the store.
	Address() string
	// Connect tells of all stores' addresses, by id less one, of which the own one is
	// "". Connections are made by dial.
	Connect(addresses []string, dial Dial) error
	// NewSender returns one worker's handle. Connect has been called.
	NewSender() Sender
	// Disconnect ends what Connect began, and returns what broke meanwhile.
	Disconnect() error
	// Close ends the rest, when all stores are disconnected.
	Close() error
}

// Dial makes a connection to an address.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Sender is one worker's handle on a Transport.
type Sender interface {
	// Send sends messages in order and tells the node of those for which there is no
	// room. It returns how many these are.
	Send(group etcdraft.Group, node etcdraft.Node, messages []*raftpb.Message) (refused int)
	// Flush lets go what was sent.
	Flush()
	// Close lets go of everything.
	Close()
}

// Host is a store to its transport. None of its methods blocks.
type Host interface {
	// Step takes a message, which is the host's from then on.
	Step(region uint64, message *raftpb.Message)
	// ReportUnreachable says that a message to a peer was dropped.
	ReportUnreachable(region, peer uint64)
	// StoreUnreachable says that messages to a store may have been lost.
	StoreUnreachable(store uint64)
}

// Plan is what is run.
type Plan struct {
	Groups  int
	Size    int // bytes of a write
	Writers int // of each group; each has one write under way
	// LinkRate is what fits through the link from one store to another, in bytes a
	// second, all connections together. 0 is without a limit.
	LinkRate int
}

// Outcome is what happened in some time.
type Outcome struct {
	Took time.Duration
	CPU  time.Duration // of the process: three stores, their Raft, and clients
	// Writes were committed and acknowledged, P50 and P99 later than they were proposed.
	// Of Orphans nobody knows, for the store that was asked doesn't lead any more.
	Writes, Orphans uint64
	P50, P99        time.Duration
	// Refused are messages for which the transport had no room, and Dropped those for
	// which a store's own mailbox had none.
	Refused, Dropped uint64
	Elected          uint64 // leaders
}

const (
	stores        = 3
	workers       = 2 // per store
	tickInterval  = 100 * time.Millisecond
	electionTick  = 10
	heartbeatTick = 2
	mailboxSize   = 1 << 16 // messages that wait for a worker
	maxPerMessage = 1 << 20 // bytes of entries
	maxInflight   = 256     // appends to a peer that aren't acknowledged
)

func peerID(region, store uint64) uint64 { return region*8 + store }
