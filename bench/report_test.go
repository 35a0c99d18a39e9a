package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// sampled returns results in which raftmux takes 100 ns and another transport a
// multiple of it.
func sampled(times float64) *Results {
	r := newResults()
	for round := range 15 {
		wobble := 1 + float64(round%3)/100
		r.add(flooded("raftmux", "heartbeat"), Sample{Round: round, Messages: 1, Rate: 2e6, SenderCPU: 40 * wobble, ReceiverCPU: 60 * wobble})
		r.add(flooded("usual", "heartbeat"), Sample{Round: round, Messages: 1, Rate: 1e6, SenderCPU: 100, ReceiverCPU: 100*times - 100})
	}
	return r
}

func verdictOn(t *testing.T, r *Results, measure string) Verdict {
	t.Helper()
	report := newReport(Settings{Shapes: []string{"heartbeat"}}, r, time.Now())
	i := slices.IndexFunc(report.verdicts, func(v Verdict) bool { return v.Measure == measure })
	if i < 0 {
		t.Fatalf("no bar is called %q", measure)
	}
	return report.verdicts[i]
}

const heartbeats = "raftmux against usual, heartbeat"

// The unfavourable end decides: a median above the bar is not enough.
func TestBarsAreJudgedAtTheUnfavourableEnd(t *testing.T) {
	if v := verdictOn(t, sampled(2.5), heartbeats); !v.Met || v.Rates.Median != 2 {
		t.Errorf("2.5 times the cost: %+v", v)
	}
	v := verdictOn(t, sampled(2.221), heartbeats)
	if v.Met || v.Interval.Low >= 2.2 {
		t.Errorf("an interval that begins below the bar: %+v", v)
	}
	if v := verdictOn(t, sampled(2.0), heartbeats); v.Met {
		t.Errorf("twice the cost: %+v", v)
	}
}

func TestAtMost(t *testing.T) {
	bar := Bar{Limit: 2, values: func(*Results) []float64 { return []float64{1, 1, 3, 1, 3} }}
	if v := bar.judge(nil); v.Met || v.Interval.Median != 1 {
		t.Errorf("an interval that ends above the bar: %+v", v)
	}
	bar.Limit = 3
	if v := bar.judge(nil); !v.Met {
		t.Errorf("an interval that ends at the bar: %+v", v)
	}
}

// Rounds that one of the two has lost are left out of the ratios.
func TestRatiosGoByRounds(t *testing.T) {
	r := newResults()
	a, b := flooded("a", "mix"), flooded("b", "mix")
	r.add(a, Sample{Round: 0, SenderCPU: 1})
	r.add(a, Sample{Round: 2, SenderCPU: 6})
	r.add(b, Sample{Round: 1, SenderCPU: 100})
	r.add(b, Sample{Round: 2, SenderCPU: 2})
	if got := r.combined(a, b, Sample.CPU, ratio); !slices.Equal(got, []float64{3}) {
		t.Errorf("ratios are %v, want 3", got)
	}
}

func TestNothingMeasuredShowsNoBar(t *testing.T) {
	report := newReport(Settings{}, newResults(), time.Now())
	if len(report.verdicts) != 0 || strings.Contains(report.markdown(), "## Bars") {
		t.Errorf("bars of nothing: %s", report.markdown())
	}
}

func TestTablesSayWhatWentWrong(t *testing.T) {
	r := sampled(3)
	r.fail(flooded("rafthttp", "heartbeat"), errors.New("it broke"))
	r.Samples[flooded("usual", "heartbeat")][3].Lost = 17
	report := newReport(Settings{Shapes: []string{"heartbeat"}}, r, time.Now())
	for _, want := range []string{"it broke", "| 17 |", "| " + heartbeats + " | ≥ 2.20x |", "| met |"} {
		if !strings.Contains(report.markdown(), want) {
			t.Errorf("no %q in\n%s", want, report.markdown())
		}
	}
	for _, line := range strings.Split(report.markdown(), "\n") {
		if strings.HasPrefix(line, "|") && !strings.HasSuffix(line, "|") {
			t.Errorf("a row without an end: %s", line)
		}
	}
}

// Real groups are told in the order of their plans, with what the clients saw.
func TestRaftTable(t *testing.T) {
	r := newResults()
	for i, shape := range raftShapes() {
		c := Case{Group: raftful, Arm: "raftmux etcdraft", Shape: shape, Regions: 10, Stores: 3}
		r.add(c, Sample{Messages: 10, Rate: 1234, SenderCPU: 56_000, P50: 7 * time.Millisecond, P99: 89 * time.Millisecond, Refused: uint64(i), Lost: 21, Elected: 3})
	}
	text := newReport(Settings{}, r, time.Now()).markdown()
	at := 0
	for i, shape := range raftShapes() {
		row := fmt.Sprintf("| %s | raftmux etcdraft | 1234 | 56.0 | 7 | 89 | %d | 3 | 21 |\n", shape, i)
		found := strings.Index(text[at:], row)
		if found < 0 {
			t.Fatalf("no %q behind the one before it in\n%s", row, text)
		}
		at += found
	}
}

// A figure never looks better than it is.
func TestRounding(t *testing.T) {
	for _, c := range []struct {
		value   float64
		atLeast bool
		want    string
	}{
		{2.1999, true, "2.19"},
		{2.2, true, "2.20"},
		{0.0501, false, "0.051"},
		{0.05, false, "0.050"},
		{1234.2, false, "1235"},
		{12.34, true, "12.3"},
	} {
		if got := (Verdict{Bar: Bar{AtLeast: c.atLeast}}).worse(c.value); got != c.want {
			t.Errorf("%v is written as %s, want %s", c.value, got, c.want)
		}
	}
}

func TestFiles(t *testing.T) {
	folder := t.TempDir()
	report := newReport(Settings{Shapes: []string{"heartbeat"}}, sampled(3), time.Now())
	if err := report.write(folder); err != nil {
		t.Fatal(err)
	}
	figures, err := os.ReadFile(filepath.Join(folder, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Bars   []struct{ Met bool }
		Series []struct{ Samples []Sample }
	}
	if err := json.Unmarshal(figures, &read); err != nil {
		t.Fatal(err)
	}
	if len(read.Bars) == 0 || len(read.Series) != 2 || len(read.Series[0].Samples) != 15 {
		t.Errorf("%d bars, %d series", len(read.Bars), len(read.Series))
	}
}

// The chart is well-formed, and nothing of it lies outside.
func TestChart(t *testing.T) {
	r := sampled(40)
	r.add(flooded("a < b & c", "heartbeat"), Sample{SenderCPU: 1e6})
	chart := newReport(Settings{Shapes: []string{"heartbeat"}}, r, time.Now()).chart()
	decoder := xml.NewDecoder(strings.NewReader(chart))
	elements := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := token.(xml.StartElement); ok {
			elements++
		}
	}
	if elements < 10 || strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") || strings.Contains(chart, `"-`) {
		t.Errorf("the chart has %d elements:\n%s", elements, chart)
	}
}

func TestFlags(t *testing.T) {
	for _, wrong := range []string{"-shapes heartbeat,huge", "-rounds 0", "-burst 0s", "-workers 0", "throughput"} {
		if _, _, err := parse(strings.Fields(wrong), io.Discard); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
	settings, _, err := parse([]string{"-quick", "-groups", "roundtrip, memory"}, io.Discard)
	if err != nil || !slices.Equal(settings.Groups, []string{roundTrip, memory}) || settings.Rounds != quickRounds {
		t.Errorf("%+v, %v", settings, err)
	}
}
