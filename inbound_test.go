package raftmux

import (
	"testing"
	"time"
)

// What may happen once a minute may happen at once, and again when the minute is over.
func TestMinutely(t *testing.T) {
	t.Parallel()
	var m minutely
	start := time.Now()
	for _, step := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, false}, {time.Minute - 1, false}, {time.Minute, true}, {2*time.Minute - 1, false}, {5 * time.Minute, true}} {
		if got := m.may(start.Add(step.after)); got != step.want {
			t.Errorf("after %v: %v", step.after, got)
		}
	}
}
