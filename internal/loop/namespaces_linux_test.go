package loop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/netns"
)

// TestRaftInNamespaces is TestRaftInTheLoop over a real network: each store has a
// network namespace of its own, and a cable to a switch in a fourth. It needs
// Linux, root, iproute2, and RAFTMUX_NETNS=1.
//
// C5, C6, C7, C8, C10, C17, C19: see there. Here a broken network closes no
// connection: TCP outlives short faults, and longer ones end streams at the sender
// after 3 s, while the receiver's end stays half open.
func TestRaftInNamespaces(t *testing.T) {
	netns.Needs(t, "ip")
	raftInTheLoop(t, newNamespaces(t))
}

// namespaces is a network of the kernel's own: a switch, and the stores at its
// ends, by their ids less one.
type namespaces struct {
	*netns.Switch
	t         *testing.T
	addresses [stores + 1]string
	separated bool
}

func newNamespaces(t *testing.T) *namespaces {
	return &namespaces{Switch: netns.NewSwitch(t, stores), t: t}
}

func end(store uint64) int { return int(store) - 1 }

func (n *namespaces) of(store uint64) *netns.Namespace { return n.Ends[end(store)] }

func (n *namespaces) listen(store uint64) net.Listener {
	listener := n.of(store).Listen(n.t, n.IP(end(store))+":0")
	n.addresses[store] = listener.Addr().String()
	return listener
}

func (n *namespaces) address(_, to uint64) string { return n.addresses[to] }

func (n *namespaces) dialer(store uint64) func(context.Context, string) (net.Conn, error) {
	return n.of(store).Dial
}

// faults are real ones. Those of all four ways are faults of one store's cable.
func (n *namespaces) faults(*cluster) []faultKind {
	pull := func(_ *rand.Rand, ways []way) func() { return n.Pull(n.t, end(ways[0].from)) }
	kinds := []faultKind{
		// TCP gives a stream up when nothing was acknowledged for 3 s.
		{"cable pulled", 1, 4, 3500 * time.Millisecond, 5 * time.Second, pull},
		{"cable loose", 1, 4, 100 * time.Millisecond, 1500 * time.Millisecond, pull},
		{"device down", 1, 4, 500 * time.Millisecond, 4 * time.Second, func(_ *rand.Rand, ways []way) func() {
			return n.of(ways[0].from).Down(n.t)
		}},
		{"one way", 2, 1, 500 * time.Millisecond, 5 * time.Second, func(_ *rand.Rand, ways []way) func() {
			return n.of(ways[0].from).Blackhole(n.t, n.IP(end(ways[0].to)))
		}},
		{"two apart", 2, 2, 500 * time.Millisecond, 5 * time.Second, n.separate},
	}
	for _, shape := range []struct {
		name  string
		queue func(rng *rand.Rand) []string
	}{{"delay and loss", netem}, {"narrow", tbf}} {
		if err := n.of(1).Shapes(shape.queue(rand.New(rand.NewPCG(0, 0)))...); err != nil {
			n.t.Logf("the fault %q is skipped: %v", shape.name, err)
			continue
		}
		kinds = append(kinds, faultKind{shape.name, 1, 4, time.Second, 3 * time.Second, func(rng *rand.Rand, ways []way) func() {
			return n.of(ways[0].from).Shape(n.t, shape.queue(rng)...)
		}})
	}
	return kinds
}

// separate cuts two stores from each other, and neither from the third. It makes
// no fault while the switch separates two others.
func (n *namespaces) separate(_ *rand.Rand, ways []way) (heal func()) {
	if n.separated {
		return nil
	}
	n.separated = true
	join := n.Separate(n.t, end(ways[0].from), end(ways[0].to))
	return func() {
		join()
		n.separated = false
	}
}

// netem is a queue that delays packets, unevenly, and loses some.
func netem(rng *rand.Rand) []string {
	delay := 20 + rng.IntN(200)
	return []string{
		"netem", "delay", fmt.Sprintf("%dms", delay), fmt.Sprintf("%dms", delay/4),
		"loss", fmt.Sprintf("%d%%", 1+rng.IntN(10)),
	}
}

// tbf is a queue that lets less through than the stores send.
func tbf(rng *rand.Rand) []string {
	return []string{"tbf", "rate", fmt.Sprintf("%dkbit", 500+rng.IntN(1500)), "burst", "32kbit", "latency", "100ms"}
}
