package raftmux

import (
	"context"
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

// A Sender keeps nothing of stores that were removed, though it never sends to them
// again.
func TestSenderForgetsRemovedStores(t *testing.T) {
	t.Parallel()
	const first, stores = 2, 100
	client, err := NewClient(ClientOptions{
		StoreID: 1, Resolver: rig.NewResolver(), Router: rig.NewRouter[SnapshotStatus](t),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := client.NewSender()
	for id := uint64(first); id < first+stores; id++ {
		if err := s.Send(rig.Ack(1, id, 2)); err != nil {
			t.Fatal(err)
		}
		client.RemoveStore(id)
	}
	if n := len(s.routes); n > 1 {
		t.Errorf("it keeps %d of the %d stores that were removed", n, stores)
	}
	s.Close()
	if err := client.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
