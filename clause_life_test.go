package raftmux_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// C8, C9: a Resolver that doesn't answer is a failed look-up, in time: what waits for
// it is reported, and a snapshot ends in its status.
func TestC8HungLookupIsReported(t *testing.T) {
	c := newPropClient(t, "", propStep(time.Millisecond), func(o *raftmux.ClientOptions) {
		o.ConnectTimeout = 20 * time.Millisecond
		o.SnapshotSender = propSnapshotSender(func(context.Context) error { return nil })
	})
	t.Cleanup(c.resolver.Block(2))
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	c.mustSend(t, rig.Snapshot(5, 2, 3, 10))
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool {
		return e.Unreachable(1, 3) == 1 && len(e.Snapshots(5, 3)) == 1
	}, "both are reported")
	if status := c.router.Events().Snapshots(5, 3)[0]; status != raftmux.SnapshotFailure {
		t.Errorf("the snapshot ended in %v", status)
	}
	if l := c.ledger(); l.Dropped["resolve"] != 1 {
		t.Errorf("%+v", l)
	}
}

// C12: a peer that knows neither RPC is broadcast once, though the host goes on
// sending to it; and from the second attempt on nothing is handed to it.
func TestC12NeitherRPCUnderTraffic(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NoBatchRaft: true, NoRaft: true})
	c := newPropClient(t, peer.Addr(), propStep(200*time.Millisecond)) // a stream that lives for so long counts as up
	send := func() {
		if err := c.sender.Send(rig.Append(1, 2, 3, 1, 10)); err != nil && !errors.Is(err, raftmux.ErrFull) {
			t.Fatal(err)
		}
		c.sender.Flush()
	}
	until := func(streams int) raftmux.Ledger {
		rig.Eventually(t, rig.WaitTimeout, func() bool { send(); return peer.Opened(rig.Raft) == streams }, "%d attempts", streams)
		return c.ledger()
	}
	first := until(2) // the first attempt is over
	if last := until(5); last.Sent != first.Sent || last.Dropped["unimplemented"] == 0 {
		t.Errorf("the first attempt was handed %d messages, all of them: %+v", first.Sent, last)
	}
	c.waitEdges(t, 1, 0)
	peer.Configure(func(o *rig.PeerOptions) { o.NoBatchRaft = false })
	rig.Eventually(t, rig.WaitTimeout, func() bool { send(); return peer.Count() > 0 }, "it is handed messages once it takes them")
	if downs := c.router.Events().StoreUnreachable(2); downs != 1 {
		t.Errorf("it went down %d times", downs)
	}
}

// C16: an idle stream to the wrong store counts as up after a step, for TiKV sends
// no headers. That its address is wrong isn't forgotten over that: whenever it comes
// up, the next look-up has the hint. When it does is a matter of chance.
func TestC16IdleStreamKeepsTheHint(t *testing.T) {
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			wrong := rig.NewPeer(t, rig.PeerOptions{StoreID: 3})
			right := rig.NewPeer(t, rig.PeerOptions{StoreID: 2, HeadersNow: true})
			c := newPropClient(t, "", propStep(100*time.Millisecond))
			c.resolver.SetMoved(2, wrong.Addr(), right.Addr())
			idle := c.NewSender()
			if err := idle.Send(rig.Heartbeat(1, 2, 3)); err != nil { // never flushed
				t.Fatal(err)
			}
			wrong.WaitOpened(t, rig.BatchRaft, 1)
			c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
			rig.Eventually(t, rig.WaitTimeout, func() bool { return right.Opened(rig.BatchRaft) > 0 }, "a stream to the right store")
			if hints := c.resolver.Hints(2); !slices.Equal(hints[len(hints)-1:], []string{wrong.Addr()}) || wrong.Opened(rig.BatchRaft) != 2 {
				t.Errorf("look-ups called %q stale, %s was; %d streams to it", hints, wrong.Addr(), wrong.Opened(rig.BatchRaft))
			}
		})
	}
}

// A store that takes no snapshots doesn't flood the log.
func TestSnapshotFailuresAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	c := newPropClient(t, rig.DeadAddress(t), func(o *raftmux.ClientOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for region := range uint64(100) {
		c.mustSend(t, rig.Snapshot(region+1, 2, 3, 10))
	}
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "snapshot reported as failed"); n != 1 || !strings.Contains(log.String(), "region 1, peer 3") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}
