package loop

import (
	"math/rand/v2"
	"slices"
	"time"
)

// way is that from one store to another.
type way struct{ from, to uint64 }

// fault is something that is wrong for a while with some ways.
type fault struct {
	ways  []way
	until time.Time
	heal  func()
}

// faultKind says how to make a fault. Each comes as often as its weight says.
type faultKind struct {
	name   string
	weight int
	ways   int // how many: one, both of two stores, or all four of the store from which the first goes
	least  time.Duration
	most   time.Duration
	// do makes it, and returns what ends it; nil if it can't be made now.
	do func(rng *rand.Rand, ways []way) (heal func())
}

// breaker breaks things at random, by a seed.
type breaker struct {
	rng    *rand.Rand
	kinds  []faultKind
	deck   []faultKind // what is still to come before a kind comes more often than its weight
	active []fault
	made   map[string]int
}

// breakThings does so for as long as d, with up to two faults at a time, and then heals all.
// Between faults it looks at what must hold at any time.
func (c *cluster) breakThings(d time.Duration, seed uint64, always func()) (made map[string]int) {
	b := &breaker{rng: rand.New(rand.NewPCG(seed, 0)), kinds: c.network.faults(c), made: make(map[string]int)}
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

// begin makes a fault, unless one of its ways has one already.
func (b *breaker) begin() {
	if len(b.deck) == 0 {
		for _, kind := range b.kinds {
			b.deck = append(b.deck, slices.Repeat([]faultKind{kind}, kind.weight)...)
		}
	}
	card := b.rng.IntN(len(b.deck))
	kind := b.deck[card]
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
	heal := kind.do(b.rng, ways)
	if heal == nil {
		return
	}
	b.deck = slices.Delete(b.deck, card, card+1)
	b.made[kind.name]++
	until := time.Now().Add(kind.least + time.Duration(b.rng.Int64N(int64(kind.most-kind.least)+1)))
	b.active = append(b.active, fault{ways: ways, until: until, heal: heal})
}

// healUntil heals the faults that are to last no longer than until now.
func (b *breaker) healUntil(now time.Time) {
	b.active = slices.DeleteFunc(b.active, func(f fault) bool {
		if f.until.After(now) {
			return false
		}
		f.heal()
		return true
	})
}
