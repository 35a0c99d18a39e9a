package raftmux

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// seqParts run side by side, of seqRounds times 100 sequences each.
const (
	seqParts  = 4
	seqRounds = 27
)

// C5, C6, C7, C8, C9, C10, C11, C13, C14, C15, C17 and C24 hold of any sequence
// of sends, flushes, faults and closes. A stub stands in for the sockets, and
// time is fake, so that each age, back-off, watchdog and deadline is lived through.
func TestPropertyTenThousandSequences(t *testing.T) {
	rounds := seqRounds
	if testing.Short() {
		rounds = 10 // of 20: rapid, too, makes fewer
	}
	for range seqParts {
		t.Run("part", func(t *testing.T) {
			t.Parallel()
			for range rounds {
				rapid.Check(t, func(rt *rapid.T) {
					config, ops := drawSeqConfig(rt), drawSeqOps(rt)
					if problem := runSequence(t, config, ops); problem != "" {
						rt.Fatalf("%s", problem)
					}
				})
			}
		})
	}
}

// runSequence runs one sequence in a bubble, and says what is wrong. That no
// goroutine is left (C24) is the bubble's own demand.
func runSequence(t *testing.T, config seqConfig, ops []seqOp) (problem string) {
	synctest.Test(t, func(*testing.T) {
		m := newSeqModel(config)
		for _, op := range ops {
			m.do(op)
			if len(m.problems) > 0 {
				break
			}
		}
		timeout := config.Close
		if config.Heal && len(m.problems) == 0 {
			m.heal()
			timeout = seqConnectTimeout
			m.sendAll()
		}
		m.mu.Lock()
		closing := m.now()
		m.mu.Unlock()
		untaken := m.close(timeout)
		if len(m.problems) == 0 {
			m.checkAll(untaken, closing)
			if config.Heal {
				m.checkFlushed(closing)
			}
		}
		if len(m.problems) > 0 {
			problem = <-m.problems
		}
	})
	return problem
}

// C2, C13, C24: sequences that once went wrong.
func TestPropertySequencesOnceFound(t *testing.T) {
	config := seqConfig{
		Stores: 1, Connections: 1, MaxSnapshots: 1, QueueMessages: 4096, QueueKiB: 1024, BatchMsgs: 128,
		BatchBytes: 10 << 20, MaxMessageKiB: 256, BudgetOver: 4, Age: time.Minute, Step: time.Second,
		Stall: 10 * time.Second, Close: time.Second, Closes: 1,
	}
	t.Run("removed while paused", func(t *testing.T) {
		config := config
		config.Heal = true
		if problem := runSequence(t, config, []seqOp{
			{Do: "send", Region: 1}, {Do: "flush", Wait: true}, {Do: "allow", N: 1}, {Do: "remove", Wait: true},
		}); problem != "" {
			t.Error(problem)
		}
	})
	t.Run("a tombstone while closing", func(t *testing.T) {
		if problem := runSequence(t, config, []seqOp{
			{Do: "resolver", N: 2},
			{Do: "send", N: 2},
			{Do: "flush", Wait: true},
			{Do: "resolver", N: 7},
			{Do: "send", N: 2},
			{Do: "flush", Wait: true},
		}); problem != "" {
			t.Error(problem)
		}
	})
}
