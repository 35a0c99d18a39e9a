package child

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// An alarm that fails is no reason to go on at once, nor one to keep silent.
func TestAlarmThatFails(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.file.Close(); err != nil {
		t.Fatal(err)
	}
	const d = 2 * time.Millisecond
	began := time.Now()
	a.fd = -1
	if a.sleep(d); time.Since(began) < d {
		t.Error("it didn't sleep")
	}
	if err := a.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("Close returned %v", err)
	}
}
