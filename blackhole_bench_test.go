package raftmux_test

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/internal/rig"
)

// BenchmarkSendToBlackHole measures what a black-holed peer costs a worker: first
// nothing is wrong, then the peer's packets vanish. It finds that out, tries to
// connect and gives up, over and over. The worker sends an append of 1 KiB and
// flushes, a hundred times in a row, each millisecond.
//
// The bars: p99.9-us under 50, grown-MiB about 0, and the other peers' throughput
// within 20 % of what it is without the black-holed one.
func BenchmarkSendToBlackHole(b *testing.B) {
	skipShort(b)
	b.Run("latency", func(b *testing.B) { experiment(b, func() { blackHoleLatency(b) }) })
	b.Run("others", func(b *testing.B) { experiment(b, func() { blackHoleOthers(b) }) })
}

func blackHoleLatency(b *testing.B) {
	const regions, healthy, dead = 1000, 3 * time.Second, 12 * time.Second
	_, address := outageServer(b, 2)
	proxy := rig.NewProxy(b, address)
	client, host := outageClient(b, map[uint64]string{2: proxy.Addr()}, impatient)
	sender := client.NewSender()
	messages := make([]*raft_serverpb.RaftMessage, regions)
	for i := range messages {
		messages[i] = rig.Append(uint64(i)+1, 2, 3, 1, 1<<10)
	}
	play := func(d time.Duration, observe func()) (all, accepted *latencies) {
		all, accepted = &latencies{}, &latencies{}
		i, observed := 0, time.Now()
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
			for range 100 {
				begun := time.Now()
				err := sender.Send(messages[i%regions])
				sender.Flush()
				took := time.Since(begun)
				if all.add(took); err == nil {
					accepted.add(took)
				}
				i++
			}
			if time.Since(observed) > time.Second {
				observe()
				observed = time.Now()
			}
		}
		return all, accepted
	}
	all, accepted := play(healthy, func() {})
	b.Logf("healthy:      all %v; accepted %v", all, accepted)
	b.ReportMetric(accepted.at(.999), "healthy-p99.9-us")
	before, _ := memory()
	proxy.SetMode(rig.BlackHole)
	var heap []float64
	all, accepted = play(dead, func() {
		now, _ := memory()
		heap = append(heap, math.Round((now-before)*100)/100)
	})
	b.Logf("black-holed:  all %v", all)
	b.Logf("  of which accepted %v", accepted)
	b.Logf("  heap in use: %.2f MiB before, and each second more by %v", before, heap)
	b.Logf("  %d StoreUnreachable, %d ReportUnreachable", host.downs.Load(), host.unreachable.Load())
	b.ReportMetric(all.at(.5), "p50-us")
	b.ReportMetric(all.at(.99), "p99-us")
	b.ReportMetric(all.at(.999), "p99.9-us")
	b.ReportMetric(accepted.at(.999), "accepted-p99.9-us")
	b.ReportMetric(heap[len(heap)-1], "queue-MiB") // it is full from the first second on
	b.ReportMetric(heap[len(heap)-1]-heap[0], "grown-MiB")
}

// blackHoleOthers takes turns between four arms. The worker sends as much to store 4
// as to each of the others, in all but the first.
func blackHoleOthers(b *testing.B) {
	const rounds, settle, slice, perFlush = 7, 600 * time.Millisecond, 400 * time.Millisecond, 128
	arms := []string{"absent", "well", "black-holed", "black-holed, worker skips a full store until the next flush"}
	host2, address2 := outageServer(b, 2)
	host3, address3 := outageServer(b, 3)
	_, address4 := outageServer(b, 4)
	proxy := rig.NewProxy(b, address4)
	client, _ := outageClient(b, map[uint64]string{2: address2, 3: address3, 4: proxy.Addr()}, impatient)
	var messages [3][]*raft_serverpb.RaftMessage
	for store := range messages {
		for i := range uint64(perFlush) {
			messages[store] = append(messages[store], rig.Append(i+1, uint64(store)+2, 3, 1, 128))
		}
	}
	sender := client.NewSender()
	play := func(arm int, d time.Duration) (rate float64) {
		delivered := host2.delivered.Load() + host3.delivered.Load()
		begun := time.Now()
		for end := begun.Add(d); time.Now().Before(end); {
			full, skip := 0, arm == 0
			for i := range perFlush {
				for store := range 2 {
					if sender.Send(messages[store][i]) != nil {
						full++
					}
				}
				if !skip {
					skip = sender.Send(messages[2][i]) != nil && arm == 3
				}
			}
			sender.Flush()
			if full > perFlush/2 {
				time.Sleep(100 * time.Microsecond) // the others are behind
			}
		}
		return float64(host2.delivered.Load()+host3.delivered.Load()-delivered) / time.Since(begun).Seconds()
	}
	rates := make([][]float64, len(arms))
	for round := range rounds {
		for i := range arms {
			arm := (i + round) % len(arms)
			proxy.SetMode(rig.Pass)
			if arm >= 2 {
				proxy.SetMode(rig.BlackHole)
			}
			play(arm, settle)
			rates[arm] = append(rates[arm], math.Round(play(arm, slice)/1e4)/100)
		}
	}
	medians := make([]float64, len(arms))
	for arm, name := range arms {
		b.Logf("store 4 %s: M messages/s to the two others: %v", name, rates[arm])
		slices.Sort(rates[arm])
		medians[arm] = rates[arm][rounds/2]
	}
	b.ReportMetric(medians[2]*1e6, "msgs/s")
	b.ReportMetric(medians[2]/medians[0], "vs-absent")
	b.ReportMetric(medians[3]/medians[0], "skipping-vs-absent")
	b.ReportMetric(medians[2]/medians[1], "vs-well")
}

// latencies is a histogram of durations, exact to some 3 %.
type latencies struct {
	counts [64 * 32]int
	n      int
	most   time.Duration
}

func (l *latencies) add(d time.Duration) {
	v := uint64(max(d, 1)) << 5
	shift := bits.Len64(v) - 6
	l.counts[shift*32+int(v>>shift)&31]++
	l.n++
	l.most = max(l.most, d)
}

func (l *latencies) at(p float64) (us float64) {
	left := int(math.Ceil(p * float64(l.n)))
	for i, n := range l.counts {
		if left -= n; left <= 0 && l.n > 0 {
			return float64(uint64(32+i%32)<<(i/32)) / 32 / 1e3
		}
	}
	return 0
}

func (l *latencies) String() string {
	return fmt.Sprintf("p50 %.2f us, p99 %.2f us, p99.9 %.2f us, most %v, of %d",
		l.at(.5), l.at(.99), l.at(.999), l.most, l.n)
}
