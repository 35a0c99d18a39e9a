package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/wire"
)

// Receiver receives snapshots. It is a raftmux.SnapshotReceiver: give it to a
// Server. It is safe for concurrent use.
//
// Each stream has two goroutines, gRPC's and one that reads and writes.
type Receiver struct {
	options   ReceiverOptions
	admission *admission
	transfers transfers
	partials  partials
	metrics   *metrics
	running   sync.WaitGroup
	memory    wire.Pool // of chunks that came in pieces
	seed      maphash.Seed

	mu      sync.Mutex
	closed  bool
	closing chan struct{}
}

// NewReceiver returns a Receiver, or an *OptionError that names a field.
func NewReceiver(options ReceiverOptions) (*Receiver, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	r := &Receiver{
		options:   options,
		admission: newAdmission(options.MaxTransfers, options.ReservationLife),
		closing:   make(chan struct{}),
		seed:      maphash.MakeSeed(),
	}
	r.partials = partials{most: options.MaxPartials, life: options.PartialLife, enter: r.enter, leave: r.leave, log: options.Logger}
	r.metrics = newMetrics(Receiving, r.Transfers)
	if err := r.metrics.register(options.Registerer); err != nil {
		return nil, &OptionError{Field: "Registerer", Problem: err.Error()}
	}
	return r, nil
}

// ReceiveSnapshot serves one stream of Tikv.Snapshot. It implements
// raftmux.SnapshotReceiver.
//
// When it returns early, because the sender has stalled, say, then the stream's
// goroutine ends with the stream, a moment later. Close waits for that.
func (r *Receiver) ReceiveSnapshot(stream grpc.ServerStream) error {
	if !r.enter() {
		return toStatus(ErrClosed)
	}
	defer r.leave()
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	in := &incoming{
		receiver: r, stream: stream, ctx: ctx, cancel: cancel, began: time.Now(),
		memory: wire.Incoming{Pool: &r.memory},
	}
	result := make(chan error, 1)
	r.running.Go(func() { result <- in.run() })

	limit := r.options.StallTimeout
	ticker := time.NewTicker(max(time.Millisecond, min(time.Second, limit/8)))
	defer ticker.Stop()
	for {
		select {
		case err := <-result:
			return toStatus(err)
		case <-ctx.Done():
			return toStatus(context.Cause(ctx))
		case <-r.closing:
			cancel(ErrClosed)
		case <-ticker.C:
			if in.still() > limit {
				cancel(fmt.Errorf("%w for %v", ErrStalled, limit))
			}
		}
	}
}

// enter is called by whatever Close has to wait for.
func (r *Receiver) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Add(1)
	return true
}

func (r *Receiver) leave() { r.running.Done() }

// Cancel ends the transfers of a region under way, discards what is kept of
// broken ones, and returns how many were under way. A host calls it when it
// destroys the region.
func (r *Receiver) Cancel(regionID uint64) int {
	n := r.transfers.cancel(ErrCancelled, func(t *transfer) bool { return t.regionID == regionID })
	r.partials.discard(func(k key) bool { return k.regionID == regionID })
	return n
}

// Transfers returns how far the transfers under way are, the oldest first.
func (r *Receiver) Transfers() []Progress { return r.transfers.list() }

// Close ends all transfers, discards what is kept of broken ones, and waits: for
// the streams' ends, too, so close the Server first. It may be called again.
func (r *Receiver) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.closing)
	}
	r.mu.Unlock()
	r.running.Wait()
	r.partials.discard(func(key) bool { return true })
	r.metrics.unregister(r.options.Registerer)
}

// toStatus gives an error the code by which the sender's end knows it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if own, ok := status.FromError(err); ok {
		return own.Err()
	}
	code := codes.Internal
	for _, known := range []struct {
		err  error
		code codes.Code
	}{
		{ErrBusy, codes.ResourceExhausted},
		{ErrInvalid, codes.InvalidArgument},
		{ErrSize, codes.DataLoss},
		{ErrChecksum, codes.DataLoss},
		{ErrStalled, codes.DeadlineExceeded},
		{ErrClosed, codes.Unavailable},
		{ErrCancelled, codes.Aborted},
		{errSuperseded, codes.Aborted},
		{context.Canceled, codes.Canceled},
	} {
		if errors.Is(err, known.err) {
			code = known.code
			break
		}
	}
	return status.Error(code, err.Error())
}
