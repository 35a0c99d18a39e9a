package snapshot

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is which way a snapshot goes.
type Direction string

// The two directions.
const (
	Sending   Direction = "send"
	Receiving Direction = "receive"
)

// Phase is how far a transfer has come.
type Phase string

// The phases of a transfer.
const (
	// Starting is: opening the data, connecting, agreeing on where to begin.
	Starting Phase = "starting"
	// Moving is: bytes travel.
	Moving Phase = "moving"
	// Committing is: all bytes have left, or come, and the receiver makes them last.
	Committing Phase = "committing"
)

// Progress is how far one transfer is. It is what metrics, a status page and a
// progress bar read.
type Progress struct {
	Direction Direction `json:"direction"`
	Phase     Phase     `json:"phase"`
	// RegionID and PeerID are those of the peer that gets the snapshot.
	RegionID uint64 `json:"region_id"`
	PeerID   uint64 `json:"peer_id"`
	// StoreID is the store at the other end.
	StoreID uint64 `json:"store_id"`
	// Term and Index are the snapshot's.
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	// Done is how many of Total bytes have moved; those up to Resumed by an
	// earlier transfer. Total is -1 if nobody has said.
	Done    int64 `json:"done"`
	Total   int64 `json:"total"`
	Resumed int64 `json:"resumed"`
	// Started is when the transfer began.
	Started time.Time `json:"started"`
	// Rate is the mean rate of this transfer, in bytes per second.
	Rate float64 `json:"rate"`
	// Left is the time left at that rate; negative if it can't be told.
	Left time.Duration `json:"left_ns"`
}

// transfer is one snapshot under way.
type transfer struct {
	description
	direction Direction
	started   time.Time
	cancel    context.CancelCauseFunc
	ended     chan struct{} // closed when it is over
	sequence  uint64        // in which order they came; transfers gives it

	// unwanted is set when it is cancelled: nothing of it is kept, also if it had
	// ended for another reason before.
	unwanted atomic.Bool

	phase   atomic.Value // Phase
	total   atomic.Int64
	resumed atomic.Int64
	done    atomic.Int64
	moved   atomic.Int64 // when bytes last left, in nanoseconds since started
}

func newTransfer(d description, direction Direction, cancel context.CancelCauseFunc) *transfer {
	t := &transfer{description: d, direction: direction, started: time.Now(), cancel: cancel, ended: make(chan struct{})}
	t.phase.Store(Starting)
	t.total.Store(d.size)
	return t
}

// touch notes that something moved just now.
func (t *transfer) touch() { t.moved.Store(int64(time.Since(t.started))) }

// enter begins a phase, which is progress, too.
func (t *transfer) enter(phase Phase) {
	t.phase.Store(phase)
	t.touch()
}

func (t *transfer) is(phase Phase) bool { return t.phase.Load() == phase }

// still returns for how long nothing has moved.
func (t *transfer) still() time.Duration {
	return time.Since(t.started) - time.Duration(t.moved.Load())
}

// resume says that the first bytes are there already.
func (t *transfer) resume(offset int64) {
	t.resumed.Store(offset)
	t.done.Store(offset)
}

func (t *transfer) progress() Progress {
	p := Progress{
		Direction: t.direction,
		Phase:     t.phase.Load().(Phase),
		RegionID:  t.regionID,
		PeerID:    t.peerID,
		StoreID:   t.other(t.direction),
		Term:      t.term,
		Index:     t.index,
		Resumed:   t.resumed.Load(),
		Done:      t.done.Load(),
		Total:     t.total.Load(),
		Started:   t.started,
		Left:      -1,
	}
	if elapsed := time.Since(t.started).Seconds(); elapsed > 0 {
		p.Rate = float64(p.Done-p.Resumed) / elapsed
	}
	if p.Rate > 0 && p.Total >= 0 {
		p.Left = inSeconds(float64(p.Total-p.Done) / p.Rate)
	}
	return p
}

// transfers are those under way in one direction.
type transfers struct {
	mu   sync.Mutex
	all  map[*transfer]struct{}
	last uint64 // sequence
}

// add lists t, and numbers it at the same time: whoever is listed sees all that
// have a lower number and are not over.
func (ts *transfers) add(t *transfer) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.last++
	t.sequence = ts.last
	if ts.all == nil {
		ts.all = make(map[*transfer]struct{})
	}
	ts.all[t] = struct{}{}
}

func (ts *transfers) remove(t *transfer) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.all, t)
	close(t.ended)
}

// cancel cancels those that match, and returns how many there are.
func (ts *transfers) cancel(cause error, match func(*transfer) bool) (n int) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for t := range ts.all {
		if match(t) {
			t.unwanted.Store(true)
			t.cancel(cause)
			n++
		}
	}
	return n
}

// find returns one that matches, or nil.
func (ts *transfers) find(match func(*transfer) bool) *transfer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for t := range ts.all {
		if match(t) {
			return t
		}
	}
	return nil
}

// list returns how far each is, the oldest first.
func (ts *transfers) list() []Progress {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	list := make([]Progress, 0, len(ts.all))
	for t := range ts.all {
		list = append(list, t.progress())
	}
	slices.SortFunc(list, func(a, b Progress) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.RegionID, b.RegionID), cmp.Compare(a.PeerID, b.PeerID))
	})
	return list
}
