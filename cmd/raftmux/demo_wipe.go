package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// How long the steps of a replacement may take.
const (
	refusalLimit = 20 * time.Second
	joinLimit    = 20 * time.Second
	moveLimit    = 3 * time.Minute
)

// moved is how far a store is that takes the place of one without data.
type moved struct {
	store    uint64
	regions  uint64 // that have a voter on the store
	learners uint64
	bytes    uint64 // of snapshots
	underWay uint64
	rate     float64 // bytes per second, since the last look a second ago or so
	left     uint64  // seconds until what is under way has come, 0 if nobody can tell
}

// replace shows what becomes of a store whose data is gone: it is refused under
// its old id, joins as a new store, and all regions are told to use that one.
func (d *demo) replace(ctx context.Context, victim *child) (*child, error) {
	if err := d.showRefusal(ctx, victim); err != nil {
		return nil, err
	}
	position := slices.Index(d.cluster.children, victim)
	next, err := d.cluster.join(ctx, position, uint64(len(d.cluster.children)+len(d.cluster.former)+1))
	if err != nil {
		return nil, err
	}
	d.print.event(d.now(), green, fmt.Sprintf("it joins as store %d, with nothing", next.id))
	regions, err := d.order(ctx, victim, next)
	if err != nil {
		return nil, err
	}
	// It begins when it hears that the old one is gone for good.
	if err := next.waitUntil(ctx, func(i info) bool { return i["serving"] == "true" }); err != nil {
		return nil, err
	}
	d.load.move(position, next)
	d.facts.restartedAt = d.now()
	d.facts.moved.store = next.id
	d.print.event(d.now(), green, fmt.Sprintf("RAFT.REPLACE %d %d: %d regions have noted it", victim.id, next.id, regions))
	return next, nil
}

// showRefusal starts the store as if nothing had happened, which must fail.
func (d *demo) showRefusal(ctx context.Context, victim *child) error {
	if err := d.cluster.start(victim); err != nil {
		return err
	}
	select {
	case <-victim.exited:
	case <-time.After(refusalLimit):
		victim.kill()
		return fmt.Errorf("store %d was started without its data, and was not refused", victim.id)
	case <-ctx.Done():
		return errInterrupted
	}
	text, err := os.ReadFile(victim.logPath())
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	words := lines[len(lines)-1]
	if victim.failure == nil || !strings.Contains(words, "was a member before") {
		return fmt.Errorf("store %d was started without its data and ended with %w; its last words:\n    %s", victim.id, victim.failure, words)
	}
	d.print.event(d.now(), yellow, fmt.Sprintf("store %d is started again, and refused:", victim.id))
	for part := range strings.SplitSeq(strings.TrimPrefix(words, "raftmux: "), "; ") {
		d.print.println(d.print.paint(dim, "           "+part))
	}
	return nil
}

// join starts a new store in the place of another, and waits until it asks
// the others whether it may begin.
func (c *cluster) join(ctx context.Context, position int, id uint64) (*child, error) {
	victim := c.children[position]
	var next *child
	for try := 1; ; try++ {
		addresses, err := freeAddresses(2)
		if err != nil {
			return nil, err
		}
		next = c.newChild(id, addresses[0], addresses[1])
		next.joins = true
		others := slices.DeleteFunc(slices.Clone(c.children), func(s *child) bool { return s == victim })
		next.peers = peersFlag(append(others, next))
		if err := c.start(next); err != nil {
			return nil, err
		}
		err = next.waitUntil(ctx, func(info) bool { return true })
		if err == nil {
			break
		}
		next.kill()
		_ = next.client.Close()
		if !errors.Is(err, errPortTaken) || try == startTries {
			return nil, err
		}
		if err := errors.Join(os.RemoveAll(next.dir), os.Remove(next.logPath())); err != nil {
			return nil, err
		}
	}
	c.former = append(c.former, victim)
	c.children[position] = next
	return next, nil
}

// waitUntil waits until what a joining store says of itself is as it should be.
func (s *child) waitUntil(ctx context.Context, done func(info) bool) error {
	limit := time.After(joinLimit)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		if i, err := s.info(ctx); err == nil && done(i) {
			return nil
		}
		select {
		case <-look.C:
		case <-s.exited:
			if text, _ := os.ReadFile(s.logPath()); strings.Contains(string(text), "address already in use") {
				return errors.Join(errPortTaken, s.crashed())
			}
			return s.crashed()
		case <-limit:
			return fmt.Errorf("store %d did not join within %v; see %s", s.id, joinLimit, s.logPath())
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

// order tells the cluster to use one store in the place of another. It is told
// again until every region has noted it: some may be without a leader just now.
func (d *demo) order(ctx context.Context, victim, next *child) (regions int64, err error) {
	deadline := time.Now().Add(joinLimit)
	for {
		for _, s := range d.cluster.children {
			if s == next {
				continue
			}
			if regions, err = s.client.Do(ctx, "RAFT.REPLACE", victim.id, next.id, next.raftAddr).Int64(); err == nil {
				return regions, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return 0, errInterrupted
		case time.Now().After(deadline):
			return 0, fmt.Errorf("replace store %d: %w", victim.id, err)
		}
	}
}

// lookForMoves notes how far the new store is.
func (d *demo) lookForMoves(ctx context.Context, next *child) error {
	if d.now()-d.facts.restartedAt > moveLimit {
		return fmt.Errorf("store %d has %d of %d regions after %v; see %s",
			next.id, d.facts.moved.regions, d.cluster.regions, moveLimit, next.logPath())
	}
	i, err := next.info(ctx)
	if err != nil {
		return nil // report finds out if it is dead
	}
	m := &d.facts.moved
	m.regions, m.learners = i.number("voters"), i.number("learners")
	m.bytes, m.underWay = i.number("snapshot_bytes_in"), i.number("snapshots_under_way_in")
	m.rate = max(m.rate, float64(i.number("snapshot_rate_in")))
	m.left = i.number("snapshot_left_seconds_in")
	if m.regions == uint64(d.cluster.regions) {
		d.facts.movedAt = d.now()
		d.showMoves()
		d.print.event(d.now(), green, fmt.Sprintf("store %d has all %d regions, %s after it joined: %s of snapshots",
			next.id, d.cluster.regions, seconds(d.facts.movedAt-d.facts.restartedAt), mebibytes(m.bytes)))
	}
	return nil
}

// barWidth is that of the progress bar.
const barWidth = 30

// showMoves draws how far the new store is.
func (d *demo) showMoves() {
	m := &d.facts.moved
	if m.store == 0 || d.facts.shown {
		return
	}
	d.facts.shown = d.facts.movedAt > 0
	full := int(m.regions) * barWidth / d.cluster.regions
	d.print.println(d.print.paint(yellow, fmt.Sprintf("        store %d [%s%s] %d/%d regions moved, %d learn; snapshots: %s, %d under way, %s/s%s",
		m.store, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), m.regions, d.cluster.regions,
		m.learners, mebibytes(m.bytes), m.underWay, mebibytes(uint64(m.rate)), m.leftText())))
	m.rate = 0
}

// leftText says how long what is under way still takes, if anything is and that is known.
func (m *moved) leftText() string {
	if m.underWay == 0 || m.left == 0 {
		return ""
	}
	return fmt.Sprintf(", %d s left", m.left)
}
