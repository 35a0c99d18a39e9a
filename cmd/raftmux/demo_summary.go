package main

import (
	"fmt"
	"slices"
	"strings"
)

// summarize prints what happened, for a person.
func (d *demo) summarize(v *verdict) {
	p := d.print
	line := func(label, format string, args ...any) {
		p.println(fmt.Sprintf("  %s %s", p.paint(dim, fmt.Sprintf("%-12s", label)), fmt.Sprintf(format, args...)))
	}
	total := map[string]uint64{}
	dropped := map[string]uint64{}
	for _, t := range d.tallies {
		for key, n := range t.total {
			total[key] += n
		}
		for reason, n := range t.dropped {
			dropped[reason] += n
		}
	}
	stores := len(d.cluster.children)
	p.println("\n" + p.paint(bold, "summary"))

	lost := p.paint(green, "0 lost")
	if n := len(v.lost); n > 0 {
		lost = p.paint(red, grouped(int64(n))+" LOST")
	}
	line("writes", "%s acknowledged, %s; %s/s, p50 %s, p99 %s", grouped(v.acked), lost,
		grouped(int64(float64(v.acked)/d.facts.plugAt.Seconds())), d.quantile(0.5), d.quantile(0.99))
	line("", "%d were under way at the end, %d of them took effect; %s answers were errors and repeated",
		v.unknown, v.took, grouped(d.load.sum(func(w *writer) int64 { return w.errors.Load() })))
	stale := d.load.sum(func(w *writer) int64 { return w.stale.Load() })
	where := "at another store"
	if stores == 1 {
		where = "there"
	}
	line("reads", "%s acknowledged writes read back %s, %d stale",
		grouped(d.load.sum(func(w *writer) int64 { return w.checked.Load() })), where, stale)
	equal := p.paint(green, "equal")
	if v.unequal > 0 || v.wrong > 0 || v.unasked > 0 {
		equal = p.paint(red, fmt.Sprintf("%d DIFFER, %d wrong values, %d keys of nobody", v.unequal, v.wrong, v.unasked))
	}
	line("replicas", "%s on %s, checked in each store's Pebble: %s", count(v.compared, "region"), count(stores, "store"), equal)

	line("messages", "%s sent in %s batches, %.1f per batch; %s", grouped(int64(total["messages_out"])),
		grouped(int64(total["batches_out"])), ratio(total["messages_out"], total["batches_out"]), mebibytes(total["bytes_out"]))
	line("", "%s over %s between %s", count(v.compared, "region"),
		count(int(d.facts.connections), "TCP connection"), count(stores, "store"))
	line("drops", "%s", dropsText(dropped))
	line("disk", "%s synced batches, %.1f acknowledged writes to each",
		grouped(int64(total["synced_batches"])), ratio(uint64(v.acked), total["synced_batches"]))
	d.summarizeKills(line, total["became_leader"])
	if v.err() == nil && stale == 0 && d.facts.converged > 0 {
		p.println("\n" + p.paint(green, "OK") + "  every acknowledged write is on every store, and the replicas are equal\n")
	} else {
		p.println("\n" + p.paint(red, "FAILED") + "  see below\n")
	}
}

func (d *demo) summarizeKills(line func(label, format string, args ...any), elections uint64) {
	f := &d.facts
	if f.movedAt > 0 {
		line("wipe", "store %d lost its data at %.1fs and was refused; store %d joined at %.1fs and had all %s regions %s later",
			f.killed, f.killedAt.Seconds(), f.moved.store, f.restartedAt.Seconds(), grouped(int64(d.cluster.regions)), seconds(f.movedAt-f.restartedAt))
		line("", "%s of snapshots, %s/s; the slowest write since the kill took %s", mebibytes(f.moved.bytes),
			mebibytes(uint64(float64(f.moved.bytes)/(f.movedAt-f.restartedAt).Seconds())), seconds(f.slowest))
	} else if f.killed != 0 && len(d.cluster.children) > 2 {
		led := "not all regions were led again before it was back"
		if f.led > 0 {
			led = "all regions were led again after " + seconds(f.led)
		}
		line("kill", "store %d at %.1fs, which led %d regions; %s,", f.killed, f.killedAt.Seconds(), f.orphans, led)
		line("", "it was started again at %.1fs; the slowest write since the kill took %s", f.restartedAt.Seconds(), seconds(f.slowest))
	}
	equal := "they never agreed"
	if f.converged > 0 {
		equal = "all agreed after " + seconds(f.converged)
	}
	line("plug pulled", "all stores at %.1fs; every region was led again after %s, and %s", f.plugAt.Seconds(), seconds(f.back), equal)
	line("leaders", "%s elections for %s regions; leaders go back to their home store when it is well",
		grouped(int64(elections)), grouped(int64(d.cluster.regions)))
}

func (d *demo) quantile(q float64) string { return seconds(d.load.percentiles(q)[0]) }

func dropsText(dropped map[string]uint64) string {
	if len(dropped) == 0 {
		return "none"
	}
	var parts []string
	for reason, n := range dropped {
		parts = append(parts, fmt.Sprintf("%s %s", grouped(int64(n)), reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ") + " (each reported to Raft, which sends again what matters)"
}
