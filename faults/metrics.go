package faults

import "github.com/prometheus/client_golang/prometheus"

var _ prometheus.Collector = (*Rules)(nil)

// Describe implements prometheus.Collector: register the Rules to have what Stats
// tells as metrics. A registry takes one set of Rules.
func (r *Rules) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(r, descs) }

// Collect implements prometheus.Collector.
func (r *Rules) Collect(metrics chan<- prometheus.Metric) {
	stats := r.Stats()
	messages := prometheus.NewDesc("raftmux_faults_messages_total",
		"Messages that met a fault, by what became of them: see faults.Stats.", []string{"fate"}, nil)
	for _, m := range []struct {
		fate  string
		count uint64
	}{
		{"dropped", stats.Dropped},
		{"duplicated", stats.Duplicated},
		{"waited", stats.Waited},
		{"passed", stats.Passed},
		{"delivered", stats.Delivered},
		{"refused", stats.Refused},
		{"lost", stats.Lost},
	} {
		metrics <- prometheus.MustNewConstMetric(messages, prometheus.CounterValue, float64(m.count), m.fate)
	}
	metrics <- prometheus.MustNewConstMetric(
		prometheus.NewDesc("raftmux_faults_waiting_messages", "Messages that wait now.", nil, nil),
		prometheus.GaugeValue, float64(stats.Waiting))
	metrics <- prometheus.MustNewConstMetric(
		prometheus.NewDesc("raftmux_faults_waiting_bytes", "Bytes of the messages that wait now.", nil, nil),
		prometheus.GaugeValue, float64(stats.WaitingBytes))
}
