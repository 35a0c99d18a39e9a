package child

import (
	"testing"
	"time"
)

// An alarm doesn't go off early, and sleeps again and again.
func TestAlarm(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, d := range []time.Duration{-time.Second, 0, 1, 50 * time.Microsecond, 2 * time.Millisecond, time.Microsecond} {
		began := time.Now()
		a.sleep(d)
		if slept := time.Since(began); slept < d {
			t.Errorf("slept for %s, not %s", slept, d)
		}
	}
}
