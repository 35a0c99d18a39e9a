package queue

import "time"

// Reason says why an accepted message was dropped. Its String is the metric label.
type Reason uint8

// The reasons for which accepted messages are dropped.
const (
	// ReasonResolve: the store's address could not be found.
	ReasonResolve Reason = iota
	// ReasonConnect: no connection could be made.
	ReasonConnect
	// ReasonUnreachable: the stream broke again before it had proved itself.
	ReasonUnreachable
	// ReasonUnimplemented: the peer has neither BatchRaft nor Raft.
	ReasonUnimplemented
	// ReasonVolatile: a message of a kind that doesn't survive a broken stream.
	ReasonVolatile
	// ReasonExpired: the message had waited for longer than allowed.
	ReasonExpired
	// ReasonTombstone: the store is gone for ever.
	ReasonTombstone
	// ReasonRemoved: the host removed the store.
	ReasonRemoved
	// ReasonClosing: the Client is closing.
	ReasonClosing
	// ReasonBusy: too many snapshots are under way.
	ReasonBusy
	// ReasonNoSender: there is nobody to send snapshots.
	ReasonNoSender
	// ReasonMalformed: an adapter encoded a snapshot that can't be decoded.
	ReasonMalformed

	reasons
)

// Reasons lists every reason.
func Reasons() []Reason {
	all := make([]Reason, reasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// String returns the metric label.
func (r Reason) String() string {
	switch r {
	case ReasonResolve:
		return "resolve"
	case ReasonConnect:
		return "connect"
	case ReasonUnreachable:
		return "unreachable"
	case ReasonUnimplemented:
		return "unimplemented"
	case ReasonVolatile:
		return "volatile"
	case ReasonExpired:
		return "expired"
	case ReasonTombstone:
		return "tombstone"
	case ReasonRemoved:
		return "removed"
	case ReasonClosing:
		return "closing"
	case ReasonBusy:
		return "busy"
	case ReasonNoSender:
		return "no_sender"
	case ReasonMalformed:
		return "malformed"
	default:
		return "unknown"
	}
}

// Ledger accounts for every message that was accepted. Whenever it is quiet,
// Accepted = Sent + the sum of Dropped + Queued. The three sides are counted
// apart, none is derived from the others.
type Ledger struct {
	// Accepted counts the messages for which Push returned nil.
	Accepted, AcceptedBytes uint64
	// Sent counts the messages handed to a stream, whatever became of them.
	Sent, SentBytes uint64
	// Queued counts the messages that wait now, staged ones among them.
	Queued, QueuedBytes uint64
	// Oldest is about when the message was accepted that waits for longest; zero
	// if none does.
	Oldest time.Time
	// LentBytes counts the bytes of sent messages that gRPC has not let go of.
	LentBytes uint64
	// Shallow means that the queue was full and has not come to rest; see Options.Shallow.
	Shallow bool
	// Dropped counts the accepted messages that were never sent.
	Dropped [reasons]uint64
	// Batches counts the hand-overs to a stream.
	Batches uint64
	// Wakes counts the wake-ups of the consumer.
	Wakes uint64
}

// DroppedTotal sums Dropped over all reasons.
func (l *Ledger) DroppedTotal() uint64 {
	var total uint64
	for _, n := range l.Dropped {
		total += n
	}
	return total
}
