package raftmux

import (
	"cmp"
	"slices"
	"time"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
)

// StoreState is what a Client knows of another store.
type StoreState uint8

// The states of a store.
const (
	// StoreConnecting means that the store was not reached yet, and the Router
	// was told nothing.
	StoreConnecting StoreState = iota + 1
	// StoreUp means that a stream to the store is alive.
	StoreUp
	// StoreDown means that none is.
	StoreDown
	// StoreTombstone means that the store is gone for ever.
	StoreTombstone
)

// String implements fmt.Stringer.
func (s StoreState) String() string {
	switch s {
	case StoreConnecting:
		return "connecting"
	case StoreUp:
		return "up"
	case StoreDown:
		return "down"
	case StoreTombstone:
		return "tombstone"
	default:
		return "unknown"
	}
}

// StoreStatus is another store as a Client sees it at one moment.
type StoreStatus struct {
	StoreID uint64
	State   StoreState
	// Paused means that the allowlist leaves the store out.
	Paused bool
	// Address is the last one that the Resolver returned, "" if there is none. It
	// stays while the next look-up is under way, and when that fails.
	Address string
	// Connections are those used so far.
	Connections []ConnectionStatus
	// Snapshots accounts for snapshot messages: those sent were handed to the
	// SnapshotSender.
	Snapshots Ledger
}

// ConnectionStatus is one connection at one moment.
type ConnectionStatus struct {
	// Lane is "data", or "control" for the one that carries heartbeats, votes and
	// the responses to them. Index counts within the lane.
	Lane  string
	Index int
	// Generation counts the streams opened.
	Generation uint64
	// Connected means that a stream is open.
	Connected bool
	// Batches counts the writes to streams; Wakes the wake-ups that caused them.
	Batches, Wakes uint64
	// OldestAge is about how long the oldest message that is queued has waited.
	OldestAge time.Duration
	// HeldBytes are of messages that were sent and that gRPC has not let go of.
	HeldBytes uint64
	// Flooded means that the queue was full not long ago and takes no large messages
	// while it has 3 MiB; see ClientOptions.QueueBytes.
	Flooded bool
	Ledger  Ledger
}

// Ledger accounts for every accepted message: whenever it is quiet, Accepted is
// Sent plus all of Dropped plus Queued. Bytes are those of encoded messages.
type Ledger struct {
	Accepted, AcceptedBytes uint64
	// Sent means handed to a stream, whatever became of it there.
	Sent, SentBytes uint64
	// Queued messages wait, flushed or not.
	Queued, QueuedBytes uint64
	// Dropped counts by reason. Nil if nothing was dropped. The reasons, which are
	// also labels of the metrics, are:
	//
	//   - "resolve": the store's address could not be found.
	//   - "connect": no connection could be made, or no stream be opened on it.
	//   - "unreachable": a stream broke again, before it had proved itself by living
	//     for a while. What waits when one breaks that had is kept for the next.
	//   - "unimplemented": the peer knows neither BatchRaft nor Raft.
	//   - "volatile": the stream broke, and the message is of a kind that must not
	//     come late: votes, heartbeats, responses to them, MsgTimeoutNow,
	//     MsgTransferLeader.
	//   - "expired": it waited for longer than ClientOptions.MaxMessageAge.
	//   - "tombstone": the Resolver answered ErrTombstone.
	//   - "removed": Client.RemoveStore was called.
	//   - "closing": Client.Close was called, and it was not flushed, or could not be
	//     sent in time.
	//   - "busy": of snapshots, ClientOptions.MaxSnapshots were under way.
	//   - "no_sender": of snapshots, there is no ClientOptions.SnapshotSender.
	//   - "malformed": of snapshots, an Encoder wrote what can't be decoded.
	Dropped map[string]uint64
}

// DroppedTotal sums Dropped over all reasons.
func (l Ledger) DroppedTotal() uint64 {
	var total uint64
	for _, n := range l.Dropped {
		total += n
	}
	return total
}

// Store returns what is known of a store, and false if nothing is. A store is known
// from the first message on that was accepted, or refused because of the store's own
// state, since the Client began or the store was removed: after ErrPaused, for
// example, it is known and may have no connections.
func (c *Client) Store(storeID uint64) (StoreStatus, bool) {
	store := c.stores.Lookup(storeID)
	if store == nil {
		return StoreStatus{}, false
	}
	return statusOf(store), true
}

// Stores returns all known stores, by id. Store says which those are.
func (c *Client) Stores() []StoreStatus {
	stores := c.stores.Stores()
	all := make([]StoreStatus, 0, len(stores))
	for _, store := range stores {
		all = append(all, statusOf(store))
	}
	slices.SortFunc(all, func(a, b StoreStatus) int { return cmp.Compare(a.StoreID, b.StoreID) })
	return all
}

func statusOf(store *peer.Store) StoreStatus {
	inner := store.Status()
	status := StoreStatus{
		StoreID:   inner.StoreID,
		State:     stateOf(inner),
		Paused:    inner.Paused,
		Address:   inner.Address,
		Snapshots: ledgerOf(inner.Snapshots),
	}
	for _, c := range inner.Connections {
		status.Connections = append(status.Connections, ConnectionStatus{
			Lane:       c.Lane,
			Index:      c.Index,
			Generation: c.Generation,
			Connected:  c.Open,
			Batches:    c.Ledger.Batches,
			Wakes:      c.Ledger.Wakes,
			HeldBytes:  c.Ledger.LentBytes,
			OldestAge:  age(c.Ledger.Oldest),
			Flooded:    c.Ledger.Shallow,
			Ledger:     ledgerOf(c.Ledger),
		})
	}
	return status
}

func age(since time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

func stateOf(status peer.Status) StoreState {
	switch {
	case status.Tombstone:
		return StoreTombstone
	case status.Up:
		return StoreUp
	case status.Down:
		return StoreDown
	default:
		return StoreConnecting
	}
}

func ledgerOf(inner queue.Ledger) Ledger {
	ledger := Ledger{
		Accepted: inner.Accepted, AcceptedBytes: inner.AcceptedBytes,
		Sent: inner.Sent, SentBytes: inner.SentBytes,
		Queued: inner.Queued, QueuedBytes: inner.QueuedBytes,
	}
	for _, reason := range queue.Reasons() {
		if n := inner.Dropped[reason]; n > 0 {
			if ledger.Dropped == nil {
				ledger.Dropped = make(map[string]uint64)
			}
			ledger.Dropped[reason.String()] = n
		}
	}
	return ledger
}
