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

// The ends of the cable, in networks that exist only inside the namespaces.
const (
	device   = "veth0"
	hereIP   = "10.77.0.1"
	thereIP  = "10.77.0.2" // by cable
	routedIP = "10.78.0.2" // behind a router
)

// namespace is a network of its own. It has no name, only the file by which it is
// held: the kernel takes it away, with its devices, once its last socket and the
// file are closed, however the process ends.
type namespace struct{ file *os.File }

// needs skips the test where namespaces and these tools can't be had.
func needs(t *testing.T, tools ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped with -short: it takes many seconds")
	}
	if os.Getenv("RAFTMUX_NETNS") == "" {
		t.Skip("skipped without RAFTMUX_NETNS=1: it measures latency, and wants the machine for itself")
	}
	if os.Geteuid() != 0 {
		t.Skip("skipped: network namespaces need root")
	}
	if _, ok := setnsNumber[runtime.GOARCH]; !ok {
		t.Skipf("skipped: the number of setns isn't known here for %s", runtime.GOARCH)
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("skipped: %v (apt-get install iproute2)", err)
		}
	}
}

// newCable returns two namespaces with a cable between them.
func newCable(t *testing.T) (here, there *namespace) {
	t.Helper()
	here, there = newNamespace(t), newNamespace(t)
	join(t, here, hereIP, there, thereIP)
	return here, there
}

// newRoute returns two namespaces with a router between them. The router's device
// towards the second is device, too.
func newRoute(t *testing.T) (here, router, there *namespace) {
	t.Helper()
	const nearIP, farIP, near = "10.77.0.3", "10.78.0.3", "near"
	here, router, there = newNamespace(t), newNamespace(t), newNamespace(t)
	join(t, here, hereIP, router, nearIP)
	router.need(t, "ip", "link", "set", device, "down")
	router.need(t, "ip", "link", "set", device, "name", near)
	router.need(t, "ip", "link", "set", near, "up")
	join(t, router, farIP, there, routedIP)
	router.need(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	here.need(t, "ip", "route", "add", "default", "via", nearIP)
	there.need(t, "ip", "route", "add", "default", "via", farIP)
	return here, router, there
}

// join lays a cable.
func join(t *testing.T, a *namespace, addressA string, b *namespace, addressB string) {
	t.Helper()
	a.need(t, "ip", "link", "add", device, "type", "veth", "peer", "name", device, "netns", b.path())
	for end, address := range map[*namespace]string{a: addressA, b: addressB} {
		end.need(t, "ip", "address", "add", address+"/24", "dev", device)
		end.need(t, "ip", "link", "set", "lo", "up")
		end.need(t, "ip", "link", "set", device, "up")
	}
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{}
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
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// need runs a command that sets the cable up, and skips the test if it fails.
func (n *namespace) need(t *testing.T, command ...string) {
	t.Helper()
	if err := n.command(command...); err != nil {
		t.Skipf("skipped: %v", err)
	}
}

// run runs a command, and ends the test if it fails.
func (n *namespace) run(t *testing.T, command ...string) {
	t.Helper()
	if err := n.command(command...); err != nil {
		t.Fatal(err)
	}
}

func (n *namespace) command(command ...string) error {
	_, err := n.output(command...)
	return err
}

func (n *namespace) output(command ...string) (text string, err error) {
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

// dial connects from inside the namespace. A socket stays in the one in which it
// was made, whoever uses it.
func (n *namespace) dial(ctx context.Context, address string) (conn net.Conn, err error) {
	err = n.do(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
		return err
	})
	return conn, err
}

// listen listens inside the namespace.
func (n *namespace) listen(t *testing.T, address string) (listener net.Listener) {
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
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if _, _, errno := syscall.RawSyscall(setnsNumber[runtime.GOARCH], n.file.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			return fmt.Errorf("setns: %w", errno)
		}
		return f()
	})
}

// setnsNumber is missing in package syscall.
var setnsNumber = map[string]uintptr{"amd64": 308, "arm64": 268}

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
