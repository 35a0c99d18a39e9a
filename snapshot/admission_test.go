package snapshot

import (
	"errors"
	"testing"
	"time"
)

// Reservations expire, and what is for balance leaves room for recoveries that
// were turned away.
func TestAdmission(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	a := newAdmission(2, time.Minute)
	who := func(region uint64) recipient { return recipient{region, 1} }
	step := func(name string, err error, busy bool) {
		t.Helper()
		if errors.Is(err, ErrBusy) != busy || err != nil && !busy {
			t.Errorf("%s: %v", name, err)
		}
	}
	step("the first", a.acquire(who(1), true, now), false)
	step("the second is kept room for", a.reserve(who(2), false, now), false)
	step("and asks again", a.reserve(who(2), false, now), false)
	step("no room for a third", a.acquire(who(3), false, now), true)
	step("the second comes", a.acquire(who(2), false, now), false)
	step("and again", a.acquire(who(2), false, now), false) // supersedes the one before
	a.release(who(2))
	step("its reservation is used up", a.reserve(who(6), false, now), true)

	a.release(who(2))
	step("balance has to leave room for 3", a.reserve(who(4), true, now), true)
	step("3 comes", a.acquire(who(3), false, now), false)
	a.release(who(3))
	a.release(who(1))
	step("6 has waited too", a.acquire(who(4), true, now), false)
	step("and has the last room", a.acquire(who(5), true, now), true)
	now = now.Add(time.Minute)
	step("nobody waits any more", a.reserve(who(5), true, now), false)
	step("no room", a.reserve(who(6), false, now), true)
	now = now.Add(time.Minute)
	step("a reservation has expired", a.reserve(who(6), false, now), false)
	a.release(who(4))
	step("one is free", a.acquire(who(7), false, now), false)
	if len(a.taken) != 1 || len(a.reserved) != 1 || len(a.waiting) != 0 {
		t.Errorf("%d taken, %d reserved, %d waiting", len(a.taken), len(a.reserved), len(a.waiting))
	}
}
