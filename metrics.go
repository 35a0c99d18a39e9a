package raftmux

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux/internal/queue"
)

// clientMetrics are a Client's counters. The names after the prefix, and the
// labels, are TiKV's where it has them.
type clientMetrics struct {
	failures *prometheus.CounterVec
	resolves *prometheus.CounterVec
	waits    prometheus.Histogram
	sizes    prometheus.Histogram
	cuts     *prometheus.CounterVec
	ledger   *ledgerCollector
}

func newClientMetrics() *clientMetrics {
	return &clientMetrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftmux_server_report_failure_msg_total",
			Help: "Messages refused or dropped, snapshots that failed, and streams broken, by reason and store. " +
				"Refusals for a full queue count once per flush and connection. Compare with raftmux_messages_total.",
		}, []string{"type", "store_id"}),
		resolves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftmux_server_resolve_store_total",
			Help: "Look-ups of store addresses by outcome: success, failed, not_found, tombstone.",
		}, []string{"type"}),
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "raftmux_queue_wait_seconds",
			Help:    "How long the first message of each batch had waited. Compare with raft-msg-max-age.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 9), // 50 us to 3 s
		}),
		sizes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "raftmux_batch_messages",
			Help:    "Messages per batch. Compare with raft-msg-max-batch-size.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9), // 1 to 256
		}),
		cuts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "raftmux_batch_cuts_total",
			Help: "Why batches left when they did: drained (nothing more waited), messages or bytes (a limit was met).",
		}, []string{"reason"}),
	}
}

// Sent implements peer.Metrics.
func (m *clientMetrics) Sent(batch queue.Batch) {
	m.waits.Observe(batch.Waited.Seconds())
	m.sizes.Observe(float64(batch.Messages))
	m.cuts.WithLabelValues(batch.Cut.String()).Inc()
}

// Failed implements peer.Metrics.
func (m *clientMetrics) Failed(reason string, storeID uint64, n int) {
	m.failures.WithLabelValues(reason, strconv.FormatUint(storeID, 10)).Add(float64(n))
}

// Resolved implements peer.Metrics.
func (m *clientMetrics) Resolved(outcome string) {
	m.resolves.WithLabelValues(outcome).Inc()
}

func (m *clientMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.failures, m.resolves, m.waits, m.sizes, m.cuts, m.ledger}
}

func (m *clientMetrics) register(registerer prometheus.Registerer, stores func() []StoreStatus) error {
	m.ledger = newLedgerCollector(stores)
	return registerAll(registerer, m.collectors())
}

func (m *clientMetrics) unregister(registerer prometheus.Registerer) {
	unregisterAll(registerer, m.collectors())
}

// ledgerCollector exports the ledgers as they stand when they are asked for.
type ledgerCollector struct {
	stores      func() []StoreStatus
	messages    *prometheus.Desc
	bytes       *prometheus.Desc
	queued      *prometheus.Desc
	queuedBytes *prometheus.Desc
	batches     *prometheus.Desc
	held        *prometheus.Desc
	oldest      *prometheus.Desc
	flooded     *prometheus.Desc
	state       *prometheus.Desc
}

func newLedgerCollector(stores func() []StoreStatus) *ledgerCollector {
	labels := []string{"store_id", "lane", "conn"}
	outcome := slices.Concat(labels, []string{"outcome", "reason"})
	return &ledgerCollector{
		stores: stores,
		messages: prometheus.NewDesc("raftmux_messages_total",
			"Messages by outcome: accepted, sent, dropped (with the reason). "+
				"accepted = sent + dropped + raftmux_queue_messages whenever it is quiet.", outcome, nil),
		bytes: prometheus.NewDesc("raftmux_message_bytes_total",
			"Encoded bytes of the messages accepted and sent.", outcome, nil),
		queued: prometheus.NewDesc("raftmux_queue_messages",
			"Messages that wait. Compare with raft-client-queue-size.", labels, nil),
		queuedBytes: prometheus.NewDesc("raftmux_queue_bytes",
			"Encoded bytes of the messages that wait.", labels, nil),
		batches: prometheus.NewDesc("raftmux_batches_total",
			"Batches handed to streams. Sent messages over batches is the mean batch size.", labels, nil),
		held: prometheus.NewDesc("raftmux_stream_held_bytes",
			"Bytes of sent messages that gRPC has not let go of. A stream that holds some for long has a peer that doesn't read.",
			labels, nil),
		oldest: prometheus.NewDesc("raftmux_queue_oldest_seconds",
			"How long the oldest message that waits has waited. Compare with raft-msg-max-age.", labels, nil),
		flooded: prometheus.NewDesc("raftmux_queue_flooded",
			"1 while a queue that was full takes no large messages beside 3 MiB, 0 otherwise. More comes than leaves.", labels, nil),
		state: prometheus.NewDesc("raftmux_store_state",
			"1 for the state that the store is in: connecting, up, down, tombstone.", []string{"store_id", "state"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (l *ledgerCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{l.messages, l.bytes, l.queued, l.queuedBytes, l.batches, l.held, l.oldest, l.flooded, l.state} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (l *ledgerCollector) Collect(metrics chan<- prometheus.Metric) {
	for _, store := range l.stores() {
		id := strconv.FormatUint(store.StoreID, 10)
		metrics <- prometheus.MustNewConstMetric(l.state, prometheus.GaugeValue, 1, id, store.State.String())
		for _, c := range store.Connections {
			index := strconv.Itoa(c.Index)
			l.collect(metrics, c.Ledger, c.Batches, id, c.Lane, index)
			metrics <- prometheus.MustNewConstMetric(l.held, prometheus.GaugeValue, float64(c.HeldBytes), id, c.Lane, index)
			metrics <- prometheus.MustNewConstMetric(l.oldest, prometheus.GaugeValue, c.OldestAge.Seconds(), id, c.Lane, index)
			flooded := 0.0
			if c.Flooded {
				flooded = 1
			}
			metrics <- prometheus.MustNewConstMetric(l.flooded, prometheus.GaugeValue, flooded, id, c.Lane, index)
		}
		if store.Snapshots.Accepted > 0 {
			l.collect(metrics, store.Snapshots, 0, id, "snapshot", "0")
		}
	}
}

func (l *ledgerCollector) collect(metrics chan<- prometheus.Metric, ledger Ledger, batches uint64, labels ...string) {
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	with := func(outcome, reason string) []string {
		return slices.Concat(labels, []string{outcome, reason})
	}
	counter(l.messages, ledger.Accepted, with("accepted", "")...)
	counter(l.messages, ledger.Sent, with("sent", "")...)
	for reason, n := range ledger.Dropped {
		counter(l.messages, n, with("dropped", reason)...)
	}
	counter(l.bytes, ledger.AcceptedBytes, with("accepted", "")...)
	counter(l.bytes, ledger.SentBytes, with("sent", "")...)
	counter(l.batches, batches, labels...)
	metrics <- prometheus.MustNewConstMetric(l.queued, prometheus.GaugeValue, float64(ledger.Queued), labels...)
	metrics <- prometheus.MustNewConstMetric(l.queuedBytes, prometheus.GaugeValue, float64(ledger.QueuedBytes), labels...)
}
