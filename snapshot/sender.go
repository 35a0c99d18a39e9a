package snapshot

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/grpcstream"
)

// Sender sends snapshots. It is a raftmux.SnapshotSender: give it to a Client,
// which reports the outcome of each to the Router, or call it yourself. It is safe
// for concurrent use.
//
// Each transfer has a TCP connection of its own, two goroutines besides the
// caller's and gRPC's, and a few MiB of memory, however large its snapshot is.
type Sender struct {
	options   SenderOptions
	transport *grpcstream.Transport
	transfers transfers
	metrics   *metrics
	blocks    blocks
	running   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	busy    int
	resumes map[string]bool // addresses whose receiver can resume
}

// NewSender returns a Sender, or an *OptionError that names a field.
func NewSender(options SenderOptions) (*Sender, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	s := &Sender{
		options: options,
		transport: grpcstream.New(grpcstream.Options{
			StoreID:          options.StoreID,
			ConnectTimeout:   options.ConnectTimeout,
			KeepaliveTime:    options.KeepaliveTime,
			KeepaliveTimeout: options.KeepaliveTimeout,
			WindowSize:       options.WindowSize,
			Dialer:           options.Dialer,
			Credentials:      options.Credentials,
			DialOptions:      options.DialOptions,
		}),
		resumes: make(map[string]bool),
	}
	s.metrics = newMetrics(Sending, s.Transfers)
	if err := s.metrics.register(options.Registerer); err != nil {
		return nil, &OptionError{Field: "Registerer", Problem: err.Error()}
	}
	return s, nil
}

// SendSnapshot sends a snapshot to the store at address. It returns nil once the
// receiver's sink has committed it, and a *TransferError otherwise; then the
// receiver may have it all the same, if only its answer got lost. It implements
// raftmux.SnapshotSender.
func (s *Sender) SendSnapshot(ctx context.Context, address string, message *raft_serverpb.RaftMessage) error {
	d, err := describe(message)
	if err == nil && d.toStoreID == s.options.StoreID {
		err = fmt.Errorf("%w: its to_peer is on this store, %d", ErrInvalid, d.toStoreID)
	}
	if err != nil {
		return d.fail(Sending, err)
	}
	if err := s.enter(); err != nil {
		s.metrics.ended(err, 0)
		return d.fail(Sending, err)
	}
	defer s.leave()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := newTransfer(d, Sending, cancel)
	s.transfers.add(t)
	defer s.transfers.remove(t)
	if s.isClosed() { // Close may not have seen it
		cancel(ErrClosed)
	}

	err = s.carry(ctx, t, address, message)
	if cause := endOf(ctx); err != nil && cause != nil {
		err = cause // and not what gRPC made of it
	}
	s.metrics.ended(err, time.Since(t.started))
	s.log(t, address, message.Size(), err)
	return d.fail(Sending, err)
}

// endOf returns why a context has ended, nil if it hasn't. The receiver knows the
// deadline, too, and may say that it is over before the own timer has.
func endOf(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

func (s *Sender) log(t *transfer, address string, messageBytes int, err error) {
	attributes := []any{
		"store_id", t.toStoreID, "region_id", t.regionID, "to_peer_id", t.peerID, "term", t.term, "index", t.index,
		"address", address, "message_bytes", messageBytes,
		"resumed", t.resumed.Load(), "takes", time.Since(t.started),
	}
	if total := t.total.Load(); total != unknownSize {
		attributes = append(attributes, "bytes", total)
	}
	if err != nil {
		s.options.Logger.Warn("send snapshot failed", append(attributes, "err", err)...)
		return
	}
	s.options.Logger.Info("snapshot sent", attributes...)
}

// enter takes room for a transfer.
func (s *Sender) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.busy >= s.options.MaxTransfers {
		return fmt.Errorf("%w: %d are being sent, the limit is %d", ErrBusy, s.busy, s.options.MaxTransfers)
	}
	s.busy++
	s.running.Add(1)
	return nil
}

func (s *Sender) leave() {
	s.mu.Lock()
	s.busy--
	s.mu.Unlock()
	s.running.Done()
}

func (s *Sender) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Cancel ends the transfers of a region under way, which fail with ErrCancelled,
// and returns how many there are. A host calls it when the region is destroyed or
// the snapshot is outdated.
func (s *Sender) Cancel(regionID uint64) int {
	return s.transfers.cancel(ErrCancelled, func(t *transfer) bool { return t.regionID == regionID })
}

// Transfers returns how far the transfers under way are, the oldest first.
func (s *Sender) Transfers() []Progress { return s.transfers.list() }

// Close ends all transfers, which fail with ErrClosed, and waits for them. It may
// be called again.
func (s *Sender) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.transfers.cancel(ErrClosed, func(*transfer) bool { return true })
	s.running.Wait()
	s.transport.Wait()
	s.metrics.unregister(s.options.Registerer)
}

func (s *Sender) setResumes(address string, can bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if can {
		s.resumes[address] = true
	} else {
		delete(s.resumes, address)
	}
}

func (s *Sender) canResume(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resumes[address]
}
