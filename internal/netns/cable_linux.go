package netns

import (
	"fmt"
	"testing"
)

// Device is the end of a cable, in every namespace but a switch's own.
const Device = "veth0"

// The ends of cables, in networks that exist only inside the namespaces.
const (
	HereIP   = "10.77.0.1"
	ThereIP  = "10.77.0.2" // by cable
	RoutedIP = "10.78.0.2" // behind a router
)

// NewCable returns two namespaces with a cable between them, at HereIP and ThereIP.
func NewCable(t testing.TB) (here, there *Namespace) {
	t.Helper()
	here, there = New(t), New(t)
	join(t, here, HereIP, there, ThereIP)
	return here, there
}

// NewRoute returns two namespaces, at HereIP and RoutedIP, with a router between
// them. The router's device towards the second is Device, too.
func NewRoute(t testing.TB) (here, router, there *Namespace) {
	t.Helper()
	const nearIP, farIP, near = "10.77.0.3", "10.78.0.3", "near"
	here, router, there = New(t), New(t), New(t)
	join(t, here, HereIP, router, nearIP)
	router.Need(t, "ip", "link", "set", Device, "down")
	router.Need(t, "ip", "link", "set", Device, "name", near)
	router.Need(t, "ip", "link", "set", near, "up")
	join(t, router, farIP, there, RoutedIP)
	router.Need(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	here.Need(t, "ip", "route", "add", "default", "via", nearIP)
	there.Need(t, "ip", "route", "add", "default", "via", farIP)
	return here, router, there
}

// join lays a cable.
func join(t testing.TB, a *Namespace, addressA string, b *Namespace, addressB string) {
	t.Helper()
	a.Need(t, "ip", "link", "add", Device, "type", "veth", "peer", "name", Device, "netns", b.path())
	a.raise(t, addressA)
	b.raise(t, addressB)
}

// raise gives the namespace's end of a cable its address.
func (n *Namespace) raise(t testing.TB, address string) {
	t.Helper()
	n.Need(t, "ip", "address", "add", address+"/24", "dev", Device)
	n.Need(t, "ip", "link", "set", "lo", "up")
	n.Need(t, "ip", "link", "set", Device, "up")
}

// Switch joins namespaces: each has a cable to a port of the switch, which is a
// namespace, too.
type Switch struct {
	Ends   []*Namespace
	bridge *Namespace
}

// NewSwitch returns a switch with so many ends, up to 250.
func NewSwitch(t testing.TB, ends int) *Switch {
	t.Helper()
	const bridge = "switch"
	s := &Switch{bridge: New(t)}
	// Without the spanning tree protocol a port carries at once when it comes up.
	s.bridge.Need(t, "ip", "link", "add", bridge, "type", "bridge", "stp_state", "0")
	s.bridge.Need(t, "ip", "link", "set", bridge, "up")
	for i := range ends {
		end := New(t)
		s.Ends = append(s.Ends, end)
		s.bridge.Need(t, "ip", "link", "add", port(i), "type", "veth", "peer", "name", Device, "netns", end.path())
		s.bridge.Need(t, "ip", "link", "set", port(i), "master", bridge, "up")
		end.raise(t, s.IP(i))
	}
	return s
}

// IP returns the address of an end.
func (s *Switch) IP(end int) string { return fmt.Sprintf("10.77.0.%d", end+1) }

// port is the switch's device for an end.
func port(end int) string { return fmt.Sprintf("port%d", end) }
