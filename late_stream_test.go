package raftmux

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/internal/wire"
)

// come lets a stream of a connection of store 1 come to a Server, and end if it is
// taken.
func come(t *testing.T, s *Server, connection int, incarnation, generation uint64) (taken bool) {
	t.Helper()
	in := &inbound{
		server: s,
		known:  true,
		key:    senderKey{storeID: 1, lane: "data", index: connection},
		id:     wire.StreamID{Incarnation: incarnation, Lane: "data", Index: connection, Generation: generation},
	}
	older, err := s.enter(in)
	if err != nil {
		if status.Code(err) != codes.Aborted {
			t.Errorf("refused with %v", err)
		}
		return false
	}
	if older != nil {
		t.Error("it takes over from one that has ended")
	}
	s.dismiss(in)
	return true
}

// C5: the id of a stream that has ended keeps older ones out for a minute, those of
// the same life of the Client; and one Server remembers a bounded number of them.
func TestC5EndedStreamIsRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(ServerOptions{StoreID: 2, NewReceiver: HandlerReceiver(deaf{}, false)})
		if err != nil {
			t.Fatal(err)
		}
		if !come(t, s, 0, 77, 2) || come(t, s, 0, 77, 1) {
			t.Error("an older stream is taken, or the first one is not")
		}
		time.Sleep(memoryTime - time.Nanosecond)
		if come(t, s, 0, 77, 1) {
			t.Error("an older stream is taken before the time is over")
		}
		time.Sleep(time.Nanosecond)
		if !come(t, s, 0, 77, 1) {
			t.Error("an older stream is refused for ever")
		}
		if !come(t, s, 0, 76, 1) || !come(t, s, 0, 78, 1) {
			t.Error("another life of the Client is refused, whose clock may have gone back")
		}

		for connection := range 2 * memorySize {
			time.Sleep(time.Nanosecond)
			if !come(t, s, connection, 80, 2) {
				t.Fatalf("connection %d is refused", connection)
			}
		}
		if len(s.ended) != memorySize {
			t.Errorf("%d streams are remembered, not %d", len(s.ended), memorySize)
		}
		if !come(t, s, memorySize-1, 80, 1) || come(t, s, 2*memorySize-1, 80, 1) {
			t.Error("the ones that ended last are not those that are remembered")
		}
	})
}
