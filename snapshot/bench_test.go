package snapshot_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// The benchmarks' receivers are processes of their own: the test's binary, told by
// this variable what to be.
const roleVariable = "RAFTMUX_SNAPSHOT_BENCH"

// benchSize is 1 GiB, or little under -short.
func benchSize() int64 {
	if testing.Short() {
		return 8 << 20
	}
	return 1 << 30
}

// usage is what a process has used.
type usage struct {
	IdleKiB, PeakKiB int64
	CPU              time.Duration
}

// used reads this process's memory and CPU.
func used() (current, peak int64, cpu time.Duration) {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if name, rest, ok := strings.Cut(line, ":"); ok && strings.HasSuffix(strings.TrimSpace(rest), "kB") {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			switch name {
			case "VmRSS":
				current = n
			case "VmHWM":
				peak = n
			}
		}
	}
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return current, peak, time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// resetPeak makes the memory of now the peak.
func resetPeak() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// runRole is what TestMain does in place of the tests in a process of a benchmark.
func runRole(role string) {
	flag.Parse()
	kind, dir, _ := strings.Cut(role, ":")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	switch kind {
	case "raw":
		fmt.Println(listener.Addr())
		receiveRaw(listener, dir)
	case "receive":
		receiveProcess(listener, dir)
	case "send":
		sendProcess(dir)
	}
}

// receiveRaw takes files by plain TCP, and answers a byte when one is synced.
func receiveRaw(listener net.Listener, dir string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		file, err := os.Create(filepath.Join(dir, "raw"))
		if err != nil {
			panic(err)
		}
		// Through a buffer, as nc does.
		if _, err := io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{conn}, make([]byte, 1<<20)); err != nil {
			panic(err)
		}
		if err := file.Sync(); err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte{1})
		_ = file.Close()
		_ = conn.Close()
	}
}

// receiveProcess is a raftmux store. It says its usage for each line that it reads.
func receiveProcess(listener net.Listener, dir string) {
	store, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{
		Dir:     dir,
		Deliver: func(_ context.Context, _ *raft_serverpb.RaftMessage, path string) error { return os.Remove(path) },
	})
	if err != nil {
		panic(err)
	}
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: store})
	if err != nil {
		panic(err)
	}
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: there, Handler: nobody{}, SnapshotReceiver: receiver})
	if err != nil {
		panic(err)
	}
	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(grpcServer)
	go func() { _ = grpcServer.Serve(listener) }()
	fmt.Println(listener.Addr())
	reportUsage(nil)
}

// sendProcess sends the file of that path to each address that it reads, and says
// its usage.
func sendProcess(path string) {
	sender, err := snapshot.NewSender(snapshot.SenderOptions{
		StoreID: here,
		Limiter: snapshot.NewLimiter(0),
		Source: snapshot.FileSource(
			func(context.Context, *raft_serverpb.RaftMessage) (string, error) { return path, nil }),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	reportUsage(func(address string) {
		if err := sender.SendSnapshot(context.Background(), address, message(7, -1)); err != nil {
			panic(err)
		}
	})
}

// reportUsage answers each line with the usage since the one before, of what act
// does with it.
func reportUsage(act func(line string)) {
	resetPeak()
	idle, _, before := used()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if act != nil {
			act(lines.Text())
		}
		_, peak, cpu := used()
		_ = json.NewEncoder(os.Stdout).Encode(usage{IdleKiB: idle, PeakKiB: peak, CPU: cpu - before})
		resetPeak()
		idle, _, before = used()
	}
}

// process is a process of a benchmark.
type process struct {
	b     *testing.B
	in    io.Writer
	out   *bufio.Scanner
	first string
}

func start(b *testing.B, role string) *process {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.bench=.") // or lent memory is poisoned
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil || cmd.Start() != nil {
		b.Fatal("no process", err1, err2)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &process{b: b, in: in, out: bufio.NewScanner(out)}
	if !p.out.Scan() {
		b.Fatal("the process said nothing")
	}
	p.first = p.out.Text()
	return p
}

// tell says a line, and returns the usage that comes back.
func (p *process) tell(line string) (u usage) {
	p.b.Helper()
	_, _ = fmt.Fprintln(p.in, line)
	if !p.out.Scan() || json.Unmarshal(p.out.Bytes(), &u) != nil {
		p.b.Fatal("the process has ended")
	}
	return u
}

// BenchmarkSnapshotGiB sends 1 GiB from file to file, with checksums and sync,
// between two processes, and compares with a copy by plain TCP with sync. The two
// take turns, three times; ratio is that of the medians.
func BenchmarkSnapshotGiB(b *testing.B) {
	size := benchSize()
	dir := b.TempDir()
	path := filepath.Join(dir, "data")
	writeFile(b, path, size)
	raw := start(b, "raw:"+dir)
	receiver := start(b, "receive:"+filepath.Join(dir, "received"))
	sender := start(b, "send:"+path)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	var rates, rawRates []float64
	var sent, received usage
	for b.Loop() {
		for range rounds {
			started := time.Now()
			copyRaw(b, path, raw.first)
			rawRates = append(rawRates, float64(size)/time.Since(started).Seconds())
			started = time.Now()
			u := sender.tell(receiver.first)
			rates = append(rates, float64(size)/time.Since(started).Seconds())
			v := receiver.tell("")
			sent.add(u)
			received.add(v)
		}
	}
	slices.Sort(rates)
	slices.Sort(rawRates)
	rate, rawRate := rates[len(rates)/2], rawRates[len(rawRates)/2]
	n := float64(len(rates)) * float64(size) / (1 << 30)
	b.ReportMetric(rate/1e6, "MB/s")
	b.ReportMetric(rawRate/1e6, "rawMB/s")
	b.ReportMetric(rate/rawRate, "ratio")
	b.ReportMetric(float64(sent.PeakKiB)/1024, "sender-MiB")
	b.ReportMetric(float64(received.PeakKiB)/1024, "receiver-MiB")
	b.ReportMetric(sent.CPU.Seconds()/n, "sender-cpu-s/GiB")
	b.ReportMetric(received.CPU.Seconds()/n, "receiver-cpu-s/GiB")
	b.ReportMetric(0, "ns/op")
}

// add keeps the most memory above idle, and sums the CPU.
func (u *usage) add(v usage) {
	u.PeakKiB = max(u.PeakKiB, v.PeakKiB-v.IdleKiB)
	u.CPU += v.CPU
}

func writeFile(b *testing.B, path string, size int64) {
	b.Helper()
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	for block := random(1, 1<<20); size > 0; size -= int64(len(block)) {
		if _, err := file.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Sync(); err != nil {
		b.Fatal(err)
	}
	_ = file.Close()
}

func copyRaw(b *testing.B, path, address string) {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	// Through a buffer, as cat and nc do, and not by sendfile.
	if _, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{file}, make([]byte, 1<<20)); err != nil {
		b.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
}

// arrivals is a host that notes when heartbeats come.
type arrivals struct {
	came atomic.Int64
	c    chan struct{}
}

func (a *arrivals) Step(*raft_serverpb.RaftMessage) error {
	a.came.Add(1)
	a.c <- struct{}{}
	return nil
}

// BenchmarkHeartbeatsBesideSnapshot measures how long heartbeats take from Send to
// the host's Step, one at a time, while nothing else goes on and while snapshots
// travel between the same two stores.
func BenchmarkHeartbeatsBesideSnapshot(b *testing.B) {
	size := benchSize()
	dir := b.TempDir()
	path := filepath.Join(dir, "data")
	writeFile(b, path, size)
	store, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{
		Dir:     filepath.Join(dir, "received"),
		Deliver: func(_ context.Context, _ *raft_serverpb.RaftMessage, path string) error { return os.Remove(path) },
	})
	if err != nil {
		b.Fatal(err)
	}
	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: there, Sink: store})
	if err != nil {
		b.Fatal(err)
	}
	host := &arrivals{c: make(chan struct{}, 1)}
	address := serveWith(b, receiver, host)
	for _, limit := range []int64{-1, 0, 100 << 20} {
		name := map[int64]string{-1: "idle", 0: "beside", 100 << 20: "beside100MiB"}[limit]
		b.Run(name, func(b *testing.B) {
			l := newLeader(b, address, snapshot.FileSource(
				func(context.Context, *raft_serverpb.RaftMessage) (string, error) { return path, nil }),
				func(o *snapshot.SenderOptions) { o.Limiter = snapshot.NewLimiter(max(0, limit)) })
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { // snapshots, one after another
				defer close(done)
				for limit >= 0 {
					if err := l.sender.SendSnapshot(context.Background(), address, message(7, -1)); err != nil {
						b.Error(err)
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			}()
			beat := func() time.Duration {
				started := time.Now()
				if err := l.shared.Send(rig.Heartbeat(1, there, 21)); err != nil {
					b.Fatal(err)
				}
				l.shared.Flush()
				<-host.c
				return time.Since(started)
			}
			beat() // connects
			var took []time.Duration
			for end := time.Now().Add(min(5*time.Second, time.Duration(size))); time.Now().Before(end); {
				took = append(took, beat())
				time.Sleep(time.Millisecond)
			}
			close(stop)
			<-done
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
			b.ReportMetric(0, "ns/op")
			runtime.GC()
		})
	}
}
