package snapshot_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux/snapshot"
)

// A Sender or a Receiver that is closed again leaves the metrics of the one that
// came after it alone.
func TestClosedAgainLeavesMetrics(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(prometheus.Registerer) (interface{ Close() }, error){
		"sender": func(r prometheus.Registerer) (interface{ Close() }, error) {
			return snapshot.NewSender(snapshot.SenderOptions{StoreID: here, Source: memory{}, Registerer: r})
		},
		"receiver": func(r prometheus.Registerer) (interface{ Close() }, error) {
			return snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: new(sink), Registerer: r})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := prometheus.NewRegistry()
			families := func() int {
				list, err := registry.Gather()
				if err != nil {
					t.Error(err)
				}
				return len(list)
			}
			first, err := start(registry)
			if err != nil {
				t.Fatal(err)
			}
			first.Close()
			if n := families(); n != 0 {
				t.Errorf("closed, it has %d metrics", n)
			}
			second, err := start(registry)
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			want := families()
			first.Close()
			if n := families(); n != want || n == 0 {
				t.Errorf("of %d metrics %d are left", want, n)
			}
		})
	}
}
