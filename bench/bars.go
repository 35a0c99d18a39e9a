package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/raftmux/raftmux/bench/internal/stats"
)

// Bar is one thing that must hold.
type Bar struct {
	Group   string
	Measure string
	AtLeast bool // or at most
	Limit   float64
	Unit    string
	// values are one per round, of which the median is judged; rates stand beside
	// them, where there are any.
	values, rates func(*Results) []float64
}

// Verdict is a Bar and how it went.
type Verdict struct {
	Bar
	Interval stats.Interval
	Rates    stats.Interval
	Rounds   int
	Met      bool
}

// judge looks at the unfavourable end of the interval, unrounded.
func (b Bar) judge(r *Results) Verdict {
	values := b.values(r)
	v := Verdict{Bar: b, Interval: stats.Bootstrap(values), Rounds: len(values)}
	v.Rates.Median = math.NaN()
	if b.rates != nil {
		v.Rates = stats.Bootstrap(b.rates(r))
	}
	if b.AtLeast {
		v.Met = v.Interval.Low >= b.Limit
	} else {
		v.Met = v.Interval.High <= b.Limit
	}
	return v
}

// bars returns all of them.
func bars() []Bar {
	var all []Bar
	against := func(arm, other string, limits map[string]float64) {
		for _, shape := range shapeOrder(limits) {
			all = append(all, cheaper(arm, other, shape, limits[shape]))
		}
	}
	against("raftmux", "usual", map[string]float64{"heartbeat": 2.2, "128B": 2.5, "1KiB": 1.6, "16KiB": 1.3})
	against("raftmux owned", "usual", map[string]float64{"heartbeat": 1.0, "128B": 1.2, "1KiB": 1.2, "16KiB": 1.2, "256KiB": 1.2})
	against("raftmux etcdraft", "usual converted",
		map[string]float64{"heartbeat": 1.3, "128B": 1.3, "1KiB": 1.3, "16KiB": 1.3, "256KiB": 1.3, "mix": 1.3})
	against("raftmux", "rafthttp", map[string]float64{"heartbeat": 4, "128B": 4, "1KiB": 1.5, "16KiB": 1.5, "256KiB": 1.5})
	against("raftmux", "hashicorp 130", map[string]float64{"heartbeat": 5, "128B": 5})
	against("raftmux", "hashicorp 2", map[string]float64{"heartbeat": 5, "128B": 5})
	against("raftmux", "tcp", map[string]float64{"heartbeat": 0.75, "128B": 0.75, "1KiB": 0.5, "16KiB": 0.35})
	against("raftmux TLS", "raftmux", map[string]float64{"1KiB": 0.6})
	for _, shape := range []string{"heartbeat", "128B"} {
		all = append(all,
			dearer("100,000 regions against 1", Case{Group: regions, Arm: "raftmux", Shape: shape, Regions: mostRegions, Stores: 1},
				Case{Group: regions, Arm: "raftmux", Shape: shape, Regions: 1, Stores: 1}, 1.3),
			dearer("100 stores against 1", Case{Group: stores, Arm: "raftmux", Shape: shape, Regions: plainRegions, Stores: manyStores},
				Case{Group: stores, Arm: "raftmux", Shape: shape, Regions: plainRegions, Stores: 1}, 1.5))
	}
	return slices.Concat(all, allocationBars(), quietBars(), snapshotBars())
}

func shapeOrder(limits map[string]float64) []string {
	var shapes []string
	for _, shape := range []string{"heartbeat", "128B", "1KiB", "16KiB", "256KiB", "mix"} {
		if _, ok := limits[shape]; ok {
			shapes = append(shapes, shape)
		}
	}
	return shapes
}

func flooded(arm, shape string) Case {
	return Case{Group: throughput, Arm: arm, Shape: shape, Regions: plainRegions, Stores: 1}
}

func ratio(a, b float64) float64 { return a / b }

// cheaper is how many times the CPU of arm the other one takes.
func cheaper(arm, other, shape string, limit float64) Bar {
	a, b := flooded(arm, shape), flooded(other, shape)
	return Bar{
		Group: throughput, Measure: fmt.Sprintf("%s against %s, %s", arm, other, shape), AtLeast: true, Limit: limit, Unit: "x",
		values: func(r *Results) []float64 { return r.combined(b, a, Sample.CPU, ratio) },
		rates:  func(r *Results) []float64 { return r.combined(a, b, rateOf, ratio) },
	}
}

// dearer is how many times the CPU of few the many take.
func dearer(name string, many, few Case, limit float64) Bar {
	return Bar{
		Group: many.Group, Measure: fmt.Sprintf("CPU per message, %s, %s", name, many.Shape), Limit: limit, Unit: "x",
		values: func(r *Results) []float64 { return r.combined(many, few, Sample.CPU, ratio) },
		rates:  func(r *Results) []float64 { return r.combined(many, few, rateOf, ratio) },
	}
}

func rateOf(s Sample) float64 { return s.Rate }

func allocationBars() []Bar {
	var all []Bar
	add := func(arm, shape, side string, limit float64, figure func(Sample) float64) {
		all = append(all, Bar{
			Group: throughput, Measure: fmt.Sprintf("allocations per message, %s, %s, %s", arm, side, shape), Limit: limit,
			values: func(r *Results) []float64 { return r.values(flooded(arm, shape), figure) },
		})
	}
	for _, shape := range []string{"heartbeat", "128B", "1KiB", "16KiB", "256KiB", "mix"} {
		add("raftmux", shape, "send", 0.05, func(s Sample) float64 { return s.SenderAllocs })
	}
	add("raftmux", "heartbeat", "receive", 0.05, func(s Sample) float64 { return s.ReceiverAllocs })
	for _, shape := range []string{"128B", "1KiB", "16KiB", "256KiB"} {
		add("raftmux owned", shape, "receive", 2, func(s Sample) float64 { return s.ReceiverAllocs })
	}
	return all
}

// MiB is 2 to the 20th.
const MiB = 1 << 20

func quietBars() []Bar {
	echo := func(arm string) Case {
		return Case{Group: roundTrip, Arm: arm, Shape: "heartbeat", Regions: 1, Stores: 1}
	}
	connections := func(arm string) Case {
		return Case{Group: memory, Arm: arm, Shape: "heartbeat", Regions: manyStores, Stores: manyStores}
	}
	all := []Bar{
		{
			Group: roundTrip, Measure: "idle round trip p50 against a bare gRPC stream", Limit: 1.3, Unit: "x",
			values: func(r *Results) []float64 {
				return r.combined(echo("echo raftmux"), echo("echo bare"), p50, ratio)
			},
		},
		{
			Group: memory, Measure: "idle memory with 100 stores, above bare ClientConns", Limit: 3, Unit: " MiB",
			values: func(r *Results) []float64 {
				return r.combined(connections("connections raftmux"), connections("connections bare"),
					func(s Sample) float64 { return s.Bytes }, func(a, b float64) float64 { return (a - b) / MiB })
			},
		},
	}
	for _, shape := range []string{"heartbeat", "1KiB", "mix"} {
		half := func(arm string) Case {
			return Case{Group: latency, Arm: arm, Shape: shape, Regions: plainRegions, Stores: 1}
		}
		for _, quantile := range []struct {
			name   string
			limit  float64
			figure func(Sample) float64
		}{{"p50", 0.9, p50}, {"p99", 1.0, p99}} {
			all = append(all, Bar{
				Group: latency, Measure: fmt.Sprintf("latency at 50 %% load against usual, %s, %s", quantile.name, shape), Limit: quantile.limit, Unit: "x",
				values: func(r *Results) []float64 { return r.combined(half("raftmux"), half("usual"), quantile.figure, ratio) },
			})
		}
	}
	for _, shape := range []string{"heartbeat", "128B", "1KiB", "16KiB", "256KiB"} {
		c := Case{Group: blocked, Arm: "blocked", Shape: shape, Regions: plainRegions, Stores: 1}
		all = append(all, Bar{
			Group: blocked, Measure: "held inside gRPC by a blocked connection, " + shape, Limit: 1, Unit: " MiB",
			values: func(r *Results) []float64 {
				return r.values(c, func(s Sample) float64 { return s.Bytes / MiB })
			},
		})
	}
	return all
}

func snapshotBars() []Bar {
	file := snapshotCase("snapshot raftmux", wholeFile)
	peak := func(side string, figure func(Sample) uint64) Bar {
		return Bar{
			Group: snapshots, Measure: "memory above idle while a snapshot of 1 GiB travels, " + side, Limit: 32, Unit: " MiB",
			values: func(r *Results) []float64 {
				return r.values(file, func(s Sample) float64 { return float64(figure(s)) / MiB })
			},
		}
	}
	return []Bar{
		{
			Group: snapshots, Measure: "rate of a snapshot of 1 GiB against a plain copy, both synced", AtLeast: true, Limit: 0.7, Unit: "x",
			values: func(r *Results) []float64 {
				return r.combined(file, snapshotCase("snapshot raw", wholeFile), rateOf, ratio)
			},
		},
		peak("sender", func(s Sample) uint64 { return s.SenderPeak }),
		peak("receiver", func(s Sample) uint64 { return s.ReceiverPeak }),
		{
			Group: snapshots, Measure: "round trip p99 of heartbeats beside a snapshot against nothing, 100 MiB/s", Limit: 2, Unit: "x",
			values: func(r *Results) []float64 {
				return r.combined(snapshotCase("snapshot raftmux", besideLimited), snapshotCase("snapshot raftmux", besideNothing), p99, ratio)
			},
		},
	}
}

func p50(s Sample) float64 { return float64(s.P50) }

func p99(s Sample) float64 { return float64(s.P99) }
