package loop

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

var errOutOfOrder = errors.New("the resolver is out of order")

// way is the proxy from one store to another.
type way struct{ from, to uint64 }

// fault is something that is wrong for a while with some ways.
type fault struct {
	kind  string
	ways  []way
	until time.Time
}

// faultKind says how to make a fault. Each is as likely as its weight.
type faultKind struct {
	name   string
	weight int
	ways   int // how many: one, both of two stores, or all four of one store
	least  time.Duration
	most   time.Duration
	do     func(b *breaker, w way)
}

var faultKinds = []faultKind{
	{"cut", 3, 1, 0, 0, func(b *breaker, w way) { b.proxy(w).Cut() }},
	{"cut within a batch", 2, 1, time.Second, time.Second, func(b *breaker, w way) {
		b.proxy(w).CutAfter(int64(b.rng.IntN(64 << 10)))
	}},
	{"black hole", 3, 2, 300 * time.Millisecond, 3 * time.Second, setMode(rig.BlackHole)},
	{"one way", 2, 1, 300 * time.Millisecond, 3 * time.Second, setMode(rig.SwallowUp)},
	{"other way", 2, 1, 300 * time.Millisecond, 3 * time.Second, setMode(rig.SwallowDown)},
	{"delay", 2, 2, 500 * time.Millisecond, 2 * time.Second, func(b *breaker, w way) {
		b.proxy(w).SetDelay(time.Duration(20+b.rng.IntN(400)) * time.Millisecond)
	}},
	{"slow", 1, 1, 500 * time.Millisecond, 2 * time.Second, func(b *breaker, w way) { b.proxy(w).SetRate(32 << 10) }},
	{"stall", 3, 1, 300 * time.Millisecond, 3 * time.Second, setMode(rig.Stall)},
	{"refuse", 2, 1, 300 * time.Millisecond, 2 * time.Second, func(b *breaker, w way) {
		b.proxy(w).SetMode(rig.Refuse)
		b.proxy(w).Cut()
	}},
	{"resolver", 2, 1, 300 * time.Millisecond, 2 * time.Second, func(b *breaker, w way) {
		err := errOutOfOrder
		if b.rng.IntN(2) == 0 {
			err = raftmux.ErrStoreNotFound
		}
		b.c.stores[w.from].resolver.SetError(w.to, err)
		b.proxy(w).Cut()
	}},
	{"isolated, black hole", 2, 4, time.Second, 4 * time.Second, setMode(rig.BlackHole)},
	{"isolated, stalled", 2, 4, time.Second, 4 * time.Second, setMode(rig.Stall)},
	{"isolated, refused", 1, 4, time.Second, 3 * time.Second, func(b *breaker, w way) {
		b.proxy(w).SetMode(rig.Refuse)
		b.proxy(w).Cut()
	}},
	{"isolated, deaf", 1, 4, time.Second, 3 * time.Second, setMode(rig.SwallowUp)},
}

func setMode(mode rig.Mode) func(*breaker, way) {
	return func(b *breaker, w way) { b.proxy(w).SetMode(mode) }
}

// breaker breaks things at random, by a seed.
type breaker struct {
	c      *cluster
	rng    *rand.Rand
	active []fault
	made   map[string]int
}

// breakThings does so for as long as d, with up to two faults at a time, and then heals all.
// Between faults it looks at what must hold at any time.
func (c *cluster) breakThings(d time.Duration, seed uint64, always func()) (made map[string]int) {
	b := &breaker{c: c, rng: rand.New(rand.NewPCG(seed, 0)), made: make(map[string]int)}
	for end := time.Now().Add(d); time.Now().Before(end); {
		b.healUntil(time.Now())
		if len(b.active) < 2 {
			b.begin()
		}
		always()
		time.Sleep(time.Duration(20+b.rng.IntN(150)) * time.Millisecond)
	}
	b.healUntil(time.Now().Add(time.Hour))
	return b.made
}

func (b *breaker) proxy(w way) *rig.Proxy { return b.c.stores[w.from].proxies[w.to] }

// begin makes a fault, unless one of its ways has one already.
func (b *breaker) begin() {
	kind := b.pick()
	first := 1 + b.rng.Uint64N(stores)
	second := 1 + first%stores
	third := 1 + second%stores
	if b.rng.IntN(2) == 0 {
		second, third = third, second
	}
	ways := []way{{first, second}, {second, first}, {first, third}, {third, first}}[:kind.ways]
	for _, f := range b.active {
		if slices.ContainsFunc(ways, func(w way) bool { return slices.Contains(f.ways, w) }) {
			return
		}
	}
	for _, w := range ways {
		kind.do(b, w)
	}
	b.made[kind.name]++
	until := time.Now().Add(kind.least + time.Duration(b.rng.Int64N(int64(kind.most-kind.least)+1)))
	b.active = append(b.active, fault{kind: kind.name, ways: ways, until: until})
}

func (b *breaker) pick() faultKind {
	sum := 0
	for _, k := range faultKinds {
		sum += k.weight
	}
	n := b.rng.IntN(sum)
	for _, k := range faultKinds {
		if n -= k.weight; n < 0 {
			return k
		}
	}
	panic("unreachable")
}

// healUntil heals the faults that are to last no longer than until now.
func (b *breaker) healUntil(now time.Time) {
	b.active = slices.DeleteFunc(b.active, func(f fault) bool {
		if f.until.After(now) {
			return false
		}
		for _, w := range f.ways {
			p := b.proxy(w)
			p.SetMode(rig.Pass)
			p.SetDelay(0)
			p.SetRate(0)
			p.CutAfter(-1)
			b.c.stores[w.from].resolver.Set(w.to, p.Addr())
		}
		return true
	})
}
