package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/snapshot"
)

// The files that are carried, but for a smoke test.
const (
	snapshotSize      = 1 << 30
	quickSnapshotSize = 8 << 20
	manySnapshots     = 100
	manyRounds        = 5
	manySize          = 16 << 20
	quickManySize     = 1 << 20
)

// The shapes of the group: what is carried, and what heartbeats are timed beside.
const (
	wholeFile       = "1 GiB"
	hundredFiles    = "100 at once, of 16 MiB, no limit"
	hundredLimited  = "100 at once, of 16 MiB, 100 MiB/s"
	besideNothing   = "beside nothing"
	besideLimited   = "beside a snapshot, 100 MiB/s"
	besideUnlimited = "beside a snapshot, no limit"
)

// fileShapes are those of which the files are measured, not the heartbeats.
func fileShapes() []string { return []string{wholeFile, hundredFiles, hundredLimited} }

func snapshotShapes() []string {
	return append(fileShapes(), besideNothing, besideLimited, besideUnlimited)
}

func snapshotCase(arm, shape string) Case {
	return Case{Group: snapshots, Arm: arm, Shape: shape, Regions: 1, Stores: 1}
}

// snapshots is a large file from one store's disk to another's, next to a plain
// copy, and what heartbeats between the two stores take meanwhile.
func (b *bench) snapshots() (err error) {
	folder, err := os.MkdirTemp("", "raftmux-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	path, size := filepath.Join(folder, "data"), int64(snapshotSize)
	small, smallSize := filepath.Join(folder, "small"), int64(manySize)
	if b.settings.Burst <= quickBurst {
		size, smallSize = quickSnapshotSize, quickManySize
	}
	if err := errors.Join(writeFile(path, size), writeFile(small, smallSize)); err != nil {
		return err
	}
	var contenders []*contender
	defer func() { stopAll(contenders) }()
	for _, arm := range []string{"snapshot raftmux", "snapshot raw"} {
		c := snapshotCase(arm, wholeFile)
		p := &pair{ctx: b.ctx, arm: arm, folder: folder}
		contenders = append(contenders, &contender{Case: c, pair: p})
		if err := p.start(1, b.settings.Workers); err != nil {
			return err
		}
		if _, err := b.carry(contenders[len(contenders)-1].pair, child.CarryArgs{Path: path}, size); err != nil { // the first doesn't count
			return err
		}
	}
	for round := range b.settings.Rounds {
		for _, c := range contenders {
			if err := b.carryRound(c.pair, round, wholeFile, child.CarryArgs{Path: path}, size); err != nil {
				return err
			}
		}
	}
	for round := range min(b.settings.Rounds, manyRounds) {
		for _, many := range []struct {
			shape string
			rate  int64
		}{{hundredFiles, 0}, {hundredLimited, snapshot.DefaultRate}} {
			args := child.CarryArgs{Path: small, Rate: many.rate, Times: manySnapshots}
			if err := b.carryRound(contenders[0].pair, round, many.shape, args, manySnapshots*smallSize); err != nil {
				return err
			}
		}
	}
	return b.beats(contenders[0], path)
}

// carryRound is a round's part of a shape of files.
func (b *bench) carryRound(p *pair, round int, shape string, args child.CarryArgs, size int64) error {
	sample, err := b.carry(p, args, size)
	if err != nil {
		return err
	}
	sample.Round = round
	b.results.add(snapshotCase(p.arm, shape), sample)
	return nil
}

// carry sends a file, size bytes in all.
func (b *bench) carry(p *pair, args child.CarryArgs, size int64) (Sample, error) {
	var senderBefore, receiverBefore, senderPeak, receiverPeak uint64
	var took time.Duration
	sender, receiver := p.sender, p.receiver
	for _, step := range []func() error{
		func() error { return sender.call(b.ctx, "ResetPeak", child.None{}, &senderBefore) },
		func() error { return receiver.call(b.ctx, "ResetPeak", child.None{}, &receiverBefore) },
		func() error { return sender.call(b.ctx, "Carry", args, &took) },
		func() error { return sender.call(b.ctx, "Peak", child.None{}, &senderPeak) },
		func() error { return receiver.call(b.ctx, "Peak", child.None{}, &receiverPeak) },
	} {
		if err := step(); err != nil {
			return Sample{}, err
		}
	}
	above := func(before, peak uint64) uint64 { return peak - min(before, peak) }
	return Sample{
		Rate:       float64(size) / took.Seconds(),
		SenderPeak: above(senderBefore, senderPeak), ReceiverPeak: above(receiverBefore, receiverPeak),
	}, nil
}

// How many bursts long heartbeats are timed. Of one a millisecond, the p99 of a
// second's varies by half, and that of five seconds' by a quarter; a bar wants better
// than that, so they have besideRounds rounds for each of everything else.
const (
	besideFactor    = 4
	besideBarFactor = 14
	besideRounds    = 2
)

// beats times heartbeats with nothing else going on and beside the file, in turns.
func (b *bench) beats(c *contender, path string) error {
	for round := range besideRounds * b.settings.Rounds {
		for _, turn := range []struct {
			shape  string
			bursts time.Duration
			beside *child.CarryArgs
		}{
			{besideNothing, besideBarFactor, nil},
			{besideLimited, besideBarFactor, &child.CarryArgs{Path: path, Rate: snapshot.DefaultRate}},
			{besideUnlimited, besideFactor, &child.CarryArgs{Path: path}},
		} {
			var found []time.Duration
			args := child.BeatsArgs{Duration: turn.bursts * b.settings.Burst, Beside: turn.beside}
			if err := c.pair.sender.call(b.ctx, "Beats", args, &found); err != nil {
				return err
			}
			b.results.add(snapshotCase(c.Arm, turn.shape), Sample{Round: round, P50: found[0], P99: found[1], P999: found[2]})
		}
	}
	return b.ctx.Err()
}

// writeFile writes a synced file of bytes that don't repeat.
func writeFile(path string, size int64) error {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	source := rand.NewChaCha8([32]byte{7})
	block := make([]byte, 1<<20)
	for written := int64(0); written < size; written += int64(len(block)) {
		_, _ = source.Read(block) // it never fails
		if _, err := file.Write(block); err != nil {
			return errors.Join(fmt.Errorf("bench: %w", err), file.Close())
		}
	}
	return errors.Join(file.Sync(), file.Close())
}
