package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/etcdraft"
)

// replica is one store's replica of one group. It belongs to one worker.
type replica struct {
	worker  *worker
	region  uint64
	store   uint64
	group   etcdraft.Group
	node    *raft.RawNode
	guard   etcdraft.Guard
	storage wholeLog
	active  bool

	applied []appliedEntry
	writes  map[uint64]write
	reads   map[uint64]read  // by number, those that are not answered
	known   []raft.ReadState // what Raft answered, of which not all is applied
	// The host's lease: see extend.
	leaseTerm  uint64
	leaseUntil int64
}

// wholeLog is a log that is never compacted, and whose members are known from
// the beginning. So no follower ever needs a snapshot.
type wholeLog struct {
	*raft.MemoryStorage
	voters []uint64
}

func (l wholeLog) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	hard, _, err := l.MemoryStorage.InitialState()
	return hard, &raftpb.ConfState{Voters: l.voters}, err
}

type appliedEntry struct{ index, term, sum uint64 }

// write is a proposal whose end isn't known.
type write struct {
	term  uint64
	tick  int64  // when it was proposed
	floor uint64 // what clients had seen by then
	fresh bool   // it was proposed after healing
}

// read is a read-index request.
type read struct {
	floor  uint64
	leased bool
}

func peerID(region, store uint64) uint64 { return region*8 + store }

func newReplica(w *worker, region uint64) *replica {
	r := &replica{
		worker: w,
		region: region,
		store:  w.store.id,
		group: etcdraft.Group{
			RegionID: region,
			Self:     etcdraft.Peer{ID: peerID(region, w.store.id), StoreID: w.store.id},
			Stores:   make(map[uint64]uint64),
		},
		storage: wholeLog{MemoryStorage: raft.NewMemoryStorage()},
		writes:  make(map[uint64]write),
		reads:   make(map[uint64]read),
	}
	for store := uint64(1); store <= stores; store++ {
		r.group.Stores[peerID(region, store)] = store
		r.storage.voters = append(r.storage.voters, peerID(region, store))
	}
	r.guard = etcdraft.NewGuard(r.group.Self.ID, 0)
	var err error
	r.node, err = raft.NewRawNode(&raft.Config{
		ID:              r.group.Self.ID,
		ElectionTick:    electionTick,
		HeartbeatTick:   heartbeatTick,
		Storage:         r.storage,
		MaxSizePerMsg:   1 << 20,
		MaxInflightMsgs: 256,
		CheckQuorum:     true,
		PreVote:         true,
		ReadOnlyOption:  raft.ReadOnlyLeaseBased,
		// A store that isn't the leader has nothing to propose here.
		DisableProposalForwarding: true,
		Logger:                    quiet{},
	})
	if err != nil {
		w.store.cluster.t.Fatal(err)
	}
	return r
}

func (r *replica) history() *history             { return r.worker.store.cluster.history }
func (r *replica) regionHistory() *regionHistory { return &r.history().regions[r.region] }

// step gives Raft a message. No message of a correct peer is refused, however
// late it comes.
func (r *replica) step(message *raftpb.Message) {
	err := r.guard.Check(r.node, message)
	if errors.Is(err, etcdraft.ErrReadyFirst) {
		r.handleReady()
		err = r.guard.Check(r.node, message)
	}
	if err != nil {
		r.history().violation("region %d, store %d: %v", r.region, r.store, err)
		return
	}
	_ = r.node.Step(message)
}

// load is the clients' work, once per tick: where the replica believes that it
// leads, it proposes and reads, each at random.
func (r *replica) load(rng *rand.Rand) {
	c := r.worker.store.cluster
	status := r.node.BasicStatus()
	if status.RaftState != raft.StateLeader {
		if status.Lead == raft.None && r.region%stores+1 == r.store && c.now() < firstCampaigns {
			_ = r.node.Campaign() // the first leaders are spread over the stores
		}
		return
	}
	switch phase := c.phase(); phase {
	case phaseQuiet:
		return
	case phaseHealed:
		if !r.regionHistory().fresh.Load() && rng.IntN(5) == 0 {
			r.propose(status.GetTerm(), true)
		}
	default:
		if rng.Float64() < writesPerTick {
			r.propose(status.GetTerm(), false)
		}
	}
	if rng.Float64() < readsPerTick {
		r.readIndex(status.GetTerm())
	}
}

func (r *replica) propose(term uint64, fresh bool) {
	c := r.worker.store.cluster
	number := c.numbers.Add(1)
	w := write{term: term, tick: c.now(), floor: r.regionHistory().floor.Load(), fresh: fresh}
	data := make([]byte, 8+number%maxData)
	binary.LittleEndian.PutUint64(data, number)
	if r.node.Propose(data) == nil {
		r.writes[number] = w
	}
}

// readIndex begins a lease read. Raft answers with what is committed now.
func (r *replica) readIndex(term uint64) {
	c := r.worker.store.cluster
	h := r.regionHistory()
	number := c.numbers.Add(1)
	now := c.now()
	rd := read{floor: h.floor.Load(), leased: r.leaseTerm == term && now < r.leaseUntil}
	if rd.leased {
		r.history().soleHolder(r.region, r.store, now)
	}
	r.reads[number] = rd
	r.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, number))
}

// serve ends the reads that can be served. What a Ready has committed ends at
// MaxSizePerMsg, so Raft may answer before all of that is applied.
func (r *replica) serve() {
	applied := uint64(0)
	if n := len(r.applied); n > 0 {
		applied = r.applied[n-1].index
	}
	for len(r.known) > 0 && r.known[0].Index <= applied {
		r.answer(r.known[0])
		r.known = r.known[1:]
	}
}

// answer ends a read. Under a lease, nothing may be missing that a client had
// seen when it began.
func (r *replica) answer(state raft.ReadState) {
	number := binary.LittleEndian.Uint64(state.RequestCtx)
	rd, ok := r.reads[number]
	if !ok {
		return
	}
	delete(r.reads, number)
	counts := &r.history().counts
	switch {
	case !rd.leased:
		counts.noLease.Add(1)
		if state.Index < rd.floor {
			counts.staleBare.Add(1)
		}
	case state.Index < rd.floor:
		r.history().violation("region %d: a lease read of store %d sees %d, a client had seen %d before",
			r.region, r.store, state.Index, rd.floor)
	default:
		counts.leaseReads.Add(1)
		r.regionHistory().show(state.Index)
	}
}

// extend renews the host's lease: a quorum has acknowledged an entry of this
// leader's term since it was proposed, and each of these grants nobody its vote
// for an election timeout from then on. Two ticks less, since the ticks of two
// workers may be one apart on either side.
//
// Raft's own ReadOnlyLeaseBased answers without asking for how long the quorum
// has been silent: that it finds out once per election timeout, so it may serve
// reads for almost two, while another leader can be elected after one.
func (r *replica) extend(w write) {
	status := r.node.BasicStatus()
	if status.RaftState != raft.StateLeader || status.GetTerm() != w.term {
		return
	}
	r.leaseTerm = w.term
	r.leaseUntil = max(r.leaseUntil, w.tick+electionTick-2)
	r.regionHistory().lease[r.store].Store(r.leaseUntil)
}

// handleReady does what Raft asks for.
func (r *replica) handleReady() {
	ready := r.node.Ready()
	r.guard.Observe(ready)
	if !raft.IsEmptySnap(ready.Snapshot) {
		panic("a snapshot came")
	}
	if !raft.IsEmptyHardState(ready.HardState) {
		r.must(r.storage.SetHardState(ready.HardState))
	}
	r.must(r.storage.Append(ready.Entries))
	if r.leaseUntil > 0 {
		if status := r.node.BasicStatus(); status.RaftState != raft.StateLeader || status.GetTerm() != r.leaseTerm {
			r.leaseTerm, r.leaseUntil = 0, 0
			r.regionHistory().lease[r.store].Store(0)
		}
	}
	if ready.SoftState != nil && ready.RaftState != raft.StateLeader {
		clear(r.reads)
		r.known = nil
	}
	r.apply(ready.CommittedEntries)
	r.known = append(r.known, ready.ReadStates...)
	r.serve()
	r.node.Advance(ready)
	r.send(ready.Messages)
}

// apply acknowledges the own writes among the entries.
func (r *replica) apply(entries []*raftpb.Entry) {
	for _, e := range entries {
		sum := fnv.New64a()
		_, _ = sum.Write(e.GetData())
		r.applied = append(r.applied, appliedEntry{e.GetIndex(), e.GetTerm(), sum.Sum64()})
		if len(e.GetData()) < 8 {
			continue // a new leader's
		}
		number := binary.LittleEndian.Uint64(e.GetData())
		w, ok := r.writes[number]
		if !ok {
			continue
		}
		delete(r.writes, number)
		if e.GetIndex() <= w.floor {
			r.history().violation("region %d: a write at %d, proposed after a client had seen %d", r.region, e.GetIndex(), w.floor)
		}
		r.history().counts.writes.Add(1)
		r.regionHistory().show(e.GetIndex())
		if w.fresh {
			r.regionHistory().fresh.Store(true)
		}
		r.extend(w)
	}
	if n := len(entries); n > 0 {
		r.regionHistory().applied[r.store].Store(entries[n-1].GetIndex())
	}
}

// send numbers each message, in the epoch that goes around it, so that the
// receiver can tell what comes late or twice.
func (r *replica) send(messages []*raftpb.Message) {
	for i, message := range messages {
		if message.GetType() == raftpb.MsgSnap {
			panic(fmt.Sprintf("a snapshot is sent to peer %d", message.GetTo()))
		}
		r.group.Epoch.Version++
		accepted, _ := r.worker.sender.SendAll(r.group, r.node, messages[i:i+1])
		r.history().counts.accepted[r.store][r.group.Stores[message.GetTo()]].Add(uint64(accepted))
		r.history().counts.refused.Add(int64(1 - accepted))
	}
}

func (r *replica) must(err error) {
	if err != nil {
		panic(err)
	}
}

// laneOf says in which lane a message travels: 0 for control, 1 for data.
func laneOf(kind raftpb.MessageType) int {
	switch kind {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return 0
	}
	return 1
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
