package faults

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux"
)

// What Stats tells is there as metrics.
func TestMetrics(t *testing.T) {
	rules := New(Options{})
	rule, err := Parse("drop region=7")
	if err != nil {
		t.Fatal(err)
	}
	if err := rules.Add(rule); err != nil {
		t.Fatal(err)
	}
	for region := range uint64(10) {
		rules.Pass(with(from1(2), func(e *raftmux.Envelope) { e.RegionID = region }))
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(rules); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	fates := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				fates[label.GetValue()] = metric.GetCounter().GetValue()
			}
		}
	}
	for fate, n := range fates {
		if want := map[string]float64{"dropped": 1}[fate]; n != want {
			t.Errorf("%v messages %s, want %v", n, fate, want)
		}
	}
	if len(families) != 3 || len(fates) != 7 {
		t.Errorf("%d families, and the fates %v", len(families), fates)
	}
}
