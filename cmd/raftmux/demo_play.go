package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// demo is one performance. It is one goroutine's, which also owns the cluster.
type demo struct {
	flags   demoFlags
	print   *printer
	cluster *cluster
	load    *workload
	tallies map[uint64]*tally
	begin   time.Time
	facts   facts
}

// facts are what the summary tells.
type facts struct {
	killed                  uint64        // the store, 0 if none
	killedAt, restartedAt   time.Duration // since the writing began
	orphans                 uint64        // regions that the killed store led
	led                     time.Duration // from the kill until every region was led
	slowest                 time.Duration // write, from the kill until the end
	plugAt, back, converged time.Duration
	connections             uint64
	moved                   moved         // of a store that lost its data
	movedAt                 time.Duration // when the last region had moved, 0 before
	shown                   bool          // whether the end of it was
}

// play writes, kills, tells, and checks.
func (d *demo) play(ctx context.Context, run string) error {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	d.load = newWorkload(run, d.flags.writers, d.flags.valueSize, d.cluster.children)
	d.begin = time.Now()
	d.load.start(writing)
	err := d.watch(ctx)
	if err == nil {
		err = d.pullThePlug(ctx)
	}
	stop()
	d.load.wait()
	if err != nil {
		return err
	}
	// Stores that don't come to agree have lost something; the check tells what.
	disagreement := d.restart(ctx)
	if errors.Is(disagreement, errInterrupted) {
		return disagreement
	}
	if err := d.cluster.stopAll(); err != nil {
		return errors.Join(disagreement, err)
	}
	verdict, err := check(d.load, d.cluster.children)
	if err != nil {
		return errors.Join(disagreement, err)
	}
	d.summarize(verdict)
	if err := errors.Join(disagreement, verdict.err()); err != nil {
		return err
	}
	if stale := d.load.sum(func(w *writer) int64 { return w.stale.Load() }); stale > 0 {
		return fmt.Errorf("%d reads did not find an acknowledged value", stale)
	}
	return nil
}

func (d *demo) now() time.Duration { return time.Since(d.begin) }

// watch prints the table, and kills and restarts one store on the way.
func (d *demo) watch(ctx context.Context) (err error) {
	length := d.flags.length
	second := time.NewTicker(time.Second)
	defer second.Stop()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	end := time.NewTimer(length)
	defer end.Stop()
	kill := time.NewTimer(length / 2)
	defer kill.Stop()
	restart := time.NewTimer(length) // set when the store was killed
	restart.Stop()
	defer restart.Stop()
	victim := d.cluster.children[len(d.cluster.children)-1]
	last, over := d.begin, false
	for {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-second.C:
			if err := d.report(ctx, victim, time.Since(last)); err != nil {
				return err
			}
			last = time.Now()
		case <-look.C:
			if d.facts.killed != 0 && d.facts.led == 0 {
				d.lookForLeaders(ctx)
			}
			if d.facts.restartedAt != 0 && d.flags.wipe && d.facts.movedAt == 0 {
				if err := d.lookForMoves(ctx, victim); err != nil {
					return err
				}
			}
		case <-kill.C:
			if err := d.killOne(ctx, victim); err != nil {
				return err
			}
			// Long enough for the others to notice and take over.
			restart.Reset(min(length/4, 3*time.Second))
		case <-restart.C:
			if victim, err = d.bringBack(ctx, victim); err != nil {
				return err
			}
		case <-end.C:
			over = true
		}
		if over && d.facts.restartedAt != 0 && (!d.flags.wipe || d.facts.movedAt > 0) {
			return nil
		}
	}
}

// killOne kills a store, and takes its data away if this is that kind of demo.
func (d *demo) killOne(ctx context.Context, victim *child) error {
	if i, err := victim.info(ctx); err == nil {
		d.tally(victim.id).look(i)
		d.facts.orphans = i.number("leaders")
	}
	d.load.slowest()
	victim.kill()
	d.facts.killed, d.facts.killedAt = victim.id, d.now()
	d.print.event(d.now(), red, fmt.Sprintf("SIGKILL to store %d, which led %d regions", victim.id, d.facts.orphans))
	if !d.flags.wipe {
		return nil
	}
	d.print.event(d.now(), red, fmt.Sprintf("store %d's data folder is removed", victim.id))
	return os.RemoveAll(victim.dir)
}

// bringBack starts the store again that was killed, or, if its data is gone,
// another one in its place, which it returns.
func (d *demo) bringBack(ctx context.Context, victim *child) (*child, error) {
	if d.flags.wipe {
		return d.replace(ctx, victim)
	}
	if err := d.cluster.start(victim); err != nil {
		return nil, err
	}
	d.facts.restartedAt = d.now()
	d.print.event(d.now(), green, fmt.Sprintf("store %d is started again", victim.id))
	return victim, nil
}

// lookForLeaders notes when every region is led again after the kill.
func (d *demo) lookForLeaders(ctx context.Context) {
	var led uint64
	for _, i := range d.infos(ctx) {
		led += i.number("leaders")
	}
	if led < uint64(d.cluster.regions) {
		return
	}
	d.facts.led = d.now() - d.facts.killedAt
	if d.facts.restartedAt == 0 {
		d.print.event(d.now(), green, fmt.Sprintf("all %d regions are led again, %s after the kill",
			d.cluster.regions, seconds(d.facts.led)))
	}
}

// infos asks all living stores at once.
func (d *demo) infos(ctx context.Context) map[uint64]info {
	var mu sync.Mutex
	var asking sync.WaitGroup
	infos := map[uint64]info{}
	for _, s := range d.cluster.children {
		if !s.running() {
			continue
		}
		asking.Go(func() {
			i, err := s.info(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			infos[s.id] = i
		})
	}
	asking.Wait()
	return infos
}

func (d *demo) tally(store uint64) *tally {
	if d.tallies[store] == nil {
		d.tallies[store] = newTally()
	}
	return d.tallies[store]
}

// report prints one line per store.
func (d *demo) report(ctx context.Context, victim *child, passed time.Duration) error {
	infos := d.infos(ctx)
	at := d.now()
	connections := uint64(0)
	for position, s := range d.cluster.children {
		i, ok := infos[s.id]
		switch {
		case !s.running() && (s != victim || d.facts.killed == 0 || d.facts.restartedAt != 0):
			return s.crashed()
		case !s.running():
			d.print.silent(at, s.id, "dead", position == 0)
		case !ok:
			d.print.silent(at, s.id, "does not answer yet", position == 0)
		default:
			connections += i.number("connections_out")
			d.print.row(at, rowOf(s.id, i, d.tally(s.id).look(i), passed), position == 0)
		}
	}
	d.facts.connections = max(d.facts.connections, connections)
	d.showMoves()
	return nil
}

func rowOf(store uint64, i info, added map[string]uint64, passed time.Duration) row {
	rate := func(key string) float64 { return float64(added[key]) / passed.Seconds() }
	return row{
		store:       store,
		leaders:     i.number("leaders"),
		messagesOut: rate("messages_out"),
		messagesIn:  rate("messages_in"),
		bytesOut:    rate("bytes_out"),
		bytesIn:     rate("bytes_in"),
		perBatch:    ratio(added["messages_out"], added["batches_out"]),
		queue:       i.number("messages_queued"),
		drops:       added["messages_dropped"],
		writes:      rate("writes_acknowledged"),
	}
}

func ratio(a, b uint64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// pullThePlug kills all stores at once, under load: what they had acknowledged
// and not synced would be gone with their memory.
func (d *demo) pullThePlug(ctx context.Context) error {
	for id, i := range d.infos(ctx) {
		d.tally(id).look(i)
	}
	for _, s := range d.cluster.children {
		if !s.running() {
			return s.crashed()
		}
	}
	d.facts.slowest = d.load.slowest()
	d.cluster.killAll()
	d.facts.plugAt = d.now()
	d.print.event(d.now(), red, fmt.Sprintf("SIGKILL to all %d stores at once, with %d writes under way",
		len(d.cluster.children), d.flags.writers))
	return nil
}

// restart starts all stores again and waits until they agree.
func (d *demo) restart(ctx context.Context) error {
	begin := time.Now()
	if err := d.cluster.startAll(); err != nil {
		return err
	}
	if err := d.cluster.waitReady(ctx, time.Minute); err != nil {
		return fmt.Errorf("after all stores were killed: %w", err)
	}
	d.facts.back = time.Since(begin)
	d.print.event(d.now(), green, fmt.Sprintf("all stores are back, every region is led after %s", seconds(d.facts.back)))
	if err := d.cluster.waitConverged(ctx, time.Minute); err != nil {
		return fmt.Errorf("after all stores were killed: %w", err)
	}
	d.facts.converged = time.Since(begin)
	return nil
}
