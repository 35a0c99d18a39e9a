package raftmux_test

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// The benchmarks of this file are experiments: each is made once, whatever
// -benchtime says, prints its figures, and holds them against nothing.
func experiment(b *testing.B, f func()) {
	for first := true; b.Loop(); first = false {
		if first {
			f()
		}
	}
	b.ReportMetric(0, "ns/op") // it says nothing
}

// outageHost is the host of a Client, or the Handler of a Server, and counts.
type outageHost struct {
	downs, ups, unreachable, delivered atomic.Int64
	byRegion                           []atomic.Int32 // reports, where set
}

func (h *outageHost) ReportUnreachable(region, _ uint64) bool {
	if region < uint64(len(h.byRegion)) {
		h.byRegion[region].Add(1)
	}
	h.unreachable.Add(1)
	return true
}

func (*outageHost) ReportSnapshotStatus(uint64, uint64, raftmux.SnapshotStatus) bool { return true }
func (h *outageHost) StoreUnreachable(uint64) bool                                   { h.downs.Add(1); return true }

func (h *outageHost) StoreUp(uint64) bool { h.ups.Add(1); return true }

func (h *outageHost) Step(*raft_serverpb.RaftMessage) error { h.delivered.Add(1); return nil }

// outageServer is a raftmux store that counts.
func outageServer(b *testing.B, storeID uint64) (host *outageHost, address string) {
	host = &outageHost{}
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: storeID, Handler: host, LendMessages: true})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	inner := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(inner)
	var serving sync.WaitGroup
	serving.Go(func() { _ = inner.Serve(listener) })
	b.Cleanup(func() {
		_ = server.Close(context.Background())
		inner.Stop()
		serving.Wait()
	})
	return host, listener.Addr().String()
}

func outageClient(b *testing.B, addresses map[uint64]string, change func(*raftmux.ClientOptions)) (*raftmux.Client, *outageHost) {
	host, resolver := &outageHost{}, rig.NewResolver()
	for id, address := range addresses {
		resolver.Set(id, address)
	}
	options := raftmux.ClientOptions{StoreID: 1, Resolver: resolver, Router: host}
	change(&options)
	client, err := raftmux.NewClient(options)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = client.Close(ctx)
	})
	return client, host
}

// impatient finds a dead peer within a second or two instead of 13, and tries
// again often, so that a short run sees all that an outage has.
func impatient(o *raftmux.ClientOptions) {
	o.SendStallTimeout = 500 * time.Millisecond
	o.ConnectTimeout = 300 * time.Millisecond
	o.BackoffStep = 100 * time.Millisecond
}

// memory returns the memory in use by heap and stacks after a collection, in MiB.
func memory() (heap, both float64) {
	var m runtime.MemStats
	for range 3 { // pools let go of what they have in two
		runtime.GC()
	}
	debug.FreeOSMemory()
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse) / (1 << 20), float64(m.HeapInuse+m.StackInuse) / (1 << 20)
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

// skipShort leaves out, with -short, what takes half a minute however short the
// benchmark time.
func skipShort(b *testing.B) {
	if testing.Short() {
		b.Skip("skipped with -short: it takes half a minute")
	}
}

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

// BenchmarkOutageBroadcasts takes down a store of 100,000 regions. The outage is
// compressed: with BackoffStep at 2 ms the Client tries again some hundred times
// in some seconds, as it would in an hour by default; RAFTMUX_OUTAGE=60s makes it
// a real one. Each round sends four messages to each of 1,000 regions, by turns
// appends and heartbeats, and waits until they are cleared.
//
// The bars: one StoreUnreachable; one report per region and clearing.
func BenchmarkOutageBroadcasts(b *testing.B) {
	skipShort(b)
	experiment(b, func() {
		const regions, perRound, repeats = 100_000, 1000, 4
		outage, step := 8*time.Second, 2*time.Millisecond
		if long, err := time.ParseDuration(os.Getenv("RAFTMUX_OUTAGE")); err == nil {
			outage, step = long, raftmux.DefaultBackoffStep
		}
		peer := rig.NewPeer(b, rig.PeerOptions{})
		var dials atomic.Int64
		client, host := outageClient(b, map[uint64]string{2: peer.Addr()}, func(o *raftmux.ClientOptions) {
			o.BackoffStep = step
			o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
				dials.Add(1)
				return new(net.Dialer).DialContext(ctx, "tcp", address)
			}
		})
		host.byRegion = make([]atomic.Int32, regions+1)
		sender := client.NewSender()
		_, _ = sender.Send(rig.Ack(1, 2, 3)), sender.Send(rig.Heartbeat(1, 2, 3))
		sender.Flush()
		peer.WaitMessages(b, 2)
		rig.Eventually(b, rig.WaitTimeout, func() bool { return host.ups.Load() == 1 }, "the store is up")
		dials.Store(0)
		begun := time.Now()
		peer.Stop()
		rig.Eventually(b, rig.WaitTimeout, func() bool { // until then messages leave
			status, _ := client.Store(2)
			return !status.Connections[0].Connected && !status.Connections[1].Connected
		}, "the streams end")
		asked, region, most := 0, uint64(0), int32(0)
		for round := 0; time.Since(begun) < outage; round++ {
			touched := make(map[uint64]bool)
			for range perRound {
				region = region%regions + 1
				message := rig.Append(region, 2, 3, 1, 128)
				if round%2 == 1 {
					message = rig.Heartbeat(region, 2, 3)
				}
				host.byRegion[region].Store(0)
				for range repeats {
					if sender.Send(message) == nil {
						touched[message.RegionId] = true
					}
				}
			}
			sender.Flush()
			rig.Eventually(b, rig.WaitTimeout, func() bool {
				for region := range touched {
					if host.byRegion[region].Load() == 0 {
						return false
					}
				}
				return true
			}, "each region is reported")
			for region := range touched {
				most = max(most, host.byRegion[region].Load())
			}
			asked += len(touched)
		}
		b.Logf("an outage of %v, step %v: %d attempts to connect, %d regions lost messages, %d ReportUnreachable, at most %d per region and round",
			time.Since(begun).Round(time.Millisecond), step, dials.Load(), asked, host.unreachable.Load(), most)
		b.ReportMetric(float64(dials.Load()), "attempts")
		b.ReportMetric(float64(host.downs.Load()), "broadcasts")
		b.ReportMetric(float64(host.unreachable.Load())/float64(asked), "reports/region/clearing")
		peer.Restart(b)
		rig.Eventually(b, rig.WaitTimeout, func() bool { return host.ups.Load() == 2 }, "the store is up again")
	})
}

// BenchmarkBlockedStreamHolds sends to a peer that never reads, and looks at what
// gRPC holds then. The bar: held-KiB at most 1024 for small messages.
func BenchmarkBlockedStreamHolds(b *testing.B) {
	skipShort(b)
	for _, size := range []int{128, 1 << 10, 16 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("append=%d", size), func(b *testing.B) {
			experiment(b, func() {
				peer := rig.NewPeer(b, rig.PeerOptions{NeverRead: true})
				client, _ := outageClient(b, map[uint64]string{2: peer.Addr()}, func(o *raftmux.ClientOptions) {
					o.SendStallTimeout, o.MaxMessageAge = time.Hour, time.Hour
				})
				sender, message := client.NewSender(), rig.Append(1, 2, 3, 1, size)
				before, _ := memory()
				var held, queued, most uint64
				for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
					for range 64 {
						if sender.Send(message) != nil {
							break
						}
					}
					sender.Flush()
					status, _ := client.Store(2)
					held, queued = status.Connections[0].HeldBytes, status.Connections[0].Ledger.QueuedBytes
					most = max(most, held)
				}
				after, _ := memory()
				b.ReportMetric(float64(held)/1024, "held-KiB")
				b.ReportMetric(float64(most)/1024, "most-KiB")
				b.ReportMetric(float64(queued)/1024, "queued-KiB")
				b.ReportMetric((after-before)*1024, "heap-KiB")
			})
		})
	}
}
