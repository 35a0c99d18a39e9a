package snapshot_test

import (
	"context"
	"testing"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

type events = rig.Events[raftmux.SnapshotStatus]

// leader is a store that sends snapshots by a Client, and is told of their ends.
type leader struct {
	t      testing.TB
	sender *snapshot.Sender
	router *rig.Router[raftmux.SnapshotStatus]
	client *raftmux.Client
	shared *raftmux.SharedSender
	sent   map[uint64]int
}

// newLeader starts one, which finds store 2 at address. It closes with the test.
func newLeader(t testing.TB, address string, source snapshot.Source, change ...func(*snapshot.SenderOptions)) *leader {
	t.Helper()
	l := &leader{t: t, router: rig.NewRouter[raftmux.SnapshotStatus](t), sent: make(map[uint64]int)}
	l.sender = newSender(t, source, change...)
	resolver := rig.NewResolver()
	resolver.Set(there, address)
	var err error
	l.client, err = raftmux.NewClient(raftmux.ClientOptions{
		StoreID: here, Resolver: resolver, Router: l.router, SnapshotSender: l.sender, MaxSnapshots: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.shared = l.client.NewSharedSender()
	t.Cleanup(l.close)
	return l
}

// send accepts a region's snapshot of that size.
func (l *leader) send(region uint64, size int) {
	l.t.Helper()
	if err := l.shared.Send(message(region, size)); err != nil {
		l.t.Fatal(err)
	}
	l.sent[region]++
}

// wait waits until each snapshot sent has a status, and returns the region's last.
func (l *leader) wait(region uint64) raftmux.SnapshotStatus {
	l.t.Helper()
	l.router.WaitFor(l.t, rig.WaitTimeout, func(e events) bool {
		return len(e.Snapshots(region, 20+region)) >= l.sent[region]
	}, "a status")
	all := l.router.Events().Snapshots(region, 20+region)
	return all[len(all)-1]
}

// close closes the Client, after which each snapshot has exactly one status.
func (l *leader) close() {
	l.t.Helper()
	if err := l.client.Close(context.Background()); err != nil {
		l.t.Error(err)
	}
	l.router.Closed()
	for region, n := range l.sent {
		if got := l.router.Events().Snapshots(region, 20+region); len(got) != n {
			l.t.Errorf("region %d: %d snapshots were accepted, %d have a status", region, n, len(got))
		}
	}
}
