package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/stats"
)

// Names of the groups, in the order in which they run.
const (
	throughput = "throughput"
	regions    = "regions"
	stores     = "stores"
	latency    = "latency"
	roundTrip  = "roundtrip"
	memory     = "memory"
	blocked    = "blocked"
	snapshots  = "snapshots"
	raftful    = "raft"
)

// allGroups are their names.
func allGroups() []string {
	return []string{throughput, regions, stores, latency, roundTrip, memory, blocked, snapshots, raftful}
}

// Settings are what the flags say.
type Settings struct {
	Groups, Shapes, Transports []string
	Rounds                     int
	Burst                      time.Duration
	Workers                    int
	Profiles                   string // folder of CPU profiles, "" for none
}

// Sizes of what is sent, where no group varies them. A ring is short enough for
// its messages to be in the cache, as those are that a Raft worker has just made.
const (
	perFlush     = 128
	plainRing    = 1024
	plainRegions = 1000
	latencyRing  = 16 << 10 // longer than any queue, for messages change when they are stamped
	storesRing   = 100 * perFlush
	mostRegions  = 100_000
)

// bench runs groups and keeps their results.
type bench struct {
	ctx      context.Context
	settings Settings
	results  *Results
	progress io.Writer
}

// run runs the groups that are asked for.
func (b *bench) run() error {
	for _, group := range []struct {
		name string
		run  func() error
	}{
		{throughput, b.throughput},
		{regions, b.regions},
		{stores, b.stores},
		{latency, b.latency},
		{roundTrip, b.roundTrip},
		{memory, b.memory},
		{blocked, b.blocked},
		{snapshots, b.snapshots},
		{raftful, b.raftGroups},
	} {
		if !slices.Contains(b.settings.Groups, group.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(b.progress, "%s ...", group.name)
		if err := group.run(); err != nil {
			return fmt.Errorf("%s: %w", group.name, err)
		}
		fmt.Fprintf(b.progress, " %.0f s\n", time.Since(began).Seconds())
	}
	return nil
}

// contender is a case and the pair that measures it.
type contender struct {
	Case
	pair *pair
	plan load.Plan
	rate float64 // 0 for as fast as it goes
}

// start starts the pairs of some cases. Those that can't start are a failure of
// the run and of no other pair.
func (b *bench) start(cases []Case, ring int) []*contender {
	var all []*contender
	for _, c := range cases {
		if slices.Contains(mainArms(), c.Arm) && !slices.Contains(b.settings.Transports, c.Arm) {
			continue
		}
		p, err := startPair(b.ctx, c.Arm, c.Stores, b.settings.Workers)
		if err != nil {
			b.results.fail(c, err)
			continue
		}
		all = append(all, &contender{Case: c, pair: p, plan: load.Plan{
			Shape: c.Shape, Regions: c.Regions, Stores: c.Stores,
			Workers: b.settings.Workers, Ring: ring, PerFlush: perFlush,
		}})
	}
	return all
}

func stopAll(contenders []*contender) {
	for _, c := range contenders {
		c.pair.stop()
	}
}

// ready loads what is sent and runs a first burst that doesn't count.
func (b *bench) ready(contenders []*contender) []*contender {
	var good []*contender
	for _, c := range contenders {
		err := c.pair.load(c.plan)
		if err == nil {
			_, err = c.pair.burst(0, child.BurstArgs{Duration: b.settings.Burst, Rate: c.rate})
		}
		if err != nil {
			b.results.fail(c.Case, err)
			continue
		}
		good = append(good, c)
	}
	return good
}

// rounds measures the contenders in turn, again and again: A B C A B C. One that
// breaks is left out from there on.
func (b *bench) rounds(contenders []*contender, one func(*contender, int) (Sample, error)) {
	broken := make(map[*contender]bool)
	for round := range b.settings.Rounds {
		for _, c := range contenders {
			if broken[c] || b.ctx.Err() != nil {
				continue
			}
			sample, err := one(c, round)
			if err != nil {
				b.results.fail(c.Case, err)
				broken[c] = true
				continue
			}
			b.results.add(c.Case, sample)
		}
	}
}

func (b *bench) burst(c *contender, round int) (Sample, error) {
	return c.pair.burst(round, child.BurstArgs{Duration: b.settings.Burst})
}

// throughput is every transport with every shape, as fast as it goes.
func (b *bench) throughput() error {
	var cases []Case
	for _, name := range mainArms() {
		cases = append(cases, Case{Group: throughput, Arm: name, Regions: plainRegions, Stores: 1})
	}
	contenders := b.start(cases, plainRing)
	defer stopAll(contenders)
	for _, shape := range b.settings.Shapes {
		for _, c := range contenders {
			c.Shape, c.plan.Shape = shape, shape
		}
		fmt.Fprintf(b.progress, " %s", shape)
		good := b.ready(contenders)
		b.rounds(good, b.burst)
		if err := b.profile(good); err != nil {
			return err
		}
	}
	return b.ctx.Err()
}

// profileTime is how long a burst is that is profiled, and not measured.
const profileTime = 4 * time.Second

// profile writes CPU profiles of both processes of each contender.
func (b *bench) profile(contenders []*contender) error {
	if b.settings.Profiles == "" {
		return nil
	}
	for _, c := range contenders {
		base := filepath.Join(b.settings.Profiles, strings.ReplaceAll(c.Arm, " ", "-")+"-"+c.Shape)
		for side, p := range map[string]*process{"sender": c.pair.sender, "receiver": c.pair.receiver} {
			path, err := filepath.Abs(base + "-" + side + ".pprof")
			if err != nil {
				return err
			}
			if err := p.call(b.ctx, "Profile", path, &child.None{}); err != nil {
				return err
			}
		}
		if _, err := c.pair.burst(0, child.BurstArgs{Duration: profileTime}); err != nil {
			return err
		}
		for _, p := range []*process{c.pair.sender, c.pair.receiver} {
			if err := p.call(b.ctx, "Profile", "", &child.None{}); err != nil {
				return err
			}
		}
	}
	return nil
}

// varied are the shapes of the groups that vary something else.
func (b *bench) varied() []string {
	return slices.DeleteFunc([]string{"heartbeat", "128B"}, func(shape string) bool {
		return !slices.Contains(b.settings.Shapes, shape)
	})
}

// regions is one region against many, with as many messages in the rings.
func (b *bench) regions() error {
	return b.vary(mostRegions/b.settings.Workers, func(arm, shape string) (cases []Case) {
		for _, n := range []int{1, 100, 10_000, mostRegions} {
			cases = append(cases, Case{Group: regions, Arm: arm, Shape: shape, Regions: n, Stores: 1})
		}
		return cases
	})
}

// stores is one store against many, with the same messages per flush and store.
func (b *bench) stores() error {
	return b.vary(storesRing, func(arm, shape string) (cases []Case) {
		for _, n := range []int{1, 10, 100} {
			cases = append(cases, Case{Group: stores, Arm: arm, Shape: shape, Regions: plainRegions, Stores: n})
		}
		return cases
	})
}

// vary measures the library and the usual way, shape by shape.
func (b *bench) vary(ring int, cases func(arm, shape string) []Case) error {
	for _, shape := range b.varied() {
		var all []Case
		for _, arm := range []string{"raftmux", "usual"} {
			all = append(all, cases(arm, shape)...)
		}
		contenders := b.start(all, ring)
		b.rounds(b.ready(contenders), b.burst)
		stopAll(contenders)
	}
	return b.ctx.Err()
}

// latency is the way from one process to the other while both are at half of
// what the usual way can do.
func (b *bench) latency() error {
	for _, shape := range []string{"heartbeat", "1KiB", "mix"} {
		if !slices.Contains(b.settings.Shapes, shape) {
			continue
		}
		var cases []Case
		for _, arm := range latencyArms() {
			cases = append(cases, Case{Group: latency, Arm: arm, Shape: shape, Regions: plainRegions, Stores: 1})
		}
		contenders := b.start(cases, latencyRing)
		err := b.latencies(contenders)
		stopAll(contenders)
		if err != nil {
			return err
		}
	}
	return b.ctx.Err()
}

// capacityRounds is how often the usual way's rate is measured before half of it
// is used.
const capacityRounds = 5

func (b *bench) latencies(contenders []*contender) error {
	contenders = b.ready(contenders)
	var rates []float64
	for _, c := range contenders {
		for round := 0; c.Arm == "usual" && round < capacityRounds; round++ {
			sample, err := b.burst(c, round)
			if err != nil {
				return err
			}
			rates = append(rates, sample.Rate)
		}
	}
	if len(rates) == 0 {
		fmt.Fprint(b.progress, " nothing, for the usual way says at which rate")
		return nil
	}
	for _, c := range contenders {
		c.rate = stats.Median(rates) / 2
	}
	b.rounds(b.ready(contenders), b.paced)
	return nil
}

func (b *bench) paced(c *contender, round int) (Sample, error) {
	if err := c.pair.receiver.call(b.ctx, "Stamped", true, &child.None{}); err != nil {
		return Sample{}, err
	}
	sample, err := c.pair.burst(round, child.BurstArgs{Duration: b.settings.Burst, Rate: c.rate})
	if err != nil {
		return Sample{}, err
	}
	var found []time.Duration
	if err := c.pair.receiver.call(b.ctx, "Latencies", []float64{0.5, 0.99, 0.999}, &found); err != nil {
		return Sample{}, err
	}
	sample.P50, sample.P99, sample.P999 = found[0], found[1], found[2]
	return sample, c.pair.receiver.call(b.ctx, "Stamped", false, &child.None{})
}
