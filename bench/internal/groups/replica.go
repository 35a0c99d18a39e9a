package groups

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// replica is one store's replica of one group, and the clients that write to the
// group while it leads.
type replica struct {
	worker  *worker
	region  uint64
	group   etcdraft.Group
	node    *raft.RawNode
	storage members
	shared  *shared
	active  bool

	leads  bool
	first  uint64               // of the log
	next   uint64               // number of a write
	writes map[uint64]time.Time // under way, by number
}

// shared is what a group's replicas know of each other, which only a bench may.
type shared struct {
	led     atomic.Bool           // at any time
	applied [stores]atomic.Uint64 // by each store
}

// members is a log whose members are known from the beginning.
type members struct {
	*raft.MemoryStorage
	voters []uint64
}

// InitialState implements raft.Storage.
func (m members) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hard, _, err := m.MemoryStorage.InitialState()
	return hard, &raftpb.ConfState{Voters: m.voters}, err
}

func newReplica(w *worker, region uint64, s *shared) (*replica, error) {
	id := w.store.id
	r := &replica{
		worker: w, region: region, shared: s,
		group: etcdraft.Group{
			RegionID: region, Self: etcdraft.Peer{ID: peerID(region, id), StoreID: id}, Stores: make(map[uint64]uint64),
		},
		storage: members{MemoryStorage: raft.NewMemoryStorage()},
		writes:  make(map[uint64]time.Time),
	}
	for other := uint64(1); other <= stores; other++ {
		r.group.Stores[peerID(region, other)] = other
		r.storage.voters = append(r.storage.voters, peerID(region, other))
	}
	var err error
	r.node, err = raft.NewRawNode(&raft.Config{
		ID: r.group.Self.ID, ElectionTick: electionTick, HeartbeatTick: heartbeatTick, Storage: r.storage,
		MaxSizePerMsg: maxPerMessage, MaxInflightMsgs: maxInflight, CheckQuorum: true, PreVote: true,
		DisableProposalForwarding: true, Logger: quiet{},
	})
	if err != nil {
		return nil, fmt.Errorf("groups: %w", err)
	}
	return r, nil
}

// write lets each client that waits for nothing write.
func (r *replica) write() {
	c := r.worker.store.cluster
	for r.leads && c.writing.Load() && len(r.writes) < c.plan.Writers {
		r.next++
		number := r.next*(stores+1) + r.worker.store.id
		data := make([]byte, c.plan.Size)
		binary.LittleEndian.PutUint64(data, number)
		if r.node.Propose(data) != nil {
			return
		}
		r.writes[number] = time.Now()
	}
}

// handleReady does what Raft asks for.
func (r *replica) handleReady() {
	ready := r.node.Ready()
	if !raft.IsEmptyHardState(ready.HardState) {
		must(r.storage.SetHardState(ready.HardState))
	}
	must(r.storage.Append(ready.Entries))
	if ready.SoftState != nil {
		r.lead(ready.RaftState == raft.StateLeader)
	}
	r.apply(ready.CommittedEntries)
	r.node.Advance(ready)
	r.compact()
	for _, message := range ready.Messages {
		if message.GetType() == raftpb.MsgSnap {
			panic(fmt.Sprintf("a snapshot is to go to peer %d", message.GetTo()))
		}
	}
	refused := r.worker.sender.Send(r.group, r.node, ready.Messages)
	r.worker.store.counts.refused.Add(uint64(refused))
}

// lead notes whether it leads. Clients of one that doesn't any more go to the next.
func (r *replica) lead(leads bool) {
	if leads && !r.leads {
		r.shared.led.Store(true)
		r.worker.store.counts.elected.Add(1)
	}
	r.leads = leads
	if !leads {
		r.worker.store.counts.orphans.Add(uint64(len(r.writes)))
		clear(r.writes)
	}
}

// apply acknowledges the own writes among the entries.
func (r *replica) apply(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	counts := &r.worker.store.counts
	for _, e := range entries {
		if len(e.GetData()) == 0 {
			continue // a new leader's
		}
		number := binary.LittleEndian.Uint64(e.GetData())
		if began, ok := r.writes[number]; ok {
			delete(r.writes, number)
			counts.writes.Add(1)
			counts.latencies.Add(time.Since(began))
		}
	}
	r.shared.applied[r.worker.store.id-1].Store(entries[len(entries)-1].GetIndex())
}

// slack is how many entries are dropped at a time.
const slack = 64

// compact drops what no peer will ask for: what all have applied, and, while it leads,
// what it knows that they have.
func (r *replica) compact() {
	least := r.shared.applied[0].Load()
	for i := range r.shared.applied {
		least = min(least, r.shared.applied[i].Load())
	}
	if least < r.first+slack {
		return
	}
	if r.leads {
		for _, progress := range r.node.Status().Progress {
			least = min(least, progress.Match)
		}
		if least < r.first+slack {
			return
		}
	}
	must(r.storage.Compact(least))
	r.first = least
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// quiet is a raft.Logger that only panics.
type quiet struct{}

func (quiet) Debug(...any)              {}
func (quiet) Debugf(string, ...any)     {}
func (quiet) Info(...any)               {}
func (quiet) Infof(string, ...any)      {}
func (quiet) Warning(...any)            {}
func (quiet) Warningf(string, ...any)   {}
func (quiet) Error(...any)              {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (quiet) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
