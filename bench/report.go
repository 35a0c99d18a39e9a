package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raftmux/raftmux/bench/internal/stats"
)

// report is what is written at the end.
type report struct {
	settings Settings
	results  *Results
	verdicts []Verdict
	began    time.Time
	took     time.Duration
}

// newReport judges the bars of which something was measured.
func newReport(settings Settings, results *Results, began time.Time) *report {
	r := &report{settings: settings, results: results, began: began, took: time.Since(began)}
	for _, bar := range bars() {
		if v := bar.judge(results); v.Rounds > 0 {
			r.verdicts = append(r.verdicts, v)
		}
	}
	return r
}

// write writes the files.
func (r *report) write(folder string) error {
	figures, err := r.json()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{
		{"bench.md", []byte(r.markdown())},
		{"bench.json", figures},
		{"bench.svg", []byte(r.chart())},
	} {
		if err := os.WriteFile(filepath.Join(folder, file.name), file.content, 0o644); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}

// markdown is all tables.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# raftmux side by side\n\n%s, %s, %d CPUs, %d rounds of %v, %d workers, %.0f s in all.\n",
		r.began.UTC().Format("2006-01-02 15:04 UTC"), runtime.Version(), runtime.NumCPU(),
		r.settings.Rounds, r.settings.Burst, r.settings.Workers, r.took.Seconds())
	if len(r.results.Failures) > 0 {
		fmt.Fprintf(&b, "\n## Failed\n\n")
		for _, failure := range r.results.Failures {
			fmt.Fprintf(&b, "- %s\n", failure)
		}
	}
	r.barTable(&b)
	r.floodTable(&b)
	r.latencyTable(&b)
	r.quietTable(&b)
	r.snapshotTable(&b)
	r.raftTable(&b)
	return b.String()
}

func (r *report) barTable(b *strings.Builder) {
	if len(r.verdicts) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Bars\n\nMedians over rounds, with the 95 %% interval by bootstrap; its unfavourable end is judged, unrounded. Figures are rounded to where they are worse.\n\n")
	fmt.Fprintf(b, "| measure | bar | median | 95 %% interval | rate | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, v := range r.verdicts {
		sign, met := "≤", "**not met**"
		if v.AtLeast {
			sign = "≥"
		}
		if v.Met {
			met = "met"
		}
		rate := ""
		if !math.IsNaN(v.Rates.Median) {
			rate = number(v.Rates.Median) + "x"
		}
		fmt.Fprintf(b, "| %s | %s %s%s | %s | %s to %s | %s | %s |\n", v.Measure, sign, number(v.Limit), v.Unit,
			v.worse(v.Interval.Median), v.worse(v.Interval.Low), v.worse(v.Interval.High), rate, met)
	}
}

func (r *report) floodTable(b *strings.Builder) {
	cases := r.cases(throughput, regions, stores)
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## As fast as it goes\n\nMedians over rounds. CPU and allocations are per message, sender / receiver; memory is the process's RSS and Go's heap and stacks, in MiB, after a burst.\n\n")
	fmt.Fprintf(b, "| shape | regions | stores | transport | messages/s | CPU ns | both | allocations | RSS | Go | refused | lost |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range cases {
		m := func(figure func(Sample) float64) float64 { return stats.Median(r.results.values(c, figure)) }
		refused, lost := r.losses(c)
		fmt.Fprintf(b, "| %s | %d | %d | %s | %s | %s / %s | %s | %.3f / %.3f | %.0f / %.0f | %.0f / %.0f | %.2f %% | %d |\n",
			c.Shape, c.Regions, c.Stores, c.Arm, rateText(m(rateOf)),
			number(m(func(s Sample) float64 { return s.SenderCPU })), number(m(func(s Sample) float64 { return s.ReceiverCPU })), number(m(Sample.CPU)),
			m(func(s Sample) float64 { return s.SenderAllocs }), m(func(s Sample) float64 { return s.ReceiverAllocs }),
			m(func(s Sample) float64 { return float64(s.Sender.RSS) / MiB }), m(func(s Sample) float64 { return float64(s.Receiver.RSS) / MiB }),
			m(func(s Sample) float64 { return float64(s.Sender.Go) / MiB }), m(func(s Sample) float64 { return float64(s.Receiver.Go) / MiB }),
			100*refused, lost)
	}
}

func (r *report) latencyTable(b *strings.Builder) {
	cases := r.cases(latency, roundTrip)
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Latency\n\nOne way at half of the usual way's rate, and the idle round trip. Microseconds, medians over rounds.\n\n")
	fmt.Fprintf(b, "| group | shape | transport | messages/s | p50 | p99 | p99.9 | CPU ns, both | lost |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range cases {
		m := func(figure func(Sample) float64) float64 { return stats.Median(r.results.values(c, figure)) }
		_, lost := r.losses(c)
		rate, cpu := "", ""
		if c.Group == latency {
			rate, cpu = rateText(m(rateOf)), number(m(Sample.CPU))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %.1f | %.1f | %.1f | %s | %d |\n", c.Group, c.Shape, c.Arm, rate,
			m(p50)/1000, m(p99)/1000, m(func(s Sample) float64 { return float64(s.P999) })/1000, cpu, lost)
	}
}

func (r *report) quietTable(b *strings.Builder) {
	cases := r.cases(memory, blocked)
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Memory\n\nIdle: Go's heap and stacks that 100 stores cost the sender, garbage gone, and its RSS. Blocked: the most that gRPC holds of one connection. MiB, medians over rounds.\n\n")
	fmt.Fprintf(b, "| group | shape | what | MiB | RSS |\n| --- | --- | --- | --- | --- |\n")
	for _, c := range cases {
		rss := ""
		if c.Group == memory {
			rss = number(stats.Median(r.results.values(c, func(s Sample) float64 { return float64(s.Sender.RSS) / MiB })))
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", c.Group, c.Shape, c.Arm,
			number(stats.Median(r.results.values(c, func(s Sample) float64 { return s.Bytes / MiB }))), rss)
	}
}

func (r *report) snapshotTable(b *strings.Builder) {
	cases := r.cases(snapshots)
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Snapshots\n\nFiles from disk to disk, synced, of 1 GiB and, a hundred at once, of 16 MiB; memory is the peak above that before, sender / receiver. Round trips of a heartbeat each millisecond, in microseconds. Medians over rounds.\n\n")
	fmt.Fprintf(b, "| what | transport | MB/s | MiB | p50 | p99 | p99.9 |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range cases {
		m := func(figure func(Sample) float64) float64 { return stats.Median(r.results.values(c, figure)) }
		if slices.Contains(fileShapes(), c.Shape) {
			fmt.Fprintf(b, "| %s | %s | %.0f | %.0f / %.0f | | | |\n", c.Shape, c.Arm, m(rateOf)/1e6,
				m(func(s Sample) float64 { return float64(s.SenderPeak) / MiB }), m(func(s Sample) float64 { return float64(s.ReceiverPeak) / MiB }))
			continue
		}
		fmt.Fprintf(b, "| heartbeats %s | %s | | | %.1f | %.1f | %.1f |\n", c.Shape, c.Arm,
			m(p50)/1000, m(p99)/1000, m(func(s Sample) float64 { return float64(s.P999) })/1000)
	}
}

func (r *report) raftTable(b *strings.Builder) {
	cases := r.cases(raftful)
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Real Raft groups\n\nThree stores in one process; clients write to each group's leader and wait. CPU is of all that, for each write; latencies are from proposal to acknowledgement, in ms. Elected are leaders, orphaned the writes that were under way when theirs fell. Medians over rounds.\n\n")
	fmt.Fprintf(b, "| groups | transport | writes/s | CPU µs | p50 | p99 | refused | elected | orphaned |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range cases {
		m := func(figure func(Sample) float64) float64 { return stats.Median(r.results.values(c, figure)) }
		fmt.Fprintf(b, "| %s | %s | %.0f | %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", c.Shape, c.Arm, m(rateOf),
			number(m(Sample.CPU)/1000), m(p50)/1e6, m(p99)/1e6, m(func(s Sample) float64 { return float64(s.Refused) }),
			m(func(s Sample) float64 { return float64(s.Elected) }), m(func(s Sample) float64 { return float64(s.Lost) }))
	}
}

// losses returns the share of attempts that were refused, and how many messages
// were lost in all rounds.
func (r *report) losses(c Case) (refused float64, lost int64) {
	var attempts, refusals float64
	for _, s := range r.results.Samples[c] {
		attempts += float64(s.Messages + s.Refused)
		refusals += float64(s.Refused)
		lost += s.Lost
	}
	if attempts == 0 {
		return 0, lost
	}
	return refusals / attempts, lost
}

// cases returns those of some groups, in the order in which they are told.
func (r *report) cases(groups ...string) []Case {
	var cases []Case
	for c := range r.results.Samples {
		if slices.Contains(groups, c.Group) {
			cases = append(cases, c)
		}
	}
	key := func(c Case) []int {
		return []int{
			slices.Index(groups, c.Group), slices.Index(slices.Concat(snapshotShapes(), raftShapes(), r.settings.Shapes), c.Shape),
			c.Stores, c.Regions, slices.Index(allArms(), c.Arm),
		}
	}
	slices.SortFunc(cases, func(a, b Case) int { return slices.Compare(key(a), key(b)) })
	return cases
}

// json is every sample and verdict. Infinities, which JSON doesn't have, are null.
func (r *report) json() ([]byte, error) {
	type series struct {
		Case
		Samples []Sample
	}
	type verdict struct {
		Measure           string
		AtLeast           bool
		Limit             float64
		Median, Low, High *float64
		Rate              *float64
		Rounds            int
		Met               bool
	}
	var all struct {
		Began    time.Time
		Settings Settings
		Failures []string
		Bars     []verdict
		Series   []series
	}
	all.Began, all.Settings, all.Failures = r.began.UTC(), r.settings, r.results.Failures
	for _, v := range r.verdicts {
		all.Bars = append(all.Bars, verdict{
			v.Measure, v.AtLeast, v.Limit, finite(v.Interval.Median), finite(v.Interval.Low), finite(v.Interval.High),
			finite(v.Rates.Median), v.Rounds, v.Met,
		})
	}
	for _, c := range r.cases(allGroups()...) {
		all.Series = append(all.Series, series{c, r.results.Samples[c]})
	}
	text, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return append(text, '\n'), nil
}

func finite(value float64) *float64 {
	if math.IsInf(value, 0) || math.IsNaN(value) {
		return nil
	}
	return &value
}

// number has three digits that count, or all before the point.
func number(value float64) string { return digits(value, math.Round) }

// worse is number, rounded to where it is worse for who has to meet the bar.
func (v Verdict) worse(value float64) string {
	if v.AtLeast {
		return digits(value, math.Floor)
	}
	return digits(value, math.Ceil)
}

func digits(value float64, round func(float64) float64) string {
	if math.IsInf(value, 0) || math.IsNaN(value) {
		return "?"
	}
	places := 3
	for size := math.Abs(value); places > 0 && size >= 1; places-- {
		size /= 10
	}
	scale := math.Pow10(places)
	// What binary fractions add or lack is no reason to round.
	scaled := math.Round(value*scale*1e6) / 1e6
	return strconv.FormatFloat(round(scaled)/scale, 'f', places, 64)
}

func rateText(value float64) string {
	switch {
	case value >= 1e6:
		return fmt.Sprintf("%.2f M", value/1e6)
	case value >= 1e3:
		return fmt.Sprintf("%.1f k", value/1e3)
	default:
		return fmt.Sprintf("%.0f", value)
	}
}
