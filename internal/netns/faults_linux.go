package netns

import "testing"

// All faults last until the function is called that they return. Both end the
// test if they can't be had.

// Down takes the namespace's end of the cable down. It is told of that: it has no
// route any more, so that it can't even dial. The other end is told nothing.
func (n *Namespace) Down(t testing.TB) (up func()) {
	t.Helper()
	n.Run(t, "ip", "link", "set", Device, "down")
	return func() { n.Run(t, "ip", "link", "set", Device, "up") }
}

// Blackhole loses what the namespace sends to the address, and not what comes from there.
func (n *Namespace) Blackhole(t testing.TB, ip string) (heal func()) {
	t.Helper()
	n.Run(t, "ip", "route", "add", "blackhole", ip+"/32")
	return func() { n.Run(t, "ip", "route", "del", "blackhole", ip+"/32") }
}

// Shape sends what leaves the namespace through one of the kernel's queues, as
// tc calls it: "netem", "delay", "50ms".
func (n *Namespace) Shape(t testing.TB, queue ...string) (heal func()) {
	t.Helper()
	n.Run(t, shape("add", queue...)...)
	return func() { n.Run(t, shape("del")...) }
}

// Shapes says why the kernel, or tc, doesn't have such a queue; nil is that it does.
func (n *Namespace) Shapes(queue ...string) error {
	if _, err := n.Output(shape("add", queue...)...); err != nil {
		return err
	}
	_, err := n.Output(shape("del")...)
	return err
}

func shape(verb string, queue ...string) []string {
	return append([]string{"tc", "qdisc", verb, "dev", Device, "root"}, queue...)
}

// Pull pulls an end's cable out of the switch. The end keeps its routes, and what
// it sends is lost.
func (s *Switch) Pull(t testing.TB, end int) (plug func()) {
	t.Helper()
	s.bridge.Run(t, "ip", "link", "set", port(end), "down")
	return func() { s.bridge.Run(t, "ip", "link", "set", port(end), "up") }
}

// Separate lets the switch carry nothing between two ends, and everything else. It
// can do that for two ends at a time only.
func (s *Switch) Separate(t testing.TB, a, b int) (join func()) {
	t.Helper()
	set := func(isolated string) {
		for _, end := range []int{a, b} {
			s.bridge.Run(t, "ip", "link", "set", port(end), "type", "bridge_slave", "isolated", isolated)
		}
	}
	set("on")
	return func() { set("off") }
}
