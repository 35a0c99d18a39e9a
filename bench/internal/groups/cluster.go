package groups

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmux/raftmux/bench/internal/measure"
)

// Cluster is three stores that run.
type Cluster struct {
	plan    Plan
	stores  []*store // by id less one
	shared  []shared // by region less one
	writing atomic.Bool
	running sync.WaitGroup // workers
	ticking sync.WaitGroup
	stop    chan struct{} // closed when the clock is to end
}

// electTime is how long it may take until each group has a leader.
const electTime = 20 * time.Second

// New starts the stores, and returns when each group has a leader. They are spread
// over the stores, and nobody writes yet.
func New(plan Plan, start Start) (*Cluster, error) {
	if plan.Groups < 1 || plan.Writers < 1 || plan.Size < 8 || plan.LinkRate < 0 {
		return nil, fmt.Errorf("groups: a plan that can't be run: %+v", plan)
	}
	c := &Cluster{plan: plan, shared: make([]shared, plan.Groups), stop: make(chan struct{})}
	err := c.start(start)
	if err == nil {
		err = c.elect()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(start Start) error {
	addresses := make([]string, stores)
	for i := range addresses {
		s, err := c.newStore(uint64(i+1), start)
		if err != nil {
			return err
		}
		c.stores = append(c.stores, s)
		addresses[i] = s.transport.Address()
	}
	for i, s := range c.stores {
		others := slices.Clone(addresses)
		others[i] = ""
		if err := s.transport.Connect(others, c.links(others)); err != nil {
			return err
		}
	}
	for _, s := range c.stores {
		for _, w := range s.workers {
			w.sender = s.transport.NewSender()
			c.running.Go(w.run)
		}
	}
	c.ticking.Go(c.tick)
	return nil
}

func (c *Cluster) newStore(id uint64, start Start) (*store, error) {
	s := &store{id: id, cluster: c}
	for range workers {
		s.workers = append(s.workers, &worker{store: s, box: newMailbox(), replicas: make(map[uint64]*replica)})
	}
	for i := range c.shared {
		region := uint64(i + 1)
		w := s.workerOf(region)
		var err error
		if w.replicas[region], err = newReplica(w, region, &c.shared[i]); err != nil {
			return nil, err
		}
	}
	var err error
	s.transport, err = start(id, s)
	return s, err
}

// links returns a store's ways to the others.
func (c *Cluster) links(addresses []string) Dial {
	ways := make(map[string]*link)
	for _, address := range addresses {
		ways[address] = newLink(c.plan.LinkRate)
	}
	return func(ctx context.Context, address string) (net.Conn, error) { return ways[address].dial(ctx, address) }
}

func (c *Cluster) tick() {
	clock := time.NewTicker(tickInterval)
	defer clock.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-clock.C:
			c.tell(item{kind: itemTick})
		}
	}
}

func (c *Cluster) tell(it item) {
	for _, s := range c.stores {
		s.tell(it)
	}
}

// elect has each group elect one of its peers, and waits for it.
func (c *Cluster) elect() error {
	for i := range c.shared {
		region := uint64(i + 1)
		s := c.stores[i%stores]
		s.workerOf(region).box.push(item{kind: itemCampaign, region: region})
	}
	led := func() bool {
		for i := range c.shared {
			if !c.shared[i].led.Load() {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(electTime); !led(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("groups: not every group has a leader")
		}
	}
	return nil
}

// Run lets the clients write for as long as settle and then some time more, of which
// the outcome is, and stops them.
func (c *Cluster) Run(settle, took time.Duration) (Outcome, error) {
	c.writing.Store(true)
	defer c.writing.Store(false)
	c.tell(item{kind: itemWake})
	time.Sleep(settle)
	usedBefore, err := measure.Now()
	if err != nil {
		return Outcome{}, err
	}
	before, began := c.totals(), time.Now()
	for _, s := range c.stores {
		s.counts.latencies.Reset()
	}
	time.Sleep(took)
	out, took := c.totals(), time.Since(began)
	used, err := measure.Now()
	if err != nil {
		return Outcome{}, err
	}
	out = out.since(before)
	out.Took, out.CPU = took, used.CPU-usedBefore.CPU
	var sums []uint64
	for _, s := range c.stores {
		sums = s.counts.latencies.AddTo(sums)
	}
	out.P50, out.P99 = measure.Quantile(sums, 0.5), measure.Quantile(sums, 0.99)
	return out, nil
}

// totals are the counts since the beginning.
func (c *Cluster) totals() (out Outcome) {
	for _, s := range c.stores {
		out.Writes += s.counts.writes.Load()
		out.Orphans += s.counts.orphans.Load()
		out.Refused += s.counts.refused.Load()
		out.Dropped += s.counts.dropped.Load()
		out.Elected += s.counts.elected.Load()
	}
	return out
}

func (o Outcome) since(before Outcome) Outcome {
	return Outcome{
		Writes: o.Writes - before.Writes, Orphans: o.Orphans - before.Orphans,
		Refused: o.Refused - before.Refused, Dropped: o.Dropped - before.Dropped, Elected: o.Elected - before.Elected,
	}
}

// Close ends everything, and returns what broke.
func (c *Cluster) Close() error {
	close(c.stop)
	c.ticking.Wait()
	for _, s := range c.stores {
		for _, w := range s.workers {
			w.box.close()
		}
	}
	c.running.Wait()
	var errs []error
	for _, s := range c.stores {
		for _, w := range s.workers {
			errs = append(errs, w.broken)
		}
		errs = append(errs, s.transport.Disconnect())
	}
	for _, s := range c.stores {
		errs = append(errs, s.transport.Close())
	}
	return errors.Join(errs...)
}
