package raftmux_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

func held(c *propClient) (bytes uint64) {
	for _, store := range c.Stores() {
		for _, connection := range store.Connections {
			bytes += connection.HeldBytes
		}
	}
	return bytes
}

// C17: what gRPC has written comes back, so an idle stream is charged nothing.
func TestC17WrittenBytesComeBack(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{})
	c := newPropClient(t, peer.Addr())
	for region := range uint64(500) {
		c.sendFlush(t, rig.Append(region+1, 2, 3, 1, 4096))
	}
	peer.WaitMessages(t, 500)
	rig.Eventually(t, rig.WaitTimeout, func() bool { return held(c) == 0 }, "nothing is held once it is written")
}

// C15, C17: what a broken stream never lets go of doesn't count for the next, which
// would be taken for one that is stalled as soon as it is idle.
func TestC17BrokenStreamIsChargedNoMore(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{})
	proxy := rig.NewProxy(t, peer.Addr())
	c := newPropClient(t, proxy.Addr(), func(o *raftmux.ClientOptions) {
		o.MaxBatchBytes, o.BackoffStep = 20<<10, 20*time.Millisecond
	})
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 100))
	peer.WaitMessages(t, 1)
	for generation := uint64(2); generation < 6; generation++ {
		peer.Pause()
		for range 10 { // chunks of many batches
			for range 300 {
				c.mustSend(t, rig.Append(1, 2, 3, 1, 1000))
			}
			c.sender.Flush()
		}
		rig.Eventually(t, rig.WaitTimeout, func() bool { return held(c) > 50<<10 }, "gRPC holds what the peer doesn't read")
		proxy.Cut()
		peer.Resume()
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			return c.Stores()[0].Connections[0].Generation == generation && c.ledger().Queued == 0 && held(c) == 0
		}, "generation %d has written all that it was handed", generation)
	}
}

// C17: a queue that was full doesn't stand: while messages are refused it takes none
// beside 3 MiB. Later it takes a burst again.
func TestC17QueueDoesNotStand(t *testing.T) {
	t.Parallel()
	const size, most, enough = 64 << 10, 16 << 20, 3 << 20
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
	c := newPropClient(t, peer.Addr(), func(o *raftmux.ClientOptions) {
		o.QueueBytes, o.MaxMessageSize = most, 1<<20
	})
	message := rig.Append(1, 2, 3, 1, size)
	waiting := func() uint64 { return c.ledger().QueuedBytes + held(c) }
	// rest waits until all has left: a try before that is one more refusal.
	rest := func() {
		rig.Eventually(t, rig.WaitTimeout, func() bool { return waiting() == 0 }, "all of it has left")
	}
	// sendOn sends until a message is taken, and says whether it was never held up
	// for so long that the queue may have come to rest.
	sendOn := func() (steady bool) {
		steady = true
		deadline := time.Now().Add(rig.WaitTimeout)
		for last := time.Now(); c.sender.Send(message) != nil; last = time.Now() {
			steady = steady && time.Since(last) < time.Second
			if last.After(deadline) {
				t.Fatal("there is no room again")
			}
		}
		return steady
	}
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		rest()
		peer.Pause()
		burst := c.fill(t, message) * size
		peer.Resume()
		steady := sendOn()
		if bytes := waiting(); steady && bytes > enough+2*size {
			t.Fatalf("a message is taken while %d bytes wait", bytes)
		}
		c.sender.Flush()
		return steady && burst >= most-2*size
	}, "a burst is taken, and then no more than it may")
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		rest()
		peer.Pause()
		defer peer.Resume()
		return c.fill(t, message)*size >= most-2*size
	}, "a burst is taken again")
}

// Operators see which queue was full, and for how long that matters.
func TestFloodedQueueIsSeen(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
	c := newPropClient(t, peer.Addr(), func(o *raftmux.ClientOptions) {
		o.QueueBytes, o.MaxMessageSize, o.Registerer = 16<<20, 1<<20, registry
	})
	flooded := func() (lanes []string) {
		for _, connection := range c.Stores()[0].Connections {
			if connection.Flooded {
				lanes = append(lanes, connection.Lane)
			}
		}
		if n := gathered(t, registry, "raftmux_queue_flooded"); int(n) != len(lanes) {
			t.Errorf("the metric says %g, the status %q", n, lanes)
		}
		return lanes
	}
	c.sendFlush(t, rig.Heartbeat(1, 2, 3))
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	if lanes := flooded(); lanes != nil {
		t.Errorf("%q are flooded, and hold next to nothing", lanes)
	}
	c.fill(t, rig.Append(1, 2, 3, 1, 64<<10))
	if lanes := flooded(); !slices.Equal(lanes, []string{"data"}) {
		t.Errorf("%q are flooded, want data", lanes)
	}
	peer.Resume()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return flooded() == nil }, "it has come to rest")
}

// C15: a peer that is alive and reads nothing is found, reported and connected to
// anew; what it held is given up.
func TestC15StalledPeer(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
	c := newPropClient(t, peer.Addr(), func(o *raftmux.ClientOptions) {
		o.BackoffStep = 20 * time.Millisecond
		o.SendStallTimeout = 200 * time.Millisecond
	})
	for region := range uint64(40) {
		c.sendFlush(t, rig.Append(region+1, 2, 3, 1, 16<<10))
	}
	c.router.WaitFor(t, rig.WaitTimeout, func(events propEvents) bool { return events.StoreUnreachable(2) > 0 },
		"the store is reported")
	peer.Resume()
	rig.Eventually(t, rig.WaitTimeout, func() bool {
		if err := c.sender.Send(rig.Append(77, 2, 3, 1, 16<<10)); err != nil && !errors.Is(err, raftmux.ErrFull) {
			t.Fatal(err)
		}
		c.sender.Flush()
		return peer.Regions()[77] > 0
	}, "messages flow again")
	rig.Eventually(t, rig.WaitTimeout, func() bool { return held(c) == 0 }, "nothing is held any more")
}

// C15: a stream that makes progress, however slow, is not cut.
func TestC15SlowIsNotStalled(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{})
	proxy := rig.NewProxy(t, peer.Addr())
	c := newPropClient(t, proxy.Addr(), func(o *raftmux.ClientOptions) { o.SendStallTimeout = 2 * time.Second })
	c.sendFlush(t, rig.Ack(1, 2, 3))
	peer.WaitMessages(t, 1)
	proxy.SetRate(1 << 20)
	// Three seconds' worth, in messages of which each takes a good part of one.
	for region := range uint64(12) {
		c.sendFlush(t, rig.Append(region+2, 2, 3, 1, 256<<10))
	}
	peer.WaitMessages(t, 13)
	if opened := peer.Opened(rig.BatchRaft); opened != 1 {
		t.Errorf("%d streams were opened, want 1", opened)
	}
}
