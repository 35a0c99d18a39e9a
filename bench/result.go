package main

import (
	"fmt"
	"time"

	"github.com/raftmux/raftmux/bench/internal/measure"
)

// Case is what was measured.
type Case struct {
	Group   string
	Arm     string
	Shape   string
	Regions int
	Stores  int
}

func (c Case) String() string {
	return fmt.Sprintf("%s: %s, %s, %d regions, %d stores", c.Group, c.Arm, c.Shape, c.Regions, c.Stores)
}

// Sample is one round of a case. What a group doesn't measure is 0.
type Sample struct {
	Round int
	// Messages are those delivered, Lost those that were accepted and weren't,
	// Refused those for which there was no room and that were tried again.
	Messages, Refused uint64
	Lost              int64
	Rate              float64 // delivered messages a second, or bytes of a file
	// Per message, at the sender and at the receiver.
	SenderCPU, ReceiverCPU       float64 // ns
	SenderAllocs, ReceiverAllocs float64
	// After the burst, garbage included.
	Sender, Receiver measure.Usage
	// P50, P99 and P999 are latencies: one way at 50 % load, or of the round trip.
	P50, P99, P999 time.Duration
	// Bytes are memory in use, or what is held in a blocked stream.
	Bytes float64
	// Elected are the leaders of real Raft groups. There Messages are writes, Lost those
	// of which nobody knows what became, and SenderCPU is that of all three stores.
	Elected uint64
	// SenderPeak and ReceiverPeak are the most memory above that before.
	SenderPeak, ReceiverPeak uint64
}

// CPU is of both sides.
func (s Sample) CPU() float64 { return s.SenderCPU + s.ReceiverCPU }

// Results is everything measured in one run.
type Results struct {
	Samples  map[Case][]Sample
	Failures []string // what broke, in its own words
}

func newResults() *Results { return &Results{Samples: make(map[Case][]Sample)} }

func (r *Results) add(c Case, s Sample) { r.Samples[c] = append(r.Samples[c], s) }

func (r *Results) fail(c Case, err error) {
	r.Failures = append(r.Failures, fmt.Sprintf("%v: %v", c, err))
}

// values returns a figure of each round of a case.
func (r *Results) values(c Case, figure func(Sample) float64) []float64 {
	var all []float64
	for _, s := range r.Samples[c] {
		all = append(all, figure(s))
	}
	return all
}

// combined returns, for each round that both cases have, the two figures
// combined: their ratio, say.
func (r *Results) combined(a, b Case, figure func(Sample) float64, combine func(a, b float64) float64) []float64 {
	rounds := make(map[int]float64)
	for _, s := range r.Samples[b] {
		rounds[s.Round] = figure(s)
	}
	var all []float64
	for _, s := range r.Samples[a] {
		if other, ok := rounds[s.Round]; ok {
			all = append(all, combine(figure(s), other))
		}
	}
	return all
}
