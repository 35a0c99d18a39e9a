package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// child is one store of the demo: a `raftmux serve` process, its place and its
// folder, which outlive the process. It is the demo's goroutine's.
type child struct {
	id         uint64
	raftAddr   string
	clientAddr string
	peers      string // the stores that it is told of
	joins      bool   // whether it comes to a cluster that there is
	dir        string

	process *exec.Cmd
	leash   io.Closer     // the store stops when this is closed
	exited  chan struct{} // closed when the process is gone
	failure error         // how it ended, once exited
	killed  bool          // whether that was our doing
	client  *redis.Client // for INFO
}

// cluster are the stores of the demo.
type cluster struct {
	executable string
	regions    int
	extra      []string // flags of serve, besides
	dir        string
	children   []*child
	former     []*child // those that were replaced
}

// newCluster prepares stores on free ports, and starts none.
func newCluster(stores, regions int, dir string) (*cluster, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own executable: %w", err)
	}
	addresses, err := freeAddresses(2 * stores)
	if err != nil {
		return nil, err
	}
	c := &cluster{executable: executable, regions: regions, dir: dir}
	for i := range stores {
		c.children = append(c.children, c.newChild(uint64(i+1), addresses[2*i], addresses[2*i+1]))
	}
	for _, s := range c.children {
		s.peers = peersFlag(c.children)
	}
	return c, nil
}

func (c *cluster) newChild(id uint64, raftAddr, clientAddr string) *child {
	return &child{
		id:         id,
		raftAddr:   raftAddr,
		clientAddr: clientAddr,
		dir:        filepath.Join(c.dir, fmt.Sprintf("store-%d", id)),
		client:     newClient(clientAddr),
	}
}

// peersFlag returns what --peers takes.
func peersFlag(children []*child) string {
	var peers []string
	for _, s := range children {
		peers = append(peers, fmt.Sprintf("%d=%s", s.id, s.raftAddr))
	}
	return strings.Join(peers, ",")
}

// freeAddresses finds ports that were free a moment ago. All are held at once,
// so that they differ.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = listener.Close() }()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

// newClient returns a Redis client that doesn't repeat anything by itself: the
// demo wants to see every error.
func newClient(address string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:         address,
		MaxRetries:   -1,
		DialTimeout:  time.Second,
		ReadTimeout:  8 * time.Second, // a store answers within 5
		WriteTimeout: 2 * time.Second,
		PoolSize:     64,
		Protocol:     2,
		// One dial per try, or the pool spends half a second on a dead store.
		DialerRetries: 1,
	})
}

// start starts a store's process, for the first time or again.
func (c *cluster) start(s *child) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own handle
	s.process = exec.Command(c.executable, append([]string{
		"serve", "--leash",
		"--id", strconv.FormatUint(s.id, 10),
		"--client-addr", s.clientAddr,
		"--peers", s.peers,
		"--join=" + strconv.FormatBool(s.joins),
		"--regions", strconv.Itoa(c.regions),
		"--dir", s.dir,
	}, c.extra...)...)
	s.process.Stdout, s.process.Stderr = log, log
	leash, err := s.process.StdinPipe()
	if err != nil {
		return err
	}
	s.leash = leash
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("start store %d: %w", s.id, err)
	}
	exited := make(chan struct{})
	s.exited, s.killed = exited, false
	go func() { // ends with the process, which kill and stop wait for
		s.failure = s.process.Wait()
		close(exited)
	}()
	return nil
}

func (c *cluster) startAll() error {
	for _, s := range c.children {
		if err := c.start(s); err != nil {
			return err
		}
	}
	return nil
}

func (s *child) logPath() string { return s.dir + ".log" }

// running says whether the process lives.
func (s *child) running() bool {
	if s.exited == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// signal kills the process with SIGKILL: no goodbye, no chance to write anything.
func (s *child) signal() {
	if s.running() {
		s.killed = true
		_ = s.process.Process.Kill()
	}
}

// kill kills the process and waits until it is gone.
func (s *child) kill() {
	s.signal()
	if s.exited != nil {
		<-s.exited
	}
}

// killAll kills all processes at once, as a power cut would.
func (c *cluster) killAll() {
	for _, s := range c.children {
		s.signal()
	}
	for _, s := range c.children {
		s.kill()
	}
}

// stopAll asks all stores to stop and waits.
func (c *cluster) stopAll() error {
	for _, s := range c.children {
		_ = s.leash.Close()
	}
	deadline := time.After(30 * time.Second)
	for _, s := range c.children {
		select {
		case <-s.exited:
			if s.failure != nil {
				return s.crashed()
			}
		case <-deadline:
			return fmt.Errorf("store %d did not stop within 30 s; see %s", s.id, s.logPath())
		}
	}
	return nil
}

// release kills what is left and closes the clients.
func (c *cluster) release() {
	c.killAll()
	for _, s := range append(c.former, c.children...) {
		s.kill()
		_ = s.client.Close()
	}
}

// crashed describes a process that ended when it should not have.
func (s *child) crashed() error {
	text, _ := os.ReadFile(s.logPath())
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	// A panic's first lines say more than the end of its stack.
	for i, line := range lines {
		if strings.HasPrefix(line, "panic:") {
			lines = lines[i:min(i+3, len(lines))]
			break
		}
	}
	lines = lines[max(0, len(lines)-5):]
	return fmt.Errorf("store %d ended: %w; its last words:\n    %s", s.id, s.failure, strings.Join(lines, "\n    "))
}

// errPortTaken means that somebody took a port between our look and the store's start.
var errPortTaken = errors.New("a port was taken")

// waitReady waits until every region is led by somebody.
func (c *cluster) waitReady(ctx context.Context, limit time.Duration) error {
	return c.wait(ctx, limit, "every region has a leader", func(infos []info) bool {
		led := 0
		for _, i := range infos {
			led += int(i.number("leaders"))
		}
		return led >= c.regions
	})
}

// waitConverged waits until all stores have applied the same entries of every region.
func (c *cluster) waitConverged(ctx context.Context, limit time.Duration) error {
	same, last := 0, ""
	return c.wait(ctx, limit, "all stores have applied the same", func(infos []info) bool {
		led := 0
		for _, i := range infos {
			led += int(i.number("leaders"))
			if i["applied_digest"] != last {
				same, last = 0, i["applied_digest"]
			}
		}
		same++
		return led >= c.regions && same > 5 // for half a second
	})
}

// wait polls all stores until the condition holds for their answers.
func (c *cluster) wait(ctx context.Context, limit time.Duration, what string, condition func([]info) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		var infos []info
		for _, s := range c.children {
			if !s.running() {
				if text, _ := os.ReadFile(s.logPath()); strings.Contains(string(text), "address already in use") {
					return errors.Join(errPortTaken, s.crashed())
				}
				return s.crashed()
			}
			if i, err := s.info(ctx); err == nil {
				infos = append(infos, i)
			}
		}
		if len(infos) == len(c.children) && condition(infos) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %v: %s", limit, what)
			}
			return errInterrupted
		}
	}
}
