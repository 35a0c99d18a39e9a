package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// Needs skips the test where namespaces and these tools can't be had, and says why.
func Needs(t testing.TB, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped with -short: it takes many seconds")
	}
	if os.Getenv("RAFTMUX_NETNS") == "" {
		t.Skip("skipped without RAFTMUX_NETNS=1: it measures, and wants the machine for itself")
	}
	if os.Geteuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	if setnsNumber() == 0 {
		t.Skipf("skipped: the number of setns isn't known here for %s", runtime.GOARCH)
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %v (apt-get install iproute2)", err)
		}
	}
}

// Namespace is a network of its own. It has no name, only the file by which it is
// held: the kernel takes it away, with its devices, once its last socket and the
// file are closed, however the process ends.
type Namespace struct{ file *os.File }

// New returns an empty namespace, which is let go at the end of the test. The test
// is skipped where none can be made.
func New(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{}
	err := onThread(func() error {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		file, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", syscall.Gettid()))
		n.file = file
		return err
	})
	if err != nil {
		t.Skipf("skipped: no network namespace can be made: %v", err)
	}
	t.Cleanup(func() { _ = n.file.Close() })
	return n
}

// path names the namespace for other processes.
func (n *Namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Need runs a command that sets the network up, and skips the test if it fails.
func (n *Namespace) Need(t testing.TB, command ...string) {
	t.Helper()
	if _, err := n.Output(command...); err != nil {
		t.Skipf("skipped: %v", err)
	}
}

// Run runs a command inside the namespace, and ends the test if it fails.
func (n *Namespace) Run(t testing.TB, command ...string) {
	t.Helper()
	if _, err := n.Output(command...); err != nil {
		t.Fatal(err)
	}
}

// Output runs a command inside the namespace, and returns what it says on one line.
func (n *Namespace) Output(command ...string) (text string, err error) {
	err = n.do(func() error {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		text = strings.Join(strings.Fields(string(out)), " ")
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, text)
		}
		return nil
	})
	return text, err
}

// Dial connects from inside the namespace. A socket stays in the one in which it
// was made, whoever uses it.
func (n *Namespace) Dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// Listen listens inside the namespace, and ends the test if it can't.
func (n *Namespace) Listen(t testing.TB, address string) (listener net.Listener) {
	t.Helper()
	err := n.do(func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// do runs f inside the namespace.
func (n *Namespace) do(f func() error) error {
	return onThread(func() error {
		if _, _, errno := syscall.RawSyscall(setnsNumber(), n.file.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			return fmt.Errorf("setns: %w", errno)
		}
		return f()
	})
}

// setnsNumber is missing in package syscall. It returns 0 where it isn't known.
func setnsNumber() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 308
	case "arm64":
		return 268
	}
	return 0
}

// onThread runs f on a thread that ends with it, so that nothing else ever runs
// in the thread's namespace.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		result <- f()
	}()
	return <-result
}
