package snapshot

import (
	"errors"
	"fmt"
)

// What can go wrong with a transfer. Test for them with errors.Is; errors.As to
// *TransferError tells which store, region and peer. A gRPC status that came from
// the peer is wrapped besides.
var (
	// ErrInvalid means that a message is no snapshot message, or one that can't be sent.
	ErrInvalid = errors.New("invalid snapshot message")
	// ErrBusy means that as many snapshots as may be are under way, here or at the receiver.
	ErrBusy = errors.New("too many snapshots under way")
	// ErrStalled means that no bytes moved for StallTimeout.
	ErrStalled = errors.New("no bytes moved")
	// ErrTooSlow means that a transfer took longer than its size allows.
	ErrTooSlow = errors.New("the transfer takes too long")
	// ErrCancelled means that Cancel was called for the region.
	ErrCancelled = errors.New("cancelled")
	// ErrSize means that the data is not as long as was announced.
	ErrSize = errors.New("wrong size")
	// ErrChecksum means that data was damaged on its way.
	ErrChecksum = errors.New("wrong checksum")
	// ErrWrongStore means that another store than the message's answered.
	ErrWrongStore = errors.New("wrong store")
	// ErrClosed means that the Sender or the Receiver is closed.
	ErrClosed = errors.New("closed")
)

// TransferError says which transfer failed, and why.
type TransferError struct {
	// Direction says on which side.
	Direction Direction
	// StoreID is the store at the other end, RegionID and PeerID the receiving peer.
	StoreID, RegionID, PeerID uint64
	// Err is the reason.
	Err error
}

// Error implements error.
func (e *TransferError) Error() string {
	way := "to"
	if e.Direction == Receiving {
		way = "from"
	}
	return fmt.Sprintf("snapshot: %s store %d, region %d, peer %d: %v", way, e.StoreID, e.RegionID, e.PeerID, e.Err)
}

// Unwrap returns the reason.
func (e *TransferError) Unwrap() error { return e.Err }

// OptionError says which field of an options struct is wrong, and why.
type OptionError struct {
	// Field is the name of the Go field, for example "Source".
	Field string
	// Problem says what is wrong with its value.
	Problem string
}

// Error implements error.
func (e *OptionError) Error() string {
	return fmt.Sprintf("snapshot: option %s: %s", e.Field, e.Problem)
}
