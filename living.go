package raftmux

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/wire"
)

// enter lists a stream and returns the one that it takes over from. A stream that is
// itself older than a living one, or than one of the same life of its Client that has
// ended lately, is refused: the network may deliver them out of order. Should the
// clock of a store go back while it restarts, and its machine take the old streams
// along without a word, then those are in its way until keepalive has found them dead.
func (s *Server) enter(in *inbound) (older *inbound, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, grpcstream.ShuttingDown()
	}
	if in.known {
		older = s.living[in.key]
		if older != nil && older.bars(in.id) {
			return nil, status.Errorf(codes.Aborted, "raftmux: stream %s of store %d comes after stream %s",
				in.id, in.key.storeID, older.id)
		}
		if older != nil && !older.left.IsZero() { // there is nothing to take over
			older = nil
		}
		s.living[in.key] = in
	}
	s.streams++
	s.running.Add(1) // for read
	return older, nil
}

// What is remembered of streams that have ended.
const (
	memoryTime = time.Minute // the network delivers nothing that late
	memorySize = 1024        // streams, for all senders
)

// bars says whether a listed stream keeps out one of the same connection that comes
// after it.
func (in *inbound) bars(late wire.StreamID) bool {
	if in.left.IsZero() {
		return !late.After(in.id)
	}
	return late.Incarnation == in.id.Incarnation && late.Generation < in.id.Generation && time.Since(in.left) < memoryTime
}

// dismiss takes a stream off the list, where its id is remembered for a while.
func (s *Server) dismiss(in *inbound) {
	in.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
	if in.known && s.living[in.key] == in {
		s.living[in.key] = &inbound{id: in.id, left: time.Now()}
		s.forget()
	}
}

// forget bounds what is remembered of streams that have ended: one more of them is
// listed than before. The caller holds s.mu.
func (s *Server) forget() {
	if len(s.living) <= memorySize {
		return
	}
	var first senderKey // to end
	var earliest time.Time
	remembered := 0
	for key, in := range s.living {
		if in.left.IsZero() {
			continue
		}
		if remembered++; remembered == 1 || in.left.Before(earliest) {
			first, earliest = key, in.left
		}
	}
	if remembered > memorySize {
		delete(s.living, first)
	}
}
