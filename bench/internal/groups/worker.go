package groups

import (
	"fmt"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/bench/internal/measure"
)

// store is one store: its transport, and its workers. It is the Host of the former.
type store struct {
	id        uint64
	cluster   *Cluster
	transport Transport
	workers   []*worker
	counts    counts
}

// counts are since the cluster began.
type counts struct {
	writes, refused, dropped, elected, orphans atomic.Uint64

	latencies measure.Histogram
}

func (s *store) workerOf(region uint64) *worker { return s.workers[region%workers] }

// Step implements Host.
func (s *store) Step(region uint64, message *raftpb.Message) {
	if !s.workerOf(region).box.push(item{kind: itemMessage, region: region, message: message}) {
		s.counts.dropped.Add(1)
	}
}

// ReportUnreachable implements Host.
func (s *store) ReportUnreachable(region, peer uint64) {
	s.workerOf(region).box.push(item{kind: itemUnreachable, region: region, id: peer})
}

// StoreUnreachable implements Host.
func (s *store) StoreUnreachable(id uint64) { s.tell(item{kind: itemStoreDown, id: id}) }

// tell tells all workers.
func (s *store) tell(it item) {
	for _, w := range s.workers {
		w.box.push(it)
	}
}

// worker drives some of a store's replicas, on one goroutine, which owns them.
type worker struct {
	store    *store
	box      *mailbox
	sender   Sender
	replicas map[uint64]*replica // by region
	active   []*replica          // may have something to do
	broken   error               // once run has returned
}

// run ends when the mailbox is closed, or with what broke.
func (w *worker) run() {
	defer w.sender.Close()
	defer func() {
		if p := recover(); p != nil {
			w.broken = fmt.Errorf("groups: a worker of store %d: %v", w.store.id, p)
		}
	}()
	var spare []item
	for {
		if len(w.active) == 0 {
			<-w.box.wake
		}
		items, closed := w.box.take(spare)
		if closed {
			return
		}
		w.turn(items)
		clear(items)
		spare = items[:0]
	}
}

// turn takes in what came, and lets out what the groups have to say, with one Flush.
func (w *worker) turn(items []item) {
	for _, it := range items {
		switch it.kind {
		case itemMessage:
			r := w.replicas[it.region]
			_ = r.node.Step(it.message) // what is refused is late
			w.activate(r)
		case itemUnreachable:
			r := w.replicas[it.region]
			r.node.ReportUnreachable(it.id)
			w.activate(r)
		case itemCampaign:
			r := w.replicas[it.region]
			_ = r.node.Campaign() // it has voters, and no configuration to apply
			w.activate(r)
		case itemTick:
			w.each(func(r *replica) { r.node.Tick() })
		case itemStoreDown:
			w.each(func(r *replica) { r.node.ReportUnreachable(peerID(r.region, it.id)) })
		case itemWake:
			w.each(func(*replica) {})
		}
	}
	still := w.active[:0]
	for _, r := range w.active {
		r.write()
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
}

func (w *worker) each(do func(*replica)) {
	for _, r := range w.replicas {
		do(r)
		w.activate(r)
	}
}

func (w *worker) activate(r *replica) {
	if !r.active {
		r.active = true
		w.active = append(w.active, r)
	}
}
