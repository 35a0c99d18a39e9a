//go:build unix

package raftmux

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
)

// BenchmarkLoopback is the whole way of a message, from a worker's Send over
// loopback to the host, in one process. cpu-ns/op is what both sides spend.
func BenchmarkLoopback(b *testing.B) {
	for _, shape := range shapes() {
		for _, mode := range []struct {
			name string
			lend bool
		}{{"lent", true}, {"owned", false}} {
			b.Run(shape.name+"/"+mode.name, func(b *testing.B) { loopback(b, shape.message, mode.lend, 0) })
		}
	}
	large := shapes()[3]
	b.Run(large.name+"/referring", func(b *testing.B) { loopback(b, large.message, true, minReferToPayloads) })
}

// loopback lets the server lend what it receives, or not, and the client refer to
// payloads of a size, or to none.
func loopback(b *testing.B, message *raft_serverpb.RaftMessage, lend bool, referTo int) {
	host := &countingHost{}
	server, err := NewServer(ServerOptions{StoreID: 2, Handler: host, LendMessages: lend})
	if err != nil {
		b.Fatal(err)
	}
	grpcServer := grpc.NewServer(GRPCServerOptions()...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = grpcServer.Serve(listener) }()
	defer grpcServer.Stop()
	client, err := NewClient(ClientOptions{
		StoreID: 1, Resolver: address(listener.Addr().String()), Router: deaf{}, MaxMessageAge: time.Hour,
		ReferToPayloads: referTo,
	})
	if err != nil {
		b.Fatal(err)
	}
	sender := client.NewSender()
	send := func(n int) {
		target := host.delivered.Load() + int64(n)
		for sent := 0; sent < n; {
			for i := 0; i < perFlush && sent < n; i++ {
				if sender.Send(message) != nil { // full
					time.Sleep(50 * time.Microsecond)
					continue
				}
				sent++
			}
			sender.Flush()
		}
		for host.delivered.Load() < target {
			time.Sleep(20 * time.Microsecond)
		}
	}
	send(perFlush)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	send(b.N)
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	b.StopTimer()
	sender.Close()
	if err := client.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	if err := server.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// countingHost counts what it is handed.
type countingHost struct{ delivered atomic.Int64 }

func (h *countingHost) Step(*raft_serverpb.RaftMessage) error {
	h.delivered.Add(1)
	return nil
}

// address is a Resolver that knows one.
type address string

func (a address) Resolve(context.Context, uint64, string) (string, error) { return string(a), nil }
