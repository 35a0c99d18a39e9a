package snapshot

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of a Sender or a Receiver, told apart by the label direction.
type metrics struct {
	bytes   prometheus.Counter
	results *prometheus.CounterVec
	seconds prometheus.Histogram
	current prometheus.GaugeFunc
	left    prometheus.GaugeFunc
	gone    sync.Once // from the registerer
}

func newMetrics(direction Direction, list func() []Progress) *metrics {
	labels := prometheus.Labels{"direction": string(direction)}
	return &metrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "raftmux_snapshot_bytes_total", ConstLabels: labels,
			Help: "Bytes of snapshots' data that moved, those of failed transfers too.",
		}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftmux_snapshot_transfers_total", ConstLabels: labels,
			Help: "Transfers that ended, by result: ok, busy, stalled, too_slow, cancelled, damaged, failed.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "raftmux_snapshot_seconds", ConstLabels: labels,
			Help:    "How long transfers took that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 9), // 10 ms to 11 minutes
		}),
		current: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "raftmux_snapshot_transfers", ConstLabels: labels,
			Help: "Transfers under way. Compare with concurrent-send-snap-limit and concurrent-recv-snap-limit.",
		}, func() float64 { return float64(len(list())) }),
		left: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "raftmux_snapshot_bytes_left", ConstLabels: labels,
			Help: "Bytes that the transfers under way have still to move, as far as known.",
		}, func() float64 {
			var left int64
			for _, p := range list() {
				left += max(0, p.Total-p.Done)
			}
			return float64(left)
		}),
	}
}

// ended counts a transfer that is over.
func (m *metrics) ended(err error, took time.Duration) {
	m.results.WithLabelValues(resultOf(err)).Inc()
	if err == nil {
		m.seconds.Observe(took.Seconds())
	}
}

func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, known := range []struct {
		err    error
		result string
	}{
		{ErrBusy, "busy"},
		{ErrStalled, "stalled"},
		{ErrTooSlow, "too_slow"},
		{ErrCancelled, "cancelled"},
		{ErrClosed, "cancelled"},
		{context.Canceled, "cancelled"},
		{ErrSize, "damaged"},
		{ErrChecksum, "damaged"},
	} {
		if errors.Is(err, known.err) {
			return known.result
		}
	}
	return "failed"
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.bytes, m.results, m.seconds, m.current, m.left}
}

// register registers all collectors or none.
func (m *metrics) register(registerer prometheus.Registerer) error {
	if registerer == nil {
		return nil
	}
	for i, collector := range m.collectors() {
		if err := registerer.Register(collector); err != nil {
			for _, done := range m.collectors()[:i] {
				registerer.Unregister(done)
			}
			return err
		}
	}
	return nil
}

// unregister does it once. Later the same metrics may be another instance's, which a
// registerer doesn't tell apart.
func (m *metrics) unregister(registerer prometheus.Registerer) {
	if registerer == nil {
		return
	}
	m.gone.Do(func() {
		for _, collector := range m.collectors() {
			registerer.Unregister(collector)
		}
	})
}
