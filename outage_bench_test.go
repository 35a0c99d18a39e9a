package raftmux_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
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

// skipShort leaves out, with -short, what takes half a minute however short the
// benchmark time.
func skipShort(b *testing.B) {
	if testing.Short() {
		b.Skip("skipped with -short: it takes half a minute")
	}
}

// BenchmarkOutageBroadcasts takes down a store of 100,000 regions. The outage is
// compressed: with BackoffStep at 2 ms the Client tries again some hundred times
// in some seconds, as it would in an hour by default. Each round sends four
// messages to each of 1,000 regions, by turns appends and heartbeats, and waits
// until they are cleared.
//
// The bars: one StoreUnreachable; one report per region and clearing.
func BenchmarkOutageBroadcasts(b *testing.B) {
	skipShort(b)
	experiment(b, func() {
		const regions, perRound, repeats = 100_000, 1000, 4
		outage, step := 8*time.Second, 2*time.Millisecond
		o := newOutage(b, regions, step)
		begun := o.begin()
		asked, region, most := 0, uint64(0), int32(0)
		for round := 0; time.Since(begun) < outage; round++ {
			touched := make(map[uint64]bool)
			for range perRound {
				region = region%regions + 1
				message := rig.Append(region, 2, 3, 1, 128)
				if round%2 == 1 {
					message = rig.Heartbeat(region, 2, 3)
				}
				o.host.byRegion[region].Store(0)
				for range repeats {
					if o.sender.Send(message) == nil {
						touched[message.RegionId] = true
					}
				}
			}
			o.sender.Flush()
			rig.Eventually(b, rig.WaitTimeout, func() bool {
				for region := range touched {
					if o.host.byRegion[region].Load() == 0 {
						return false
					}
				}
				return true
			}, "each region is reported")
			for region := range touched {
				most = max(most, o.host.byRegion[region].Load())
			}
			asked += len(touched)
		}
		b.Logf("an outage of %v, step %v: %d attempts to connect, %d regions lost messages, %d ReportUnreachable, at most %d per region and round",
			time.Since(begun).Round(time.Millisecond), step, o.dials.Load(), asked, o.host.unreachable.Load(), most)
		b.ReportMetric(float64(o.dials.Load()), "attempts")
		b.ReportMetric(float64(o.host.downs.Load()), "broadcasts")
		b.ReportMetric(float64(o.host.unreachable.Load())/float64(asked), "reports/region/clearing")
		o.end()
	})
}

// BenchmarkOutageOfAMinute takes down a store of 100,000 regions for as long as
// RAFTMUX_OUTAGE says, by default 60 s, with the default backoff. Each second
// every region has a heartbeat for it, and every tenth an append too. Most are
// refused, for the queue is full; those that are accepted are reported.
//
// The bars: one StoreUnreachable; no region without a report.
func BenchmarkOutageOfAMinute(b *testing.B) {
	skipShort(b)
	experiment(b, func() {
		const regions = 100_000
		outage, err := time.ParseDuration(os.Getenv("RAFTMUX_OUTAGE"))
		if err != nil {
			outage = time.Minute
		}
		o := newOutage(b, regions, raftmux.DefaultBackoffStep)
		begun := o.begin()
		accepted, refused := make(map[uint64]int), 0
		for time.Since(begun) < outage {
			tick := time.Now()
			for i := range uint64(regions) {
				region := (i + uint64(refused)) % regions // or the same ones would find room each time
				messages := []*raft_serverpb.RaftMessage{rig.Heartbeat(region, 2, 3)}
				if i%10 == 0 {
					messages = append(messages, rig.Append(region, 2, 3, 1, 128))
				}
				for _, message := range messages {
					if o.sender.Send(message) == nil {
						accepted[region]++
					} else {
						refused++
					}
				}
			}
			o.sender.Flush()
			time.Sleep(time.Until(tick.Add(time.Second)))
		}
		b.ReportMetric(float64(o.host.downs.Load()), "broadcasts")
		rig.Eventually(b, rig.WaitTimeout, func() bool { // the last ones are too old by now, or cleared
			status, _ := o.client.Store(2)
			return status.Connections[0].Ledger.Queued+status.Connections[1].Ledger.Queued == 0
		}, "nothing waits")
		o.end()
		silent := 0
		for region := range accepted {
			if o.host.byRegion[region].Load() == 0 {
				silent++
			}
		}
		b.Logf("an outage of %v: %d attempts to connect; %d regions, messages of %d of them accepted, %d messages refused; %d ReportUnreachable",
			outage, o.dials.Load(), regions, len(accepted), refused, o.host.unreachable.Load())
		b.ReportMetric(float64(silent), "regions-unreported")
	})
}

// outageOfStore is a Client of a store that goes away and comes back.
type outageOfStore struct {
	b      *testing.B
	peer   *rig.Peer
	client *raftmux.Client
	host   *outageHost
	sender *raftmux.Sender
	dials  atomic.Int64
}

// newOutage returns one that is up, with both connections.
func newOutage(b *testing.B, regions int, step time.Duration) *outageOfStore {
	o := &outageOfStore{b: b, peer: rig.NewPeer(b, rig.PeerOptions{})}
	o.client, o.host = outageClient(b, map[uint64]string{2: o.peer.Addr()}, func(options *raftmux.ClientOptions) {
		options.BackoffStep = step
		options.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			o.dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	})
	o.host.byRegion = make([]atomic.Int32, regions+1)
	o.sender = o.client.NewSender()
	_, _ = o.sender.Send(rig.Ack(1, 2, 3)), o.sender.Send(rig.Heartbeat(1, 2, 3))
	o.sender.Flush()
	o.peer.WaitMessages(b, 2)
	rig.Eventually(b, rig.WaitTimeout, func() bool { return o.host.ups.Load() == 1 }, "the store is up")
	o.dials.Store(0)
	return o
}

// begin takes the store down, and says when.
func (o *outageOfStore) begin() time.Time {
	begun := time.Now()
	o.peer.Stop()
	rig.Eventually(o.b, rig.WaitTimeout, func() bool { // until then messages leave
		status, _ := o.client.Store(2)
		return !status.Connections[0].Connected && !status.Connections[1].Connected
	}, "the streams end")
	return begun
}

func (o *outageOfStore) end() {
	o.peer.Restart(o.b)
	rig.Eventually(o.b, rig.WaitTimeout, func() bool { return o.host.ups.Load() == 2 }, "the store is up again")
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
