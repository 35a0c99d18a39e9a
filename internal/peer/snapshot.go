package peer

import (
	"errors"
	"fmt"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// SendSnapshot accepts an encoded snapshot message, which it owns from here on.
// Every one that it accepts ends in exactly one status. It fails with
// ErrDisconnected once the store has ended.
//
// Each snapshot under way has a goroutine; there are at most MaxSnapshots in
// the Set, and one more ends in a Failure at once.
func (s *Store) SendSnapshot(peer report.Peer, encoded []byte) error {
	if !s.set.enter() {
		return ErrDisconnected
	}
	defer s.set.running.Done()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return ErrDisconnected
	}
	s.users++
	s.snapshots.Accepted++
	s.snapshots.AcceptedBytes += uint64(len(encoded))
	s.snapshots.Queued++
	s.snapshots.QueuedBytes += uint64(len(encoded))
	s.mu.Unlock()

	if s.options.SnapshotSender == nil {
		defer s.leave()
		s.dropSnapshot(len(encoded), queue.ReasonNoSender)
		s.reportSnapshot(peer, errors.New("no snapshot sender"))
		return nil
	}
	select {
	case s.set.slots <- struct{}{}:
	default:
		defer s.leave()
		s.dropSnapshot(len(encoded), queue.ReasonBusy)
		s.reportSnapshot(peer, errors.New("too many snapshots under way"))
		return nil
	}
	s.set.running.Go(func() {
		defer s.leave()
		err := s.carrySnapshot(encoded)
		<-s.set.slots // first: who hears of the end may send the next one
		s.reportSnapshot(peer, err)
	})
	return nil
}

// SendWitness calls push, which accepts the snapshot message of a witness for the
// stream, and reports it as finished if that succeeds. It fails with
// ErrDisconnected after Close.
func (s *Set) SendWitness(peer report.Peer, push func() error) error {
	if !s.enter() {
		return ErrDisconnected
	}
	defer s.running.Done()
	if err := push(); err != nil {
		return err
	}
	s.options.Reporter.Snapshot(report.Outcome{Peer: peer, Status: report.SnapshotFinish})
	return nil
}

// carrySnapshot hands a snapshot to the SnapshotSender and returns how it ended.
func (s *Store) carrySnapshot(encoded []byte) error {
	l, err := s.resolve(s.ctx, 0, time.Now().Add(-s.options.BackoffStep))
	if err != nil {
		reason := queue.ReasonResolve
		switch {
		case s.options.IsTombstone(err):
			reason = queue.ReasonTombstone
			s.bury()
		case s.ctx.Err() != nil:
			reason = s.reason()
		}
		s.dropSnapshot(len(encoded), reason)
		return err
	}
	message := new(raft_serverpb.RaftMessage)
	if err := message.Unmarshal(encoded); err != nil {
		s.dropSnapshot(len(encoded), queue.ReasonMalformed)
		return err
	}
	s.mu.Lock()
	s.snapshots.Queued--
	s.snapshots.QueuedBytes -= uint64(len(encoded))
	s.snapshots.Sent++
	s.snapshots.SentBytes += uint64(len(encoded))
	s.mu.Unlock()
	return s.options.SnapshotSender.SendSnapshot(s.ctx, l.address, message)
}

// dropSnapshot accounts for a snapshot that nobody was handed.
func (s *Store) dropSnapshot(size int, reason queue.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots.Queued--
	s.snapshots.QueuedBytes -= uint64(size)
	s.snapshots.Dropped[reason]++
}

// reportSnapshot tells the host how a snapshot ended; err is nil if it arrived. It
// doesn't wait for the log, so Send may call it. Close must be waiting for the caller.
func (s *Store) reportSnapshot(peer report.Peer, err error) {
	outcome := report.Outcome{Peer: peer, Status: report.SnapshotFinish}
	if err != nil {
		outcome.Status = report.SnapshotFailure
		s.options.Metrics.Failed("snapshot", s.id, 1)
		s.warnApart("snapshot reported as failed", fmt.Errorf("region %d, peer %d: %w", peer.RegionID, peer.PeerID, err), s.address())
	}
	s.options.Reporter.Snapshot(outcome)
}
