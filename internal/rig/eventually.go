package rig

import (
	"fmt"
	"testing"
	"time"
)

// WaitTimeout is the deadline of the waits that take none. It is long, since
// it only passes when a test fails, and short enough to leave a trace.
const WaitTimeout = 20 * time.Second

// Eventually waits until cond holds, and ends the test when it doesn't within
// timeout. It asks at once, then ever more rarely, up to every 20 ms; cond runs
// on the test's goroutine. The message is a format and its arguments, or nothing.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool, msgAndArgs ...any) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", timeout, message(msgAndArgs))
		}
		time.Sleep(pause)
	}
}

// Never watches for as long as d that cond doesn't come to hold, and ends the
// test when it does.
func Never(t testing.TB, d time.Duration, cond func() bool, msgAndArgs ...any) {
	t.Helper()
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if cond() {
			t.Fatalf("within %v: %s", d, message(msgAndArgs))
		}
	}
}

func message(msgAndArgs []any) string {
	if len(msgAndArgs) == 0 {
		return "condition"
	}
	if format, ok := msgAndArgs[0].(string); ok {
		return fmt.Sprintf(format, msgAndArgs[1:]...)
	}
	return fmt.Sprint(msgAndArgs...)
}
