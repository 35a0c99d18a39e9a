package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// roundTrip is one message there and one back, with nothing else going on.
func (b *bench) roundTrip() error {
	var cases []Case
	for _, arm := range []string{"echo raftmux", "echo bare", "echo tcp"} {
		cases = append(cases, Case{Group: roundTrip, Arm: arm, Shape: "heartbeat", Regions: 1, Stores: 1})
	}
	contenders := b.start(cases, 0)
	defer stopAll(contenders)
	for _, c := range contenders {
		if _, err := b.pings(c, 0); err != nil { // the first doesn't count
			b.results.fail(c.Case, err)
		}
	}
	b.rounds(contenders, b.pings)
	return b.ctx.Err()
}

func (b *bench) pings(c *contender, round int) (Sample, error) {
	var found []time.Duration
	if err := c.pair.sender.call(b.ctx, "Pings", b.settings.Burst, &found); err != nil {
		return Sample{}, err
	}
	return Sample{Round: round, P50: found[0], P99: found[1], P999: found[2]}, nil
}

// manyStores is the number of stores to which memory is measured, and settle
// how long their connections are left alone.
const (
	manyStores = 100
	settle     = time.Second
	// pingsPerStore are a heartbeat and an append, each on a connection of its own.
	pingsPerStore = 2
)

// memory is what a sender's connections to 100 stores cost while nothing is
// sent. Each round has processes of its own.
func (b *bench) memory() error {
	for round := range b.settings.Rounds {
		for _, arm := range []string{"connections raftmux", "connections bare", "connections alike"} {
			c := Case{Group: memory, Arm: arm, Shape: "heartbeat", Regions: manyStores, Stores: manyStores}
			sample, err := b.connections(c)
			if err != nil {
				b.results.fail(c, err)
				continue
			}
			sample.Round = round
			b.results.add(c, sample)
		}
		if err := b.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// connections measures the sender's memory before there are connections, and
// again when each has carried a message.
func (b *bench) connections(c Case) (Sample, error) {
	p := &pair{ctx: b.ctx, arm: c.Arm}
	defer p.stop()
	var before, after measure.Usage
	p.started = func() error { return p.sender.call(b.ctx, "Usage", true, &before) }
	if err := p.start(c.Stores, b.settings.Workers); err != nil {
		return Sample{}, err
	}
	if err := p.sender.call(b.ctx, "Ping", child.None{}, &child.None{}); err != nil {
		return Sample{}, err
	}
	var came child.AwaitReply
	if err := p.receiver.call(b.ctx, "Await", uint64(pingsPerStore*c.Stores), &came); err != nil {
		return Sample{}, err
	}
	if came.Count != uint64(pingsPerStore*c.Stores) { // connections that aren't there take no memory
		return Sample{}, fmt.Errorf("%d messages came to %d stores", came.Count, c.Stores)
	}
	time.Sleep(settle)
	if err := p.sender.call(b.ctx, "Usage", true, &after); err != nil {
		return Sample{}, err
	}
	return Sample{Bytes: float64(after.Go) - float64(before.Go), Sender: after}, nil
}

// blockedRounds are enough for what hardly varies.
const blockedRounds = 5

// blocked is what gRPC holds of a stream whose receiver has stopped reading.
func (b *bench) blocked() error {
	for _, shape := range b.settings.Shapes {
		cases := []Case{{Group: blocked, Arm: "blocked", Shape: shape, Regions: plainRegions, Stores: 1}}
		for round := range min(b.settings.Rounds, blockedRounds) {
			contenders := b.start(cases, plainRing)
			for _, c := range contenders {
				sample, err := b.held(c)
				if err != nil {
					b.results.fail(c.Case, err)
					continue
				}
				sample.Round = round
				b.results.add(c.Case, sample)
			}
			stopAll(contenders)
		}
	}
	return b.ctx.Err()
}

func (b *bench) held(c *contender) (Sample, error) {
	if err := c.pair.load(c.plan); err != nil {
		return Sample{}, err
	}
	var sent child.BurstReply
	var most uint64
	// The second burst finds windows and sockets full.
	for range 2 {
		if err := c.pair.sender.call(b.ctx, "Burst", child.BurstArgs{Duration: settle / 4}, &sent); err != nil {
			return Sample{}, err
		}
		var held uint64
		if err := c.pair.sender.call(b.ctx, "Held", child.None{}, &held); err != nil {
			return Sample{}, err
		}
		most = max(most, held)
	}
	if most == 0 || sent.Refused == 0 {
		return Sample{}, errors.New("the connection was never blocked")
	}
	return Sample{Bytes: float64(most), Refused: sent.Refused}, nil
}
