package loop

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

var errOutOfOrder = errors.New("the resolver is out of order")

// proxies is a network of this machine's loopback, with a proxy in each way.
type proxies struct {
	t         *testing.T
	addresses [stores + 1]string
	ways      map[way]*rig.Proxy
}

func newProxies(t *testing.T) *proxies { return &proxies{t: t, ways: make(map[way]*rig.Proxy)} }

func (n *proxies) listen(store uint64) net.Listener {
	n.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.addresses[store] = listener.Addr().String()
	return listener
}

func (n *proxies) address(from, to uint64) string {
	p := rig.NewProxy(n.t, n.addresses[to])
	n.ways[way{from, to}] = p
	return p.Addr()
}

func (*proxies) dialer(uint64) func(context.Context, string) (net.Conn, error) { return nil }

func (n *proxies) faults(c *cluster) []faultKind {
	resolver := func(w way) *rig.Resolver { return c.stores[w.from].resolver }
	each := func(do func(rng *rand.Rand, w way)) func(*rand.Rand, []way) func() {
		return func(rng *rand.Rand, ways []way) (heal func()) {
			for _, w := range ways {
				do(rng, w)
			}
			return func() {
				for _, w := range ways {
					p := n.ways[w]
					p.SetMode(rig.Pass)
					p.SetDelay(0)
					p.SetRate(0)
					p.CutAfter(-1)
					resolver(w).Set(w.to, p.Addr())
				}
			}
		}
	}
	mode := func(mode rig.Mode) func(*rand.Rand, []way) func() {
		return each(func(_ *rand.Rand, w way) { n.ways[w].SetMode(mode) })
	}
	refuse := each(func(_ *rand.Rand, w way) {
		n.ways[w].SetMode(rig.Refuse)
		n.ways[w].Cut()
	})
	return []faultKind{
		{"cut", 3, 1, 0, 0, each(func(_ *rand.Rand, w way) { n.ways[w].Cut() })},
		{"cut within a batch", 2, 1, time.Second, time.Second, each(func(rng *rand.Rand, w way) {
			n.ways[w].CutAfter(int64(rng.IntN(64 << 10)))
		})},
		{"black hole", 3, 2, 300 * time.Millisecond, 3 * time.Second, mode(rig.BlackHole)},
		{"one way", 2, 1, 300 * time.Millisecond, 3 * time.Second, mode(rig.SwallowUp)},
		{"other way", 2, 1, 300 * time.Millisecond, 3 * time.Second, mode(rig.SwallowDown)},
		{"delay", 2, 2, 500 * time.Millisecond, 2 * time.Second, each(func(rng *rand.Rand, w way) {
			n.ways[w].SetDelay(time.Duration(20+rng.IntN(400)) * time.Millisecond)
		})},
		{"slow", 1, 1, 500 * time.Millisecond, 2 * time.Second, each(func(_ *rand.Rand, w way) { n.ways[w].SetRate(32 << 10) })},
		{"stall", 3, 1, 300 * time.Millisecond, 3 * time.Second, mode(rig.Stall)},
		{"refuse", 2, 1, 300 * time.Millisecond, 2 * time.Second, refuse},
		{"resolver", 2, 1, 300 * time.Millisecond, 2 * time.Second, each(func(rng *rand.Rand, w way) {
			err := errOutOfOrder
			if rng.IntN(2) == 0 {
				err = raftmux.ErrStoreNotFound
			}
			resolver(w).SetError(w.to, err)
			n.ways[w].Cut()
		})},
		{"isolated, black hole", 2, 4, time.Second, 4 * time.Second, mode(rig.BlackHole)},
		{"isolated, stalled", 2, 4, time.Second, 4 * time.Second, mode(rig.Stall)},
		{"isolated, refused", 1, 4, time.Second, 3 * time.Second, refuse},
		{"isolated, deaf", 1, 4, time.Second, 3 * time.Second, mode(rig.SwallowUp)},
	}
}
