package raftmux_test

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C17, C19, C24: a thousand connections that carried messages and were cut leave
// no goroutine, no file descriptor, and no byte in a queue or at gRPC.
func TestC17ThousandCuts(t *testing.T) {
	if _, err := os.ReadDir("/proc/self/fd"); err != nil {
		t.Skip("no /proc/self/fd to count file descriptors in: ", err)
	}
	cycles := 1000
	if testing.Short() {
		cycles = 50
	}
	peer := rig.NewPeer(t, rig.PeerOptions{HeadersNow: true})
	proxy := rig.NewProxy(t, peer.Addr())
	router, resolver := rig.NewRouter[raftmux.SnapshotStatus](t), rig.NewResolver()
	resolver.Set(there, proxy.Addr())
	goroutines, files := runtime.NumGoroutine(), openFiles(t)

	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: here, Resolver: resolver, Router: router, BackoffStep: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	sender := client.NewSender()
	for range cycles {
		before := proxy.Stats().Accepted
		received := peer.Count()
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			for region := range uint64(4) {
				_ = sender.Send(rig.Append(1+region, there, 2, 1, 5000)) // or the queue is full
				_ = sender.Send(rig.Heartbeat(1+region, there, 2))
			}
			sender.Flush()
			return peer.Count() > received
		}, "messages arrive")
		proxy.Cut()
		rig.Eventually(t, rig.WaitTimeout, func() bool { return proxy.Stats().Accepted > before }, "a new connection comes")
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		status, _ := client.Store(there)
		for _, c := range status.Connections {
			if c.HeldBytes != 0 || c.Ledger.Queued != 0 || c.Ledger.QueuedBytes != 0 {
				return false
			}
		}
		return true
	}, "no byte is queued or held")

	sender.Close()
	ctx, cancel := context.WithTimeout(context.Background(), rig.WaitTimeout)
	defer cancel()
	if err := client.Close(ctx); err != nil {
		t.Fatal(err)
	}
	router.Closed()
	status, _ := client.Store(there)
	for _, c := range status.Connections {
		if c.HeldBytes != 0 || c.Ledger.Queued != 0 || c.Ledger.Accepted != c.Ledger.Sent+c.Ledger.DroppedTotal() {
			t.Errorf("after Close: %+v", c)
		}
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool { return openFiles(t) <= files }, "no file descriptor is left")
	rig.Eventually(t, rig.WaitTimeout, func() bool { return runtime.NumGoroutine() <= goroutines }, "no goroutine is left")
	t.Logf("%d connections in %d cycles", proxy.Stats().Accepted, cycles)
}

// openFiles counts the file descriptors of the process.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
