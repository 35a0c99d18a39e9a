package raftmux

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// serverMetrics are a Server's counters.
type serverMetrics struct {
	batches, bytes      *counter
	delivered, refused  *counter
	malformed, filtered *counter
	overloaded          *counter
	wrongStore          *counter
}

// counter is a Prometheus counter that can be read back.
type counter struct {
	value atomic.Uint64
	prometheus.CounterFunc
}

func newCounter(name, help string) *counter {
	c := new(counter)
	c.CounterFunc = prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help},
		func() float64 { return float64(c.value.Load()) })
	return c
}

func (c *counter) add(n int) { c.value.Add(uint64(n)) }

func newServerMetrics() *serverMetrics {
	return &serverMetrics{
		batches:   newCounter("raftmux_received_batches_total", "Batches received and handed over."),
		bytes:     newCounter("raftmux_received_bytes_total", "Bytes of those batches."),
		delivered: newCounter("raftmux_received_messages_total", "Messages that the host took."),
		refused:   newCounter("raftmux_received_refused_total", "Messages that the host refused: unknown region, full mailbox."),
		malformed: newCounter("raftmux_received_malformed_total", "Messages that could not be decoded or must not cross the network."),
		filtered:  newCounter("raftmux_received_filtered_total", "Messages that a fault filter took. 0 unless faults are being injected."),
		overloaded: newCounter("raftmux_received_overloaded_total",
			"Appends refused because the host was above its memory high-water mark. Their senders send them again."),
		wrongStore: newCounter("raftmux_received_wrong_store_total",
			"Streams ended because they brought a message for another store. Compare with the addresses that the resolver gives."),
	}
}

func (m *serverMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.batches, m.bytes, m.delivered, m.refused, m.malformed, m.filtered, m.overloaded, m.wrongStore}
}

func (m *serverMetrics) register(registerer prometheus.Registerer) error {
	return registerAll(registerer, m.collectors())
}

func (m *serverMetrics) unregister(registerer prometheus.Registerer) {
	unregisterAll(registerer, m.collectors())
}

// ServerStats counts what a Server has received so far.
type ServerStats struct {
	// Streams are open now.
	Streams int
	// Batches and Bytes were handed over.
	Batches, Bytes uint64
	// Messages were taken by the host, Refused were not.
	Messages, Refused uint64
	// Malformed messages could not be decoded or must not cross the network.
	Malformed uint64
	// Filtered messages were taken by a fault filter, see package faults.
	Filtered uint64
	// Overloaded appends were refused above the host's high-water mark.
	Overloaded uint64
	// WrongStore counts the streams that brought a message for another store.
	WrongStore uint64
}

// Stats returns what was received so far.
func (s *Server) Stats() (stats ServerStats) {
	// What is counted last is read first, so that a message comes with its batch, and
	// both with their stream.
	m := s.metrics
	stats.Refused = m.refused.value.Load()
	stats.Messages = m.delivered.value.Load()
	stats.Bytes = m.bytes.value.Load()
	stats.Batches = m.batches.value.Load()
	stats.Malformed = m.malformed.value.Load()
	stats.Filtered = m.filtered.value.Load()
	stats.Overloaded = m.overloaded.value.Load()
	stats.WrongStore = m.wrongStore.value.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Streams = s.streams
	return stats
}

// registerAll registers all collectors or none.
func registerAll(registerer prometheus.Registerer, collectors []prometheus.Collector) error {
	for i, collector := range collectors {
		if err := registerer.Register(collector); err != nil {
			unregisterAll(registerer, collectors[:i])
			return err
		}
	}
	return nil
}

// registererProblem says why the metrics of a Client or a Server were not taken.
func registererProblem(err error, owner string) string {
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return fmt.Sprintf("it has the metrics of another %s already: one %s for each Registerer; "+
			"wrap it with prometheus.WrapRegistererWith", owner, owner)
	}
	return err.Error()
}

func unregisterAll(registerer prometheus.Registerer, collectors []prometheus.Collector) {
	if registerer == nil {
		return
	}
	for _, collector := range collectors {
		registerer.Unregister(collector)
	}
}
