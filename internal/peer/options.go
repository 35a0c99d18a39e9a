// Package peer is what a Client knows of the other stores: for each of them its
// address, whether it is a tombstone, up or down, and its connections.
//
// The life of one connection reads top to bottom in connection.go; what is a
// fact about the store, and not about one of its connections, is in store.go,
// resolve.go and reachability.go; Set holds the stores.
package peer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// ErrDisconnected means that a store takes no messages: it is a tombstone, or
// was removed, or the Set is closed.
var ErrDisconnected = errors.New("peer: disconnected")

// Resolver finds addresses. Its errors are told apart by Options.IsTombstone
// and Options.IsNotFound.
type Resolver interface {
	Resolve(ctx context.Context, storeID uint64, stale string) (string, error)
}

// SnapshotSender carries snapshots.
type SnapshotSender interface {
	SendSnapshot(ctx context.Context, address string, message *raft_serverpb.RaftMessage) error
}

// Metrics counts what the ledgers don't.
type Metrics interface {
	// Failed counts n messages, or events, that failed for a reason.
	Failed(reason string, storeID uint64, n int)
	// Resolved counts a look-up: success, failed, not_found or tombstone.
	Resolved(outcome string)
	// Sent observes a batch that is handed to a stream.
	Sent(batch queue.Batch)
}

// Options configures a Set and all its stores. All fields are mandatory, but
// for SnapshotSender, BeforeResolve and ReferTo.
type Options struct {
	StoreID        uint64 // the own store
	Incarnation    uint64 // this life of the own store
	Resolver       Resolver
	IsTombstone    func(error) bool
	IsNotFound     func(error) bool
	BeforeResolve  func(storeID uint64) error
	SnapshotSender SnapshotSender
	MaxSnapshots   int
	Reporter       *report.Reporter
	Metrics        Metrics
	Logger         *slog.Logger

	Connections   int // of the data lane
	QueueMessages int // per store, divided among its data connections
	QueueBytes    int // per data connection; the control connection has them beyond its own minimum
	QueueMinimum  int // per connection, what it may hold whatever the Budget says
	QueueShallow  int // per data connection, what is enough for one that was full
	// StoreBytes is for all data connections of a store together, and what the
	// control connection has above its own minimum. LargestMessage fits in any case.
	StoreBytes, LargestMessage int
	ReferTo                    int // payloads of at least so many bytes are not copied; 0 copies all
	Budget                     *queue.Budget
	Pool                       *queue.Pool
	Limits                     queue.Limits // until SetLimits

	Transport      Transport
	BackoffStep    time.Duration
	StallTimeout   time.Duration
	ResolveTimeout time.Duration
}
