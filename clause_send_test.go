package raftmux_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

var errPropBroken = errors.New("the peer broke the stream")

// propStuck are the states in which a connection gets nowhere. Each function
// brings store 2 there, with a message on its way, and lasts until then.
func propStuck() map[string]func(t *testing.T, changes ...func(*raftmux.ClientOptions)) *propClient {
	type change = func(*raftmux.ClientOptions)
	return map[string]func(t *testing.T, changes ...change) *propClient{
		"resolving": func(t *testing.T, changes ...change) *propClient {
			c := newPropClient(t, "", changes...)
			t.Cleanup(c.resolver.Block(2))
			c.sendFlush(t, rig.Ack(1, 2, 3))
			rig.Eventually(t, rig.WaitTimeout, func() bool { now, _ := c.resolver.InFlight(2); return now == 1 }, "the look-up")
			return c
		},
		"dialling": func(t *testing.T, changes ...change) *propClient {
			called := make(chan struct{}, 1)
			c := newPropClient(t, rig.DeadAddress(t), append(changes, func(o *raftmux.ClientOptions) { o.Dialer = hangingDialer(called) })...)
			c.sendFlush(t, rig.Ack(1, 2, 3))
			<-called
			return c
		},
		"in a black hole": func(t *testing.T, changes ...change) *propClient {
			proxy := rig.NewProxy(t, rig.NewPeer(t, rig.PeerOptions{}).Addr())
			proxy.SetMode(rig.BlackHole)
			c := newPropClient(t, proxy.Addr(), changes...)
			c.sendFlush(t, rig.Ack(1, 2, 3))
			rig.Eventually(t, rig.WaitTimeout, func() bool { return proxy.Stats().LostUp > 0 }, "a connection in the black hole")
			return c
		},
		"backing off": func(t *testing.T, changes ...change) *propClient {
			c := newPropClient(t, rig.DeadAddress(t), append(changes, propStep(time.Hour))...)
			release := c.resolver.Block(2) // the only attempt finds the message
			c.sendFlush(t, rig.Ack(1, 2, 3))
			release()
			rig.Eventually(t, rig.WaitTimeout, func() bool { return c.ledger().Dropped["connect"] == 1 }, "the queue was cleared")
			c.sendFlush(t, rig.Ack(1, 2, 3))
			return c
		},
		"stalled": func(t *testing.T, changes ...change) *propClient {
			peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
			c := newPropClient(t, peer.Addr(), changes...)
			c.stall(t)
			return c
		},
	}
}

// stall sends more than a stream takes whose peer doesn't read. gRPC takes one
// message, however large, and no more until that has left.
func (c *propClient) stall(t *testing.T) {
	t.Helper()
	for n := range uint64(2) {
		c.sendFlush(t, rig.Append(1, 2, 99, 1, 4<<20))
		rig.Eventually(t, rig.WaitTimeout, func() bool { return c.ledger().Sent == n+1 }, "the large message is on its way")
	}
}

// stallControl does the same to the control lane.
func (c *propClient) stallControl(t *testing.T) {
	t.Helper()
	before := c.ledger().Sent
	for n := range uint64(2) {
		large := rig.Heartbeat(1, 2, 98)
		large.Message.Context = make([]byte, 3<<20)
		c.sendFlush(t, large)
		rig.Eventually(t, rig.WaitTimeout, func() bool { return c.ledger().Sent == before+n+1 }, "the large heartbeat is on its way")
	}
}

// C1: Send and Flush return whatever state the connection is in, and a full
// queue is answered.
func TestC1SendNeverBlocks(t *testing.T) {
	for name, stuck := range propStuck() {
		t.Run(name, func(t *testing.T) {
			c := stuck(t, func(o *raftmux.ClientOptions) { o.QueueMessages = 100 })
			// What the sending goroutine finds is told by this one: it may outlive
			// the test, if Send does block.
			var took int
			var wrong error
			propWithin(t, "sending until it is full, and after", func() {
				took = c.fill(t, rig.Append(1, 2, 3, 1, 100))
				for range 1000 {
					if err := c.sender.Send(rig.Ack(1, 2, 3)); !errors.Is(err, raftmux.ErrFull) {
						wrong = fmt.Errorf("send to a full queue: %w", err)
						return
					}
					c.sender.Flush()
				}
				c.sender.Close()
			})
			if took > 100 || wrong != nil {
				t.Errorf("a queue of 100 took %d; %v", took, wrong)
			}
			if c.ledger().Queued != 100 {
				t.Errorf("%+v", c.ledger())
			}
		})
	}
}

// C4: what was not flushed doesn't leave, not even when the connection is woken
// for others. Flush wakes each connection that was touched once.
func TestC4OnlyFlushedMessagesLeave(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	c := newPropClient(t, peer.Addr())
	c.resolver.Set(4, peer.Addr())
	for i := range uint64(10) {
		c.mustSend(t, rig.Index(rig.Ack(1, 2, 3), 100+i), rig.Index(rig.Ack(1, 4, 3), 200+i))
	}
	other := c.NewSender()
	defer other.Close()
	for range 3 {
		for _, store := range []uint64{2, 4} {
			if err := other.Send(rig.Index(rig.Ack(2, store, 3), 1)); err != nil {
				t.Fatal(err)
			}
		}
		other.Flush()
	}
	peer.WaitMessages(t, 6)
	for _, received := range peer.Messages() {
		if received.Message.GetRegionId() != 2 {
			t.Errorf("it left before the flush: %v", received.Message)
		}
	}
	if ledger := c.ledger(); ledger.Queued != 10 || ledger.Accepted != 13 {
		t.Errorf("what is staged counts as queued: %+v", ledger)
	}
	if !c.sender.NeedFlush() {
		t.Error("NeedFlush")
	}
	c.sender.Flush()
	peer.WaitMessages(t, 26)
	c.sender.Flush()
	if c.wakes(2) != 4 || c.wakes(4) != 4 {
		t.Errorf("%d and %d wake-ups for 4 flushes", c.wakes(2), c.wakes(4))
	}
}

// C4: a full connection is woken by Send at once.
func TestC4FullQueueIsWoken(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{})
	c := newPropClient(t, peer.Addr(), func(o *raftmux.ClientOptions) { o.QueueMessages = 4 })
	c.sendFlush(t, rig.Ack(1, 2, 3))
	peer.WaitMessages(t, 1)
	for range 4 {
		c.mustSend(t, rig.Ack(1, 2, 3))
	}
	if err := c.sender.Send(rig.Ack(1, 2, 3)); !errors.Is(err, raftmux.ErrFull) {
		t.Fatalf("the fifth of four: %v", err)
	}
	peer.WaitMessages(t, 5)
	if c.wakes(2) != 2 {
		t.Errorf("%d wake-ups for a flush and a full queue", c.wakes(2))
	}
}

// C4: a clearing seizes what is staged, and Close drops it.
func TestC4StagedMessagesAreSeized(t *testing.T) {
	c := newPropClient(t, rig.DeadAddress(t))
	c.mustSend(t, rig.Ack(1, 2, 3))
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Unreachable(1, 3) == 1 }, "the report")
	if n := c.ledger().Dropped["connect"]; n != 1 {
		t.Errorf("%+v", c.ledger())
	}
	t.Cleanup(c.resolver.Block(4))
	c.mustSend(t, rig.Ack(5, 4, 6), rig.Ack(5, 4, 6))
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	status, _ := c.Store(4)
	if n := status.Connections[0].Ledger.Dropped["closing"]; n != 2 || c.router.Events().Unreachable(5, 6) != 1 {
		t.Errorf("%+v", status)
	}
}

// C6: what waits while a stream breaks survives once, but for votes, heartbeats
// and orders, which are dropped and reported. What was sent isn't sent again.
func TestC6VolatileMessagesDieWithTheStream(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true, KeepMessages: true})
	c := newPropClient(t, peer.Addr())
	c.stall(t)
	c.stallControl(t)
	types := []eraftpb.MessageType{
		eraftpb.MessageType_MsgRequestVote, eraftpb.MessageType_MsgRequestVoteResponse,
		eraftpb.MessageType_MsgRequestPreVote, eraftpb.MessageType_MsgRequestPreVoteResponse,
		eraftpb.MessageType_MsgHeartbeat, eraftpb.MessageType_MsgHeartbeatResponse,
		eraftpb.MessageType_MsgTimeoutNow, eraftpb.MessageType_MsgTransferLeader,
	}
	for i, typ := range types {
		c.mustSend(t, rig.Message(1, 2, 10+uint64(i), typ), rig.Append(1, 2, 50, 1, 10))
	}
	c.sender.Flush()
	peer.WaitOpen(t, rig.BatchRaft, 2)
	peer.EndStreams(errPropBroken)
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Total(rig.Unreachable) == len(types) }, "the reports")
	peer.Resume()
	peer.WaitMessages(t, len(types))
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	for _, received := range peer.Messages() {
		if received.Message.GetToPeer().GetId() != 50 {
			t.Errorf("received %v", received.Message.GetMessage().GetMsgType())
		}
	}
	for i := range types {
		if n := c.router.Events().Unreachable(1, 10+uint64(i)); n != 1 {
			t.Errorf("%v was reported %d times", types[i], n)
		}
	}
	ledger := c.ledger()
	if ledger.Dropped["volatile"] != uint64(len(types)) || ledger.Sent != uint64(2+2+len(types)) || peer.Count() != len(types) {
		t.Errorf("%+v, %d received", ledger, peer.Count())
	}
}

// C6: what has waited for too long is dropped and reported, not sent.
func TestC6OldMessagesAreDropped(t *testing.T) {
	const age = 200 * time.Millisecond
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true, KeepMessages: true})
	c := newPropClient(t, peer.Addr(), func(o *raftmux.ClientOptions) { o.MaxMessageAge = age })
	for c.ledger().Sent < 2 { // the first may grow old before the stream is there
		c.sendFlush(t, rig.Append(1, 2, 99, 1, 4<<20))
		rig.Eventually(t, rig.WaitTimeout, func() bool { return c.ledger().Queued == 0 }, "the large message is on its way")
	}
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	accepted := time.Now()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return time.Since(accepted) > age+time.Millisecond }, "age")
	peer.Resume()
	c.router.WaitFor(t, rig.WaitTimeout, func(e propEvents) bool { return e.Unreachable(1, 3) == 1 }, "the report")
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	ledger := c.ledger()
	if ledger.Dropped["expired"] == 0 || uint64(peer.Count()) != ledger.Sent {
		t.Errorf("%+v, %d received", ledger, peer.Count())
	}
	for _, received := range peer.Messages() {
		if received.Message.GetToPeer().GetId() == 3 {
			t.Error("an old message was sent")
		}
	}
}

// C5: at a raftmux store the messages of a region are handed over in order, none
// twice, however often the connection breaks.
func TestC5OrderAcrossGenerations(t *testing.T) {
	server := newPropServer(t)
	proxy := rig.NewProxy(t, server.address)
	c := newPropClient(t, proxy.Addr(), propStep(time.Millisecond), propConnections(2))
	index := uint64(0)
	// What waits may be lost with a connection, so something is sent until
	// something comes.
	awaitMore := func() {
		before := len(server.received())
		rig.Eventually(t, rig.WaitTimeout, func() bool {
			index++
			_ = c.sender.Send(rig.Index(rig.Append(index%7+1, 2, 3, 1, 300), index))
			c.sender.Flush()
			return len(server.received()) > before
		}, "it is connected")
	}
	for range 10 {
		for range 300 {
			index++
			if err := c.sender.Send(rig.Index(rig.Append(index%7+1, 2, 3, 1, 300), index)); err != nil && !errors.Is(err, raftmux.ErrFull) {
				t.Fatal(err)
			}
			if index%10 == 0 {
				c.sender.Flush()
			}
		}
		awaitMore()
		proxy.Cut()
		awaitMore()
	}
	_ = c.close(rig.WaitTimeout)
	last := make(map[uint64]uint64)
	for _, message := range server.received() {
		region, index := message.GetRegionId(), message.GetMessage().GetIndex()
		if index <= last[region] {
			t.Fatalf("region %d: %d came after %d", region, index, last[region])
		}
		last[region] = index
	}
	if sent := c.ledger().Sent; uint64(len(server.received())) > sent {
		t.Errorf("%d received of %d", len(server.received()), sent)
	}
}

// C5: a store that was removed and comes back has newer generations than before,
// so a raftmux store that has not heard of the end of the old ones takes them.
func TestC5RemovedStoreComesBackNewer(t *testing.T) {
	server := newPropServer(t)
	old := rig.NewProxy(t, server.address)
	c := newPropClient(t, old.Addr())
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	server.wait(t, 1)
	old.SetMode(rig.Stall)
	c.RemoveStore(2)
	c.resolver.Set(2, server.address)
	c.sendFlush(t, rig.Append(1, 2, 3, 1, 10))
	if err := c.close(rig.WaitTimeout); err != nil {
		t.Error(err)
	}
	if n := len(server.received()); n != 2 || c.ledger().Sent != 1 {
		t.Errorf("%d received, %+v", n, c.ledger())
	}
}
