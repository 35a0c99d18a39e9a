package raftmux_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C5: a generation that comes only when the newer one has ended is refused, and
// nothing of it delivered. Other connections and other lives of the store are taken.
func TestC5OlderComesAfterTheEndOfTheNewer(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	open := func(incarnation, index, generation int) error {
		stream := generationOf(t, server.addr, incarnation, index, generation)
		_ = stream.Send(rig.Index(rig.Ack(1, there, 2), uint64(generation))) // it may have been refused already
		return stream.Finish(t)
	}
	for _, test := range []struct {
		incarnation, index, generation int
		want                           codes.Code
	}{
		{77, 0, 5, codes.OK},
		{77, 0, 4, codes.Aborted},
		{77, 0, 6, codes.OK},
		{77, 0, 5, codes.Aborted},
		{77, 1, 1, codes.OK},
		{76, 0, 2, codes.OK}, // the store's clock went back while it restarted
		{76, 0, 1, codes.Aborted},
	} {
		if err := open(test.incarnation, test.index, test.generation); status.Code(err) != test.want {
			t.Errorf("life %d, connection %d, generation %d: %v", test.incarnation, test.index, test.generation, err)
		}
	}
	var list []uint64
	for _, m := range box.all() {
		list = append(list, m.Message.Index)
	}
	if want := []uint64{5, 6, 1, 2}; !slices.Equal(list, want) {
		t.Errorf("the host was handed %v, not %v", list, want)
	}
}
