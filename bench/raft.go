package main

import (
	"slices"
	"time"

	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/bench/internal/groups"
)

// raftPlan is one shape of the group of real Raft groups. Times are in bursts.
type raftPlan struct {
	shape            string
	settle, duration time.Duration
	groups.Plan
}

// linkRate is that of 100 Mbit/s.
const linkRate = 12_500_000

// raftPlans are: as fast as the processors go; and links that are just filled, and
// that are asked for twice as much as may wait for Raft's election timeout.
func raftPlans() []raftPlan {
	return []raftPlan{
		{"1,000 groups, 4 writers each of 128 B", 4, 12, groups.Plan{Groups: 1000, Size: 128, Writers: 4}},
		{"300 groups, 1 writer each of 32 KiB, 100 Mbit/s", 6, 24, groups.Plan{Groups: 300, Size: 32 << 10, Writers: 1, LinkRate: linkRate}},
		{"300 groups, 8 writers each of 32 KiB, 100 Mbit/s", 12, 24, groups.Plan{Groups: 300, Size: 32 << 10, Writers: 8, LinkRate: linkRate}},
	}
}

func raftShapes() (shapes []string) {
	for _, plan := range raftPlans() {
		shapes = append(shapes, plan.shape)
	}
	return shapes
}

// raftRounds are enough for differences of this size, at half a minute each.
const raftRounds = 5

// raftGroups is three stores in one process, with real Raft groups that reach each
// other by the transport. Each round of each has a process of its own.
func (b *bench) raftGroups() error {
	for _, plan := range raftPlans() {
		for round := range min(b.settings.Rounds, raftRounds) {
			for _, arm := range []string{"raftmux etcdraft", "usual converted"} {
				if b.ctx.Err() != nil || !slices.Contains(b.settings.Transports, arm) {
					continue
				}
				c := Case{Group: raftful, Arm: arm, Shape: plan.shape, Regions: plan.Groups, Stores: 3}
				sample, err := b.raftRound(arm, plan)
				if err != nil {
					b.results.fail(c, err)
					continue
				}
				sample.Round = round
				b.results.add(c, sample)
			}
		}
	}
	return b.ctx.Err()
}

func (b *bench) raftRound(arm string, plan raftPlan) (Sample, error) {
	p, err := startProcess()
	if err != nil {
		return Sample{}, err
	}
	defer p.stop()
	var out groups.Outcome
	args := child.GroupsArgs{
		Arm: arm, Plan: plan.Plan, Settle: plan.settle * b.settings.Burst, Duration: plan.duration * b.settings.Burst,
	}
	if err := p.call(b.ctx, "Groups", args, &out); err != nil {
		return Sample{}, err
	}
	return Sample{
		Messages: out.Writes, Refused: out.Refused, Lost: int64(out.Orphans), Elected: out.Elected,
		Rate: float64(out.Writes) / out.Took.Seconds(), SenderCPU: float64(out.CPU) / float64(max(out.Writes, 1)),
		P50: out.P50, P99: out.P99,
	}, nil
}
