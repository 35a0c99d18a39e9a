package raftmux

import (
	"errors"
	"fmt"
)

// The reasons for which Send refuses a message. Test for them with errors.Is;
// errors.As to *SendError tells which store, region and peer.
var (
	// ErrFull means that the queue to the store has no room, in messages or in bytes,
	// or had none lately and has not become short enough since; see
	// ClientOptions.QueueBytes.
	ErrFull = errors.New("queue is full")
	// ErrDisconnected means that the store is a tombstone, or was removed in that
	// moment, or that the Client or the Sender is closed; SendError.Detail says which.
	ErrDisconnected = errors.New("disconnected")
	// ErrPaused means that the store is not in the allowlist; see Client.SetAllowlist.
	ErrPaused = errors.New("store is paused")
	// ErrFiltered means that the Filter of ClientOptions took the message. A
	// Receiver's error that wraps it means that a filter took what was received.
	ErrFiltered = errors.New("filtered")
	// ErrTooLarge means that the message exceeds ClientOptions.MaxMessageSize, or
	// MaxSnapshotMessageSize if it is for the SnapshotSender, or has more than
	// 4,000,000 entries, which no Server takes.
	ErrTooLarge = errors.New("message is too large")
	// ErrInvalid means that the message can't be sent by anyone: it has no
	// to_peer, its store is 0 or the sender's own, it carries nothing, or its Raft
	// message is of a type that must stay local.
	ErrInvalid = errors.New("invalid message")
)

// The answers that a Resolver may give in place of an address. Wrap them with
// %w to add a cause. Any other error is a passing failure.
var (
	// ErrTombstone means that the store is gone for ever. It is terminal until
	// Client.ReviveStore.
	ErrTombstone = errors.New("store is a tombstone")
	// ErrStoreNotFound means that nobody knows the store. It is asked for again.
	ErrStoreNotFound = errors.New("store is not found")
)

// SendError is what Send returns for a message that it did not accept.
type SendError struct {
	// StoreID, RegionID and PeerID say where the message was to go.
	StoreID, RegionID, PeerID uint64
	// Reason is one of ErrFull, ErrDisconnected, ErrPaused, ErrFiltered,
	// ErrTooLarge and ErrInvalid.
	Reason error
	// Detail says more, and may be empty.
	Detail string
}

// Error implements error.
func (e *SendError) Error() string {
	text := fmt.Sprintf("raftmux: send to store %d, region %d, peer %d: %v", e.StoreID, e.RegionID, e.PeerID, e.Reason)
	if e.Detail == "" {
		return text
	}
	return text + ": " + e.Detail
}

// Unwrap returns the reason.
func (e *SendError) Unwrap() error { return e.Reason }

// ReasonLabel returns the metric label of the reason for which Send refused a
// message, "" when err is not one of them.
func ReasonLabel(err error) string {
	for _, reason := range []struct {
		err   error
		label string
	}{
		{ErrFull, "full"},
		{ErrDisconnected, "disconnected"},
		{ErrPaused, "paused"},
		{ErrFiltered, "filtered"},
		{ErrTooLarge, "too_large"},
		{ErrInvalid, "invalid"},
	} {
		if errors.Is(err, reason.err) {
			return reason.label
		}
	}
	return ""
}

// OptionError says which field of an options struct is wrong, and why.
type OptionError struct {
	// Field is the name of the Go field, for example "StoreID".
	Field string
	// Problem says what is wrong with its value.
	Problem string
}

// Error implements error.
func (e *OptionError) Error() string {
	return fmt.Sprintf("raftmux: option %s: %s", e.Field, e.Problem)
}
