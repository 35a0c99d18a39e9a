package snapshot

import (
	"fmt"
	"sync"
	"time"
)

// recipient is who gets a snapshot.
type recipient struct{ regionID, peerID uint64 }

// admission decides which snapshots may come. Room is taken by those under way,
// and by reservations until they expire. What moves replicas for balance has to
// leave room for the recoveries that were turned away a moment ago.
type admission struct {
	limit int
	life  time.Duration // of a reservation, and of the memory of who was turned away

	mu       sync.Mutex
	taken    map[recipient]int       // streams: a newer one for the same peer supersedes the older
	reserved map[recipient]time.Time // until when
	waiting  map[recipient]time.Time // recoveries that were turned away, likewise
}

func newAdmission(limit int, life time.Duration) *admission {
	return &admission{
		limit: limit, life: life,
		taken:    make(map[recipient]int),
		reserved: make(map[recipient]time.Time), waiting: make(map[recipient]time.Time),
	}
}

// reserve keeps room for a snapshot, or fails with ErrBusy.
func (a *admission) reserve(who recipient, forBalance bool, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(who, forBalance, now); err != nil {
		return err
	}
	a.reserved[who] = now.Add(a.life)
	return nil
}

// acquire takes room for a snapshot that has come, or fails with ErrBusy. It uses
// up the reservation. A stream that supersedes another has that one's room. Every
// success is to be followed by a release.
func (a *admission) acquire(who recipient, forBalance bool, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admit(who, forBalance, now); err != nil {
		return err
	}
	delete(a.reserved, who)
	a.taken[who]++
	return nil
}

func (a *admission) release(who recipient) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.taken[who]--; a.taken[who] == 0 {
		delete(a.taken, who)
	}
}

// admit says whether there is room, and remembers a recovery for which there is none.
func (a *admission) admit(who recipient, forBalance bool, now time.Time) error {
	expire(a.reserved, now)
	expire(a.waiting, now)
	if _, ok := a.reserved[who]; ok || a.taken[who] > 0 {
		return nil
	}
	used := len(a.taken) + len(a.reserved)
	limit := a.limit
	if forBalance {
		limit -= len(a.waiting)
	}
	if used < limit {
		delete(a.waiting, who)
		return nil
	}
	if !forBalance && len(a.waiting) < a.limit {
		a.waiting[who] = now.Add(a.life)
	}
	return &receiverBusyError{used: used, limit: a.limit}
}

// receiverBusyError is ErrBusy in TiKV's words.
type receiverBusyError struct{ used, limit int }

// Error implements error.
func (e *receiverBusyError) Error() string {
	return fmt.Sprintf("the number of received snapshot tasks %d exceeded the limitation %d", e.used, e.limit)
}

// Is makes it an ErrBusy.
func (e *receiverBusyError) Is(target error) bool { return target == ErrBusy }

func expire(m map[recipient]time.Time, now time.Time) {
	for who, until := range m {
		if !now.Before(until) {
			delete(m, who)
		}
	}
}
