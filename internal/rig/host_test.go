package rig

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestResolver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := NewResolver()
	gone, broken := errors.New("gone"), errors.New("broken")
	ask := func(stale, address string, err error) {
		t.Helper()
		got, gotErr := r.Resolve(ctx, 1, stale)
		if got != address || !errors.Is(gotErr, err) {
			t.Errorf("answered %q, %v; want %q, %v", got, gotErr, address, err)
		}
	}
	if _, err := r.Resolve(ctx, 1, ""); err == nil {
		t.Error("an unknown store was found")
	}
	r.Set(1, "a")
	ask("", "a", nil)
	r.FailOnce(1, broken)
	ask("", "", broken)
	ask("", "a", nil)
	r.SetMoved(1, "a", "b")
	ask("", "a", nil)
	ask("a", "b", nil)
	ask("", "b", nil)
	r.SetError(1, gone)
	ask("b", "", gone)
	if want := []string{"", "", "", "", "", "a", "", "b"}; !slices.Equal(r.Hints(1), want) {
		t.Errorf("hints %q", r.Hints(1))
	}

	release := r.Block(1)
	var wg sync.WaitGroup
	wg.Go(func() { ask("", "c", nil) })
	Eventually(t, WaitTimeout, func() bool { now, _ := r.InFlight(1); return now == 1 }, "the look-up")
	r.Set(1, "c")
	release()
	wg.Wait()
	defer r.Block(1)()
	cancel()
	ask("", "", context.Canceled)
	if r.Lookups(1) != 10 {
		t.Errorf("%d look-ups", r.Lookups(1))
	}
}

func TestRouter(t *testing.T) {
	r := NewRouter[string](t)
	r.Refuse(Unreachable, 1)
	if r.ReportUnreachable(1, 2) || !r.ReportUnreachable(1, 2) {
		t.Error("the first call is to be refused, and no other")
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		r.ReportSnapshotStatus(1, 2, "failure")
		r.StoreUnreachable(4)
		r.StoreUp(4)
	})
	r.WaitFor(t, WaitTimeout, func(e Events[string]) bool { return e.StoreUp(4) == 1 }, "the store is up")
	wg.Wait()
	e := r.Events()
	if e.Unreachable(1, 2) != 1 || e.Refused(Unreachable) != 1 || e.Total(StoreUnreachable) != 1 || e.StoreUnreachable(4) != 1 {
		t.Errorf("%+v", e)
	}
	if s := e.Snapshots(1, 2); !slices.Equal(s, []string{"failure"}) {
		t.Errorf("snapshots %q", s)
	}
	r.Closed()
	if len(r.Events().Late()) > 0 {
		t.Error("late")
	}
}

func TestCountingDialer(t *testing.T) {
	peer := NewPeer(t, PeerOptions{})
	dialer := NewCountingDialer(t)
	release := dialer.Hold()
	client := NewRaftClient(t, peer.Addr(), RaftClientOptions{
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dialer.Dial)},
	})
	var stream *RaftStream
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		stream = client.Open(t, BatchRaft)
	}()
	Eventually(t, WaitTimeout, func() bool { return dialer.Held() == 1 }, "the first write")
	if dialer.Writes() != 0 || dialer.Dials() != 1 {
		t.Errorf("%d writes, %d connections", dialer.Writes(), dialer.Dials())
	}
	release()
	<-opened
	if err := stream.Send(Heartbeat(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	peer.WaitMessages(t, 1)
	if dialer.Writes() == 0 || dialer.Bytes() == 0 {
		t.Errorf("%d writes of %d bytes", dialer.Writes(), dialer.Bytes())
	}
	dialer.Hold()
	_ = stream.Send(Heartbeat(1, 2, 3))
	Eventually(t, WaitTimeout, func() bool { return dialer.Held() == 1 }, "a write")
	dialer.Close()
	if err := stream.Status(t); status.Code(err) != codes.Unavailable {
		t.Errorf("status of a closed connection: %v", err)
	}
}
