package raftmux_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// BenchmarkHundredStores compares the memory of a Client with 100 stores, which has
// two connections to each, to that of 200 ClientConns with a BatchRaft stream and
// a goroutine that waits for its end: as gRPC makes them by itself (bare), and
// with the Client's windows and keepalive (alike). All go to the same kvproto
// server, in a process of its own. The bar: over-bare-MiB at most 3.
//
// The bare ones are made one after another, which favours them by up to 2 MiB: those
// of bench/ are made at the same time, as the Client's are, and say why.
func BenchmarkHundredStores(b *testing.B) {
	skipShort(b)
	const child = "RAFTMUX_BENCH_SERVER"
	if os.Getenv(child) != "" { // in the other process, until its input ends
		peer := rig.NewPeer(b, rig.PeerOptions{})
		fmt.Fprintln(os.Stderr, peer.Addr())
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	command := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkHundredStores$", "-test.benchtime=1x")
	command.Env = append(os.Environ(), child+"=1")
	input, _ := command.StdinPipe()
	output, _ := command.StderrPipe()
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = input.Close(), command.Wait() }()
	address, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	address = strings.TrimSpace(address)
	experiment(b, func() {
		var idle, busy map[string]float64
		for round := range 3 {
			idle, busy = make(map[string]float64), make(map[string]float64)
			for _, arm := range []string{"bare", "raftmux", "alike"} {
				idle[arm], busy[arm] = hundredStores(b, arm, address)
				b.Logf("round %d, %-7s  idle %.2f MiB, at a message a second and stream %.2f MiB", round, arm, idle[arm], busy[arm])
			}
		}
		b.ReportMetric(busy["raftmux"], "MiB")
		b.ReportMetric(idle["raftmux"]-idle["bare"], "idle-over-bare-MiB")
		b.ReportMetric(busy["raftmux"]-busy["bare"], "over-bare-MiB")
		b.ReportMetric(busy["raftmux"]-busy["alike"], "over-alike-MiB")
	})
}

// hundredStores returns the memory of one arm, its first second left out.
func hundredStores(b *testing.B, arm, address string) (idle, busy float64) {
	const stores = 100
	_, before := memory()
	send, closeAll := bareConns(b, arm, address, 2*stores)
	if arm == "raftmux" {
		send, closeAll = raftmuxStores(b, address, stores)
	}
	second := func() {
		for i := range stores {
			send(i)
			time.Sleep(time.Second / stores)
		}
	}
	second()
	time.Sleep(time.Second)
	_, now := memory()
	idle = now - before
	for range 3 {
		second()
	}
	_, now = memory()
	busy = now - before
	closeAll()
	return idle, busy
}

func raftmuxStores(b *testing.B, address string, stores int) (send func(i int), closeAll func()) {
	addresses := make(map[uint64]string)
	for i := range stores {
		addresses[uint64(i)+2] = address
	}
	client, _ := outageClient(b, addresses, func(*raftmux.ClientOptions) {})
	sender := client.NewSender()
	return func(i int) {
		for _, message := range hundredMessages(i) {
			if err := sender.Send(message); err != nil {
				b.Error(err)
			}
		}
		sender.Flush()
	}, func() { _ = client.Close(context.Background()) }
}

func hundredMessages(i int) [2]*raft_serverpb.RaftMessage {
	return [2]*raft_serverpb.RaftMessage{rig.Append(uint64(i)+1, uint64(i)+2, 3, 1, 128), rig.Heartbeat(uint64(i)+1, uint64(i)+2, 3)}
}

func bareConns(b *testing.B, arm, address string, n int) (send func(i int), closeAll func()) {
	if arm == "raftmux" {
		return nil, nil
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy()}
	if arm == "alike" {
		options = append(options,
			grpc.WithInitialWindowSize(raftmux.DefaultWindowSize), grpc.WithInitialConnWindowSize(raftmux.DefaultWindowSize),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: raftmux.DefaultKeepaliveTime, Timeout: raftmux.DefaultKeepaliveTimeout}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	streams := make([]tikvpb.Tikv_BatchRaftClient, n)
	conns := make([]*grpc.ClientConn, n)
	var waiting sync.WaitGroup
	for i := range streams {
		conn, err := grpc.NewClient("passthrough:///"+address, options...)
		if err == nil {
			streams[i], err = tikvpb.NewTikvClient(conn).BatchRaft(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = conn
		waiting.Go(func() { _ = streams[i].RecvMsg(new(raft_serverpb.Done)) })
	}
	return func(i int) {
			for lane, message := range hundredMessages(i) {
				if err := streams[2*i+lane].Send(&tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{message}}); err != nil {
					b.Error(err)
				}
			}
		}, func() {
			cancel()
			for _, conn := range conns {
				_ = conn.Close()
			}
			waiting.Wait()
		}
}
