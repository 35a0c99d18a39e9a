package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/snapshot"
)

// C9: of a hundred snapshots at once never more than the limits are under way, and
// each has a status.
func TestC9HundredAtOnce(t *testing.T) {
	t.Parallel()
	const size, sending, receiving = 100_000, 12, 5
	into := &sink{}
	reached := make(chan struct{})
	var once sync.Once
	into.create = func(context.Context) error {
		into.mu.Lock()
		full := into.open >= receiving
		into.mu.Unlock()
		if full {
			once.Do(func() { close(reached) })
		}
		<-reached // all begin together
		return nil
	}
	s := newStore(t, withSink(into), func(o *snapshot.ReceiverOptions) { o.MaxTransfers = receiving })
	source := memory{}
	for region := uint64(1); region <= 100; region++ {
		source[region] = random(region, size)
	}
	opened := &counting{Source: source}
	l := newLeader(t, s.address, opened, func(o *snapshot.SenderOptions) { o.MaxTransfers = sending })
	for region := range source {
		l.send(region, size)
	}
	finished := 0
	for region := range source {
		if l.wait(region) == raftmux.SnapshotFinish {
			finished++
			if len(into.of(region)) != 1 {
				t.Errorf("region %d finished, and %d are committed", region, len(into.of(region)))
			}
		}
	}
	s.quiet(t)
	into.mu.Lock()
	defer into.mu.Unlock()
	opened.mu.Lock()
	defer opened.mu.Unlock()
	if into.most > receiving || opened.most > sending || finished < receiving || finished != len(into.committed) {
		t.Errorf("%d finished, %d committed; %d were received at once, %d sent", finished, len(into.committed), into.most, opened.most)
	}
}

// counting counts the data that is open.
type counting struct {
	snapshot.Source
	mu         sync.Mutex
	open, most int
}

func (c *counting) OpenSnapshot(ctx context.Context, m *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	d, err := c.Source.OpenSnapshot(ctx, m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.most = max(c.most, c.open)
	return counted{d, c}, err
}

type counted struct {
	snapshot.Data
	of *counting
}

func (c counted) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.open--
	return c.Data.Close()
}

// held is a sink whose writers wait at their first byte.
func held() (s *sink, began chan struct{}, release func()) {
	gate := make(chan struct{})
	began = make(chan struct{}, 100)
	s = &sink{write: func() {
		began <- struct{}{}
		<-gate
	}}
	return s, began, sync.OnceFunc(func() { close(gate) })
}

// A full receiver answers as TiKV does, and a full sender doesn't even try.
func TestBusy(t *testing.T) {
	t.Parallel()
	into, began, release := held()
	defer release()
	s := newStore(t, withSink(into), func(o *snapshot.ReceiverOptions) { o.MaxTransfers = 1 })
	source := memory{1: random(1, 10), 2: random(2, 10)}
	first := newSender(t, source, func(o *snapshot.SenderOptions) { o.MaxTransfers = 1 })
	result := make(chan error, 1)
	go func() { result <- first.SendSnapshot(context.Background(), s.address, message(1, 10)) }()
	<-began
	if err := first.SendSnapshot(context.Background(), s.address, message(2, 10)); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("a full sender: %v", err)
	}
	second := newSender(t, source)
	err := second.SendSnapshot(context.Background(), s.address, message(2, 10))
	if !errors.Is(err, snapshot.ErrBusy) || !strings.Contains(err.Error(), "the number of received snapshot tasks 1 exceeded the limitation 1") {
		t.Errorf("a full receiver: %v", err)
	}
	const text = "the number of received snapshot tasks 1 exceeded the limitation 1" // TiKV's
	err = sendChunks(t, s.address, nil, &raft_serverpb.SnapshotChunk{Message: message(2, 10)})
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || st.Message() != text {
		t.Errorf("to a plain peer: %v", err)
	}
	ask := snapshot.PrecheckRequest{RegionID: 2, PeerID: 22, StoreID: there}
	if _, err := second.Precheck(context.Background(), s.address, ask); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("asked before: %v", err)
	}
	release()
	if err := <-result; err != nil {
		t.Error(err)
	}
	s.quiet(t)
	if err := second.SendSnapshot(context.Background(), s.address, message(2, 10)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A reservation keeps room for its snapshot, until it has come or time is up.
func TestPrecheckReserves(t *testing.T) {
	t.Parallel()
	s := newStore(t, func(o *snapshot.ReceiverOptions) { o.MaxTransfers, o.ReservationLife = 1, time.Hour })
	sender := newSender(t, memory{1: random(1, 10), 2: random(2, 10)})
	admission, err := sender.Precheck(context.Background(), s.address, snapshot.PrecheckRequest{RegionID: 1, PeerID: 21, StoreID: there})
	if err != nil || !admission.Known || admission.Reserved != time.Hour {
		t.Fatal(admission, err)
	}
	if err := sender.SendSnapshot(context.Background(), s.address, message(2, 10)); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("another: %v", err)
	}
	if err := sender.SendSnapshot(context.Background(), s.address, message(1, 10)); err != nil {
		t.Error(err)
	}
	s.quiet(t)
	if err := sender.SendSnapshot(context.Background(), s.address, message(2, 10)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Both ends tell how far a transfer is, by the API and by metrics.
func TestProgress(t *testing.T) {
	t.Parallel()
	into, began, release := held()
	defer release()
	registry := prometheus.NewRegistry()
	s := newStore(t, withSink(into), func(o *snapshot.ReceiverOptions) { o.Registerer = registry })
	const size = 3 << 20
	sender := newSender(t, memory{7: random(1, size)}, func(o *snapshot.SenderOptions) { o.Registerer = registry })
	result := make(chan error, 1)
	go func() { result <- sender.SendSnapshot(context.Background(), s.address, message(7, size)) }()
	<-began
	for store, list := range map[uint64][]snapshot.Progress{there: sender.Transfers(), here: s.Transfers()} {
		if len(list) != 1 {
			t.Fatalf("%d transfers", len(list))
		}
		p := list[0]
		if p.RegionID != 7 || p.PeerID != 27 || p.StoreID != store || p.Total != size || p.Term != 5 || p.Index != 100 || p.Done > size {
			t.Errorf("%+v", p)
		}
	}
	if got := gathered(t, registry, "raftmux_snapshot_transfers"); got != 2 {
		t.Errorf("%v transfers are under way", got)
	}
	release()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	s.quiet(t)
	if got := gathered(t, registry, "raftmux_snapshot_bytes_total"); got != 2*size {
		t.Errorf("%v bytes have moved", got)
	}
	if got := gathered(t, registry, "raftmux_snapshot_transfers_total"); got != 2 {
		t.Errorf("%v transfers have ended", got)
	}
	sender.Close()
	s.Close()
	if families, err := registry.Gather(); err != nil || len(families) > 0 {
		t.Errorf("%d families after Close, %v", len(families), err)
	}
}

// gathered sums a metric over its labels.
func gathered(t *testing.T, registry *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// C9: a transfer that is cancelled, at either end and by whatever, fails once, and
// only it.
func TestC9Cancel(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cancel func(*snapshot.Sender, *store, context.CancelFunc)
		want   error
	}{
		"sender":   {func(s *snapshot.Sender, _ *store, _ context.CancelFunc) { s.Cancel(7) }, snapshot.ErrCancelled},
		"close":    {func(s *snapshot.Sender, _ *store, _ context.CancelFunc) { s.Close() }, snapshot.ErrClosed},
		"context":  {func(_ *snapshot.Sender, _ *store, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"receiver": {func(_ *snapshot.Sender, s *store, _ context.CancelFunc) { s.Cancel(7) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			into, began, release := held()
			defer release()
			s := newStore(t, withSink(into))
			sender := newSender(t, memory{7: random(1, 20<<20), 8: random(1, 10)})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			result, other := make(chan error, 1), make(chan error, 1)
			go func() { result <- sender.SendSnapshot(ctx, s.address, message(7, 20<<20)) }()
			<-began
			if name != "close" && name != "context" {
				go func() { other <- sender.SendSnapshot(ctx, s.address, message(8, 10)) }()
				<-began
			} else {
				other <- nil
			}
			if n := sender.Cancel(99); n != 0 {
				t.Errorf("%d transfers of a region that has none", n)
			}
			test.cancel(sender, s, cancel)
			err := <-result
			if err == nil || test.want != nil && !errors.Is(err, test.want) || test.want == nil && !strings.Contains(err.Error(), "cancelled") {
				t.Errorf("ended with %v", err)
			}
			release()
			if err := <-other; err != nil {
				t.Errorf("the other region: %v", err)
			}
			s.quiet(t)
			if len(into.of(7)) != 0 {
				t.Error("it was committed")
			}
		})
	}
}

// A sender that comes again before the receiver has noticed that it was gone takes
// over from itself; one that is out of date doesn't.
func TestComesAgain(t *testing.T) {
	t.Parallel()
	into, began, release := held()
	defer release()
	// The one that comes again needs no room besides its own.
	s := newStore(t, withSink(into), func(o *snapshot.ReceiverOptions) { o.MaxTransfers = 1 })
	const size = 3 << 20
	want := random(1, size)
	sender := newSender(t, memory{7: want})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- sender.SendSnapshot(context.Background(), s.address, message(7, size)) }()
	<-began
	old, deposed := message(7, size), message(7, size)
	old.Message.Snapshot.Metadata.Term--
	deposed.Message.Term--
	deposed.Message.Snapshot.Metadata.Index++
	for _, m := range []*raft_serverpb.RaftMessage{old, deposed} {
		if err := sender.SendSnapshot(context.Background(), s.address, m); err == nil || !strings.Contains(err.Error(), "newer snapshot") {
			t.Errorf("an older one: %v", err)
		}
	}
	go func() { second <- sender.SendSnapshot(context.Background(), s.address, message(7, size)) }()
	if err := <-first; status.Code(errors.Unwrap(err)) != codes.Aborted {
		t.Errorf("the first ended with %v", err)
	}
	release()
	if err := <-second; err != nil {
		t.Errorf("the second ended with %v", err)
	}
	s.quiet(t)
	if got := into.of(7); len(got) != 1 || string(got[0]) != string(want) {
		t.Errorf("%d were committed", len(got))
	}
}

// Closed ends take nothing.
func TestClosed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sender := newSender(t, memory{7: random(1, 10)})
	s.Close()
	s.Close()
	if err := sender.SendSnapshot(context.Background(), s.address, message(7, 10)); status.Code(errors.Unwrap(err)) != codes.Unavailable {
		t.Errorf("a closed receiver: %v", err)
	}
	sender.Close()
	sender.Close()
	if err := sender.SendSnapshot(context.Background(), s.address, message(7, 10)); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("a closed sender: %v", err)
	}
	ask := snapshot.PrecheckRequest{RegionID: 7, PeerID: 21, StoreID: there}
	if _, err := sender.Precheck(context.Background(), s.address, ask); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("a closed sender that is to ask: %v", err)
	}
	if got := fmt.Sprint(len(s.files(t, ""))); got != "0" {
		t.Error(got, "files")
	}
}
