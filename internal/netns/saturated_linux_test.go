package netns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/race"
	"github.com/raftmux/raftmux/internal/rig"
)

// tick is that of the hosts that most use.
const tick = 100 * time.Millisecond

// C17: appends of 1 MiB that saturate a link of 100 Mbit with a queue of 50 ms
// leave heartbeats a way of less than a tick.
func TestHeartbeatsOnSaturatedLink(t *testing.T) {
	Needs(t, "ip", "tc", "sh")
	// Reno, which every kernel has, fills a queue until it overflows, like cubic. But
	// at a device of its own a kernel lets each connection add little; at a router
	// nothing holds it back. BBR leaves queues short.
	t.Run("reno and the sender's own device", func(t *testing.T) {
		here, there := NewCable(t)
		saturate(t, here, there, ThereIP, here, "reno")
	})
	for _, congestion := range []string{"reno", "bbr"} {
		t.Run(congestion+" and a router", func(t *testing.T) {
			here, router, there := NewRoute(t)
			saturate(t, here, there, RoutedIP, router, congestion)
		})
	}
}

func saturate(t *testing.T, here, there *Namespace, thereIP string, shaped *Namespace, congestion string) {
	const warmUp, measure = 2 * time.Second, 5 * time.Second
	shaped.Need(t, "tc", "qdisc", "add", "dev", Device, "root", "tbf", "rate", "100mbit", "burst", "32kbit", "latency", "50ms")
	here.Need(t, "sh", "-c", "echo "+congestion+" >/proc/sys/net/ipv4/tcp_congestion_control")
	s := newStores(t, here, there, thereIP)

	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	var refused, sent int    // readable once the workers have ended,
	var late []time.Duration // and so is by how much a sleep was longer than asked for
	workers.Go(func() {
		sender := s.NewSender()
		defer sender.Close()
		messages := make([]*raft_serverpb.RaftMessage, 64)
		for i := range messages {
			messages[i] = rig.Append(uint64(i)+1, 2, 3, 1, 1<<20)
		}
		for i := 0; ctx.Err() == nil; i++ {
			if err := sender.Send(messages[i%len(messages)]); errors.Is(err, raftmux.ErrFull) {
				refused++
				time.Sleep(5 * time.Millisecond)
			} else if err != nil {
				t.Error(err)
				return
			}
			sender.Flush()
		}
	})
	workers.Go(func() {
		const regions, pause = 20, 5 * time.Millisecond
		sender := s.NewSender()
		defer sender.Close()
		for ctx.Err() == nil {
			asleep := time.Now()
			time.Sleep(pause)
			late = append(late, time.Since(asleep)-pause)
			for region := range uint64(regions) {
				heartbeat := rig.Index(rig.Heartbeat(1000+region, 2, 3), uint64(time.Now().UnixNano()))
				if err := sender.Send(heartbeat); err != nil {
					t.Error(err)
					return
				}
				sent++
			}
			sender.Flush()
		}
	})

	time.Sleep(warmUp)
	s.host.restart()
	time.Sleep(measure)
	bytes, heartbeats := s.host.measured()
	status, _ := s.Store(2)
	if queue, err := shaped.Output("tc", "-s", "qdisc", "show", "dev", Device); err == nil {
		t.Logf("the queue: %s", queue)
	}
	stop()
	workers.Wait()

	if len(heartbeats) == 0 {
		t.Fatal("no heartbeat came")
	}
	p50, p99, p999, most := percentiles(heartbeats)
	t.Logf("%d heartbeats one way: p50 %v, p99 %v, p99.9 %v, most %v; %d sent in all", len(heartbeats), p50, p99, p999, most, sent)
	_, lateP99, _, lateMost := percentiles(late)
	t.Logf("the machine wakes sleepers late by: p99 %v, most %v", lateP99, lateMost)
	rate := float64(bytes) * 8 / measure.Seconds() / 1e6
	t.Logf("appends: %.0f Mbit/s; %d refused for want of room; %s", rate, refused, ledgers(status))
	if e := s.router.Events(); e.StoreUnreachable(2) > 0 {
		t.Error("a link that is merely busy was taken for a dead one")
	}
	switch {
	case race.Enabled || lateP99 > tick/5:
		t.Skip("the processor, not the link, is what is short here: the figures are held against nothing")
	case rate < 60:
		t.Error("the link of 100 Mbit wasn't saturated")
	case p99 >= tick:
		t.Errorf("heartbeats: p99 is %v, a tick is %v", p99, tick)
	}
}

func ledgers(status raftmux.StoreStatus) (text string) {
	for _, c := range status.Connections {
		text += fmt.Sprintf("%s: generation %d, %d sent, dropped %v; ", c.Lane, c.Generation, c.Ledger.Sent, c.Ledger.Dropped)
	}
	return text
}

func percentiles(d []time.Duration) (p50, p99, p999, most time.Duration) {
	slices.Sort(d)
	at := func(p float64) time.Duration { return d[int(p*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return at(.5), at(.99), at(.999), at(1)
}
