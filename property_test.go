package raftmux_test

import (
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/rig"
)

// C5, C6, C7, C8, C9, C10, C11 and C24 hold of any sequence of sends, flushes
// and faults, whenever it is closed. The peers are built from kvproto's own code.
func TestPropertyAnySequence(t *testing.T) {
	propRounds(t, 4, func(rt *rapid.T) { runProp(t, rt, false) })
}

// C5, C6, C7, C8, C9, C10, C11 and C24 hold when the network misbehaves, too.
func TestPropertyAnyNetwork(t *testing.T) {
	propRounds(t, 3, func(rt *rapid.T) { runProp(t, rt, true) })
}

// propRounds checks a property n times as often as -rapid.checks says, which are
// 100 sequences; once is enough with -short.
func propRounds(t *testing.T, n int, property func(*rapid.T)) {
	if testing.Short() {
		n = 1
	}
	for range n {
		rapid.Check(t, property)
	}
}

// runProp runs one sequence.
func runProp(t *testing.T, rt *rapid.T, proxies bool) {
	goroutines := runtime.NumGoroutine()
	tb := &propTB{TB: t, t: rt}
	defer tb.end()
	m := newPropModel(rt, tb, proxies)
	closed := false
	tb.Cleanup(func() {
		if !closed {
			m.close(0)
		}
	})
	rt.Repeat(m.actions(proxies))

	timeout := time.Duration(rapid.IntRange(0, 20).Draw(rt, "close ms")) * time.Millisecond
	healed := rapid.Bool().Draw(rt, "heal")
	if healed {
		m.heal()
		// What is flushed before Close arrives, in all connections.
		timeout = rig.WaitTimeout
		for region := range uint64(propRegions) {
			for _, s := range m.stores {
				m.send(m.senders[0], s, region+1, "append")
			}
		}
		m.flush()
	}
	begun := time.Now()
	untaken := m.close(timeout)
	closed = true
	if healed {
		if took := time.Since(begun); took > timeout/2 {
			rt.Fatalf("Close took %v to send what was flushed to healthy stores", took)
		}
		for _, s := range m.stores {
			m.checkArrived(s)
		}
	}
	m.checkAll(untaken)
	tb.end()
	// C24: no goroutine is left.
	rig.Eventually(tb, rig.WaitTimeout, func() bool { return runtime.NumGoroutine() <= goroutines }, "no goroutine is left")
}
