package raftmux

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/wire"
)

// enter lists a stream and returns the one that it takes over from. A stream that is
// itself older than a living one, or than one of the same life of its Client that has
// ended lately, is refused: the network may deliver them out of order. If a store's
// clock goes back while it restarts, and its old streams were never closed because
// the machine died, its new ones are refused until keepalive has found the old dead.
func (s *Server) enter(in *inbound) (older *inbound, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, grpcstream.ShuttingDown()
	}
	if in.known {
		older = s.living[in.key]
		last, remembered := s.ended[in.key]
		switch {
		case older != nil && !in.id.After(older.id):
			in.twin = in.id.Incarnation != older.id.Incarnation
			return nil, notNewer(in, older.id)
		case remembered && last.bars(in.id):
			return nil, notNewer(in, last.id)
		}
		s.living[in.key] = in
		delete(s.ended, in.key)
		if in.turn = s.turns[in.key]; in.turn == nil {
			in.turn = newTurn()
			s.turns[in.key] = in.turn
		}
		in.turn.streams++
	} else {
		in.turn = newTurn()
	}
	s.streams++
	s.reading[in] = struct{}{} // until ran
	return older, nil
}

func notNewer(in *inbound, other wire.StreamID) error {
	text := ""
	if in.twin {
		text = in.twinText()
	}
	return status.Errorf(codes.Aborted, "raftmux: stream %s of store %d comes too late, it is not newer than stream %s%s",
		in.id, in.key.storeID, other, text)
}

// supersededStatus is the answer to a stream that a newer one has taken over from.
func (in *inbound) supersededStatus() error {
	return status.Error(codes.Aborted, "raftmux: a newer stream of this connection has come"+in.twinText())
}

// twinText says what it may mean that a stream of the same store has come from elsewhere.
func (in *inbound) twinText() string {
	return fmt.Sprintf("; if that goes on, another Client is store %d, too", in.key.storeID)
}

// What is remembered of streams that have ended.
const (
	memoryTime = time.Minute // the network delivers nothing that late
	memorySize = 1024        // streams, for all senders
)

// ending is what is remembered of a stream that has ended.
type ending struct {
	id wire.StreamID
	at time.Time
}

// bars says whether it keeps out a stream of the same connection that comes now.
func (e ending) bars(late wire.StreamID) bool {
	return late.Incarnation == e.id.Incarnation && late.Generation < e.id.Generation && time.Since(e.at) < memoryTime
}

// turn is whose turn it is to hand over, of the streams of one connection.
type turn struct {
	taken   chan struct{} // capacity 1
	streams int           // that may still want it; guarded by Server.mu
}

func newTurn() *turn { return &turn{taken: make(chan struct{}, 1)} }

// dismiss takes a stream off the list. Its id is remembered for a while.
func (s *Server) dismiss(in *inbound) {
	in.over.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
	if in.known && s.living[in.key] == in {
		delete(s.living, in.key)
		s.remember(in.key, ending{in.id, time.Now()})
	}
}

// remember forgets the stream that ended first if there are too many. The caller
// holds s.mu.
func (s *Server) remember(key senderKey, e ending) {
	s.ended[key] = e
	if len(s.ended) <= memorySize {
		return
	}
	first, earliest := key, e.at
	for other, ended := range s.ended {
		if ended.at.Before(earliest) {
			first, earliest = other, ended.at
		}
	}
	delete(s.ended, first)
}
