package faults

import "sync/atomic"

// counters are what a Rules has done.
type counters struct {
	dropped, duplicated           atomic.Uint64
	waited, passed                atomic.Uint64
	delivered, refused, lost      atomic.Uint64
	waitingMessages, waitingBytes atomic.Int64
}

// Stats counts what a Rules has done. Whenever it is quiet, Waited is Delivered
// plus Refused plus Lost plus Waiting.
type Stats struct {
	// Dropped messages were taken away, on send or on receive.
	Dropped uint64
	// Duplicated counts the copies that came besides their messages.
	Duplicated uint64
	// Waited messages were delayed. Passed were to be, but too many waited, or
	// the Rules were closed.
	Waited, Passed uint64
	// Delivered waited and then were sent, or were taken by the host. Refused
	// were not, and Lost waited when the Rules were closed.
	Delivered, Refused, Lost uint64
	// Waiting and WaitingBytes wait now.
	Waiting, WaitingBytes int
}

// Stats returns what was done so far.
func (r *Rules) Stats() Stats {
	s := &r.stats
	return Stats{
		Dropped:      s.dropped.Load(),
		Duplicated:   s.duplicated.Load(),
		Waited:       s.waited.Load(),
		Passed:       s.passed.Load(),
		Delivered:    s.delivered.Load(),
		Refused:      s.refused.Load(),
		Lost:         s.lost.Load(),
		Waiting:      int(s.waitingMessages.Load()),
		WaitingBytes: int(s.waitingBytes.Load()),
	}
}
