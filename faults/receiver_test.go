package faults

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// arrivals is a Handler that keeps the indexes of what it is given, and refuses
// index 99.
type arrivals struct {
	mu   sync.Mutex
	list []uint64
}

func (a *arrivals) Step(m *raft_serverpb.RaftMessage) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, m.GetMessage().GetIndex())
	if m.GetMessage().GetIndex() == 99 {
		return errors.New("full mailbox")
	}
	return nil
}

func (a *arrivals) take() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = nil
	return list
}

func (a *arrivals) want(t testing.TB, when string, want ...uint64) {
	t.Helper()
	if got := a.take(); !slices.Equal(got, want) {
		t.Errorf("%s: %v came, not %v", when, got, want)
	}
}

// receiveBatch plays a Server that receives one batch, whose bytes it overwrites
// afterwards, and checks that it would count right.
func receiveBatch(t testing.TB, r raftmux.Receiver, messages ...*raft_serverpb.RaftMessage) (filtered, refused int) {
	t.Helper()
	var batch [][]byte
	decoded := 0
	for _, m := range messages {
		body, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, body)
		switch envelope, err := r.Decode(body); {
		case errors.Is(err, raftmux.ErrFiltered):
			filtered++
		case err != nil:
			t.Errorf("refused: %v", err)
		case envelope != raftmux.EnvelopeOf(m):
			t.Errorf("envelope %+v of %v", envelope, m)
		default:
			decoded++
		}
	}
	refused = r.Deliver()
	if refused > decoded {
		t.Errorf("%d refused of %d", refused, decoded)
	}
	for _, body := range batch {
		for i := range body {
			body[i] = 0xff
		}
	}
	return filtered, refused
}

// appends are appends of region 7 to store 2 with these indexes.
func appends(indexes ...uint64) (messages []*raft_serverpb.RaftMessage) {
	for _, i := range indexes {
		messages = append(messages, rig.Index(rig.Append(7, 2, 72, 1, 100), i))
	}
	return messages
}

func upTo(n uint64) (list []uint64) {
	for i := uint64(1); i <= n; i++ {
		list = append(list, i)
	}
	return list
}

// Dropped on receive: an error that wraps ErrFiltered and names the rule.
func TestReceiverDrops(t *testing.T) {
	t.Parallel()
	var host arrivals
	rules := setRules(t, Options{}, "drop MsgAppend after=2", "drop MsgHeartbeat on=send")
	r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
	filtered, _ := receiveBatch(t, r, append(appends(1, 2, 3, 4), rig.Index(rig.Heartbeat(7, 2, 72), 5))...)
	host.want(t, "at once", 1, 2, 5)
	if filtered != 2 || rules.Stats() != (Stats{Dropped: 2}) {
		t.Errorf("%d filtered, %+v", filtered, rules.Stats())
	}
	body, _ := appends(1)[0].Marshal()
	_, err := r.Decode(body)
	if want := `filtered by rule "drop MsgAppend after=2"`; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	r.Discard()
}

// Delayed messages come by their time, in order, after others; the bytes that
// they were decoded from are free meanwhile.
func TestReceiverDelays(t *testing.T) {
	for _, lend := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var host arrivals
			rules := setRules(t, Options{}, "delay 50ms MsgAppend")
			r := rules.Receiver(raftmux.HandlerReceiver(&host, lend))()
			if filtered, refused := receiveBatch(t, r, append(appends(1, 2, 99), rig.Index(rig.Heartbeat(7, 2, 72), 4))...); filtered+refused != 0 {
				t.Errorf("%d filtered, %d refused", filtered, refused)
			}
			host.want(t, "at once", 4)
			time.Sleep(20 * time.Millisecond)
			receiveBatch(t, r, appends(5)...)
			if err := rules.Add(Rule{Action: Delay, Time: 5 * time.Millisecond}); err != nil {
				t.Fatal(err)
			}
			receiveBatch(t, r, rig.Index(rig.Heartbeat(7, 2, 72), 6), appends(7)[0])
			time.Sleep(5 * time.Millisecond)
			synctest.Wait()
			host.want(t, "after 25 ms", 6)
			if s := rules.Stats(); s.Waiting != 5 || s.WaitingBytes == 0 {
				t.Errorf("%+v", s)
			}
			time.Sleep(25 * time.Millisecond)
			synctest.Wait()
			host.want(t, "after 50 ms", 1, 2, 99)
			time.Sleep(25 * time.Millisecond)
			synctest.Wait()
			host.want(t, "after 75 ms", 5, 7) // 7 had two rules
			if s := rules.Stats(); s != (Stats{Waited: 6, Delivered: 5, Refused: 1}) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Reordered messages all come, within their time, and not in order; the same seed
// gives the same order.
func TestReceiverReorders(t *testing.T) {
	order := func(seed uint64) (list []uint64) {
		synctest.Test(t, func(t *testing.T) {
			var host arrivals
			rules := setRules(t, Options{Seed: seed}, "reorder 50%")
			r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
			receiveBatch(t, r, appends(upTo(90)...)...)
			time.Sleep(DefaultReorder)
			synctest.Wait()
			list = host.take()
			if s := rules.Stats(); s.Waiting != 0 || s.Waited < 30 || s.Waited > 70 || s.Delivered != s.Waited {
				t.Errorf("%+v", s)
			}
		})
		return list
	}
	list := order(3)
	if !slices.Equal(list, order(3)) {
		t.Error("the same seed gave another order")
	}
	if slices.IsSorted(list) {
		t.Error("in order")
	}
	slices.Sort(list)
	if !slices.Equal(list, upTo(90)) {
		t.Errorf("%v came", list)
	}
}

// Duplicates come right behind their messages, also behind those that wait, and
// the Server never counts more refused than it has decoded.
func TestReceiverDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host arrivals
		rules := setRules(t, Options{}, "duplicate MsgAppend")
		r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
		receiveBatch(t, r, appends(1)...)
		_, refused := receiveBatch(t, r, appends(99)...)
		host.want(t, "at once", 1, 1, 99, 99)
		if s := rules.Stats(); refused != 1 || s != (Stats{Duplicated: 2}) {
			t.Errorf("%d refused, %+v", refused, s)
		}
		if err := rules.Set("duplicate", "duplicate", "delay 1s"); err != nil {
			t.Fatal(err)
		}
		receiveBatch(t, r, appends(1, 99)...)
		time.Sleep(time.Second)
		synctest.Wait()
		host.want(t, "late", 1, 1, 1, 99, 99, 99)
		if s := rules.Stats(); s.Duplicated != 6 || s.Waited != 2 || s.Delivered+s.Refused != 2 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// C16: a batch that is discarded leaves nothing that waits.
func TestReceiverDiscards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host arrivals
		rules := setRules(t, Options{}, "delay 1s MsgAppend")
		r := rules.Receiver(raftmux.HandlerReceiver(&host, true))()
		for _, m := range append(appends(1, 2), rig.Heartbeat(7, 2, 72)) {
			body, _ := m.Marshal()
			if _, err := r.Decode(body); err != nil {
				t.Error(err)
			}
		}
		if s := rules.Stats(); s.Waiting != 2 {
			t.Errorf("%+v", s)
		}
		r.Discard()
		time.Sleep(2 * time.Second)
		host.want(t, "discarded")
		if s := rules.Stats(); s != (Stats{}) {
			t.Errorf("%+v", s)
		}
	})
}

// What waits is bounded in messages and in bytes; what is above passes at once.
func TestWaitingIsBounded(t *testing.T) {
	size := appends(1)[0].Size()
	for _, options := range []Options{{MaxWaitingMessages: 3}, {MaxWaitingBytes: 3*size + size/2}} {
		synctest.Test(t, func(t *testing.T) {
			var host arrivals
			rules := setRules(t, options, "delay 1s")
			r := rules.Receiver(raftmux.HandlerReceiver(&host, false))()
			receiveBatch(t, r, appends(1, 2)...)
			receiveBatch(t, r, appends(3, 4, 5)...)
			host.want(t, "at once", 4, 5)
			if s := rules.Stats(); s != (Stats{Waited: 3, Passed: 2, Waiting: 3, WaitingBytes: 3 * size}) {
				t.Errorf("%+v", s)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			receiveBatch(t, r, appends(6)...)
			time.Sleep(time.Second)
			synctest.Wait()
			host.want(t, "late", 1, 2, 3, 6)
			if s := rules.Stats(); s != (Stats{Waited: 4, Passed: 2, Delivered: 4}) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// C24: Close loses what waits, is idempotent, and lets nothing wait any more. The
// goroutine is there only while messages wait: synctest finds one that stays.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var host arrivals
		rules := setRules(t, Options{}, "delay 1h")
		receivers := rules.Receiver(raftmux.HandlerReceiver(&host, false))
		a, b := receivers(), receivers()
		receiveBatch(t, a, appends(1, 2)...)
		body, _ := appends(3)[0].Marshal()
		if _, err := b.Decode(body); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		began := time.Now()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(rules.Close)
		}
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
		b.Deliver() // what it holds came too late
		receiveBatch(t, a, appends(4)...)
		time.Sleep(2 * time.Hour)
		host.want(t, "after Close", 4)
		if s := rules.Stats(); s != (Stats{Waited: 3, Lost: 3, Passed: 1}) {
			t.Errorf("%+v", s)
		}
		if err := rules.Set("drop"); err != nil {
			t.Error(err)
		}
		if filtered, _ := receiveBatch(t, a, appends(5)...); filtered != 1 {
			t.Error("nothing is dropped after Close")
		}
	})
}

// C11: what has room reserved when the Rules are closed isn't taken any more; no
// goroutine starts for it, which could make a callback.
func TestAddAfterClose(t *testing.T) {
	t.Parallel()
	var stats counters
	w := newWaiting(10, 1000, &stats)
	if !w.reserve(5) {
		t.Fatal("no room")
	}
	w.close()
	if w.add(held{message: make([]byte, 5)}) || w.messages != 0 || w.bytes != 0 {
		t.Errorf("taken; %d messages, %d bytes", w.messages, w.bytes)
	}
}

// C20: what can't be read passes, for the inner receiver to refuse.
func TestReceiverMalformed(t *testing.T) {
	t.Parallel()
	var host arrivals
	rules := setRules(t, Options{}, "drop")
	r := rules.Receiver(raftmux.HandlerReceiver(&host, false))()
	if _, err := r.Decode([]byte{0xff, 0xff}); err == nil || errors.Is(err, raftmux.ErrFiltered) {
		t.Errorf("%v", err)
	}
	r.Deliver()
	host.want(t, "malformed")
}

// Several streams, changing rules, and Close, side by side: every message is
// delivered, dropped or lost, and the accounts balance. For the race detector.
func TestReceiverAccounts(t *testing.T) {
	t.Parallel()
	var host arrivals
	rules := setRules(t, Options{Seed: 5, MaxWaitingMessages: 50}, "delay 1ms 50%", "drop 10%")
	receivers := rules.Receiver(raftmux.HandlerReceiver(&host, true))
	const streams, batches, size = 4, 100, 10
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			r := receivers()
			for range batches {
				receiveBatch(t, r, appends(upTo(size)...)...)
			}
		})
	}
	wg.Go(func() {
		for i := range 100 {
			if err := rules.Set(fmt.Sprintf("reorder %d%% 2ms", i+1), "drop 10%", "delay 100us 50% for=1ms"); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	wg.Wait()
	rules.Close()
	s := rules.Stats()
	if s.Waiting != 0 || s.WaitingBytes != 0 || s.Waited != s.Delivered+s.Lost || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	if got := uint64(len(host.take())); got+s.Lost+s.Dropped != streams*batches*size {
		t.Errorf("%d came, %+v", got, s)
	}
}
