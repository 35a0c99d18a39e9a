package child

import (
	"testing"
	"time"
)

// slowPinger's answers take their time.
type slowPinger time.Duration

func (p slowPinger) Ping() error {
	time.Sleep(time.Duration(p))
	return nil
}

func (slowPinger) Close() error { return nil }

// A round trip of some milliseconds stands for the heartbeats, too, that were due
// meanwhile and not sent.
func TestSlowHeartbeatsCountForThoseThatWereDue(t *testing.T) {
	const trip = 20 * time.Millisecond
	half := &Half{sender: slowPinger(trip)}
	trips, err := half.beat(0) // one
	must(t, err)
	if len(trips) < int(trip/beatInterval) || trips[0] < trip || trips[len(trips)-1] > beatInterval {
		t.Errorf("the round trips are %v", trips)
	}
}
