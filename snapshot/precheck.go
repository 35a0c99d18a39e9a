package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/wire"
)

// PrecheckRequest says which snapshot is going to be built.
type PrecheckRequest struct {
	// RegionID, PeerID and StoreID are those of the peer that will get it.
	RegionID, PeerID, StoreID uint64
	// ForBalance is set if the snapshot only moves a replica that is well where it
	// is. It waits while there are replicas to be recovered.
	ForBalance bool
}

// Admission is a receiver's yes.
type Admission struct {
	// Known is false if the receiver can't be asked (a TiKV, say): then it is a
	// yes that promises nothing.
	Known bool
	// Reserved is for how long room is kept for the snapshot.
	Reserved time.Duration
}

// Precheck asks the store at address whether a snapshot may come, before anyone
// goes to the trouble of building it. No error is a yes; an error that wraps
// ErrBusy is a no, and to be asked again later. If the snapshot isn't sent in the
// end, the reservation expires by itself. After Close it fails with ErrClosed.
func (s *Sender) Precheck(ctx context.Context, address string, request PrecheckRequest) (Admission, error) {
	d := description{key: key{regionID: request.RegionID, peerID: request.PeerID}, toStoreID: request.StoreID}
	admission, err := s.ask(ctx, address, request)
	return admission, d.fail(Sending, err)
}

func (s *Sender) ask(ctx context.Context, address string, request PrecheckRequest) (Admission, error) {
	if request.RegionID == 0 || request.PeerID == 0 || request.StoreID == 0 {
		return Admission{}, fmt.Errorf("%w: a region, a peer and a store must be named", ErrInvalid)
	}
	if s.isClosed() {
		return Admission{}, ErrClosed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.options.ConnectTimeout,
		fmt.Errorf("no answer within %v", s.options.ConnectTimeout))
	defer cancel()
	client, closeAll, err := s.transport.Dial(ctx, address)
	if err != nil {
		return Admission{}, fmt.Errorf("connect to %s: %w", address, err)
	}
	defer closeAll()
	stream, err := s.open(ctx, cancel, client, wire.SnapshotPrecheckKey, wire.SnapshotPrecheck(request).String())
	if err != nil {
		return Admission{}, err
	}
	if err := stream.CloseSend(); err != nil {
		return Admission{}, err
	}
	answer := stream.RecvMsg(new(raft_serverpb.Done))
	if ctx.Err() != nil {
		return Admission{}, context.Cause(ctx)
	}
	header, err := stream.Header()
	if err != nil {
		header = nil
	}
	if texts := header.Get(wire.SnapshotReservedKey); len(texts) > 0 && answer == nil {
		ms, err := strconv.ParseUint(texts[0], 10, 32)
		if err != nil {
			return Admission{}, fmt.Errorf("%s %q is not a number", wire.SnapshotReservedKey, texts[0])
		}
		s.setResumes(address, true)
		return Admission{Known: true, Reserved: time.Duration(ms) * time.Millisecond}, nil
	}
	switch explained := explain(answer); {
	case answer == nil || errors.Is(answer, io.EOF):
		return Admission{}, nil
	case errors.Is(explained, ErrBusy), errors.Is(explained, ErrWrongStore),
		status.Code(answer) == codes.Unimplemented, status.Code(answer) == codes.Unavailable,
		// Whoever looks at streams before the receiver does would refuse the snapshot, too.
		status.Code(answer) == codes.FailedPrecondition,
		status.Code(answer) == codes.PermissionDenied, status.Code(answer) == codes.Unauthenticated:
		return Admission{}, explained
	}
	// A plain peer complains of a stream without a message, each in its own words.
	return Admission{}, nil
}

// answer is the receiver's part.
func (r *Receiver) answerPrecheck(in *incoming, text string) error {
	request, err := wire.ParseSnapshotPrecheck(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if request.StoreID != r.options.StoreID {
		return wire.WrongStore(request.StoreID, r.options.StoreID).Err()
	}
	who := recipient{request.RegionID, request.PeerID}
	if err := r.admission.reserve(who, request.ForBalance, time.Now()); err != nil {
		return err
	}
	if err := in.sendHeader(wire.SnapshotReservedKey, strconv.FormatInt(r.options.ReservationLife.Milliseconds(), 10)); err != nil {
		return err
	}
	return in.stream.SendMsg(&raft_serverpb.Done{})
}
