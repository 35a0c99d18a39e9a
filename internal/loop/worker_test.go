package loop

import (
	"math/rand/v2"
	"runtime/debug"

	"github.com/raftmux/raftmux/etcdraft"
)

// worker drives some of a store's replicas, on one goroutine.
type worker struct {
	store    *store
	box      *mailbox
	sender   *etcdraft.Sender
	replicas map[uint64]*replica // by region
	active   []*replica          // may have something ready
	rng      *rand.Rand
	ticked   chan struct{} // told after each turn in which the clock moved
	done     chan struct{}
}

func newWorker(s *store, rng *rand.Rand) *worker {
	return &worker{
		store:    s,
		box:      newMailbox(),
		replicas: make(map[uint64]*replica),
		rng:      rng,
		ticked:   make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
}

// run ends when the mailbox is closed, or when a RawNode panics, which fails the test.
func (w *worker) run() {
	defer close(w.done)
	defer w.sender.Close()
	defer func() {
		if p := recover(); p != nil {
			w.store.cluster.history.violation("a worker of store %d panics: %v\n%s", w.store.id, p, debug.Stack())
		}
	}()
	var spare []item
	for !w.box.isClosed() {
		if len(w.active) == 0 {
			<-w.box.wake
		}
		items := w.box.take(spare)
		w.turn(items)
		clear(items)
		spare = items[:0]
	}
}

// turn takes in what came, moves the clock if that is due, and lets out what the
// groups have to say, with one Flush.
func (w *worker) turn(items []item) {
	ticked := false
	for _, it := range items {
		switch it.kind {
		case itemTick:
			ticked = true
		case itemStoreDown:
			for _, r := range w.replicas {
				r.node.ReportUnreachable(peerID(r.region, it.id))
				w.activate(r)
			}
		case itemUnreachable:
			r := w.replicas[it.region]
			r.node.ReportUnreachable(it.id)
			w.activate(r)
		case itemMessage:
			r := w.replicas[it.region]
			r.step(it.message)
			w.activate(r)
		}
	}
	if ticked {
		for _, r := range w.replicas {
			r.node.Tick()
			r.load(w.rng)
			w.activate(r)
		}
	}
	still := w.active[:0]
	for _, r := range w.active {
		if r.node.HasReady() {
			r.handleReady()
		}
		if r.active = r.node.HasReady(); r.active {
			still = append(still, r)
		}
	}
	clear(w.active[len(still):])
	w.active = still
	w.sender.Flush()
	if ticked {
		w.ticked <- struct{}{}
	}
}

func (w *worker) activate(r *replica) {
	if !r.active {
		r.active = true
		w.active = append(w.active, r)
	}
}
