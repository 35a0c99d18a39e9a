package kvstore

import (
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/raftmux/raftmux/etcdraft"
)

// The clock of Raft.
const (
	tickInterval  = 100 * time.Millisecond
	electionTick  = 10
	heartbeatTick = 2
	// A new region is first led where the layout wants it. Its other replicas
	// hold their clocks for so many ticks, and it tries every firstCampaign
	// ticks: the stores may start seconds apart.
	newRegionPatience = 50
	firstCampaign     = 3
)

// view is what the world may see of a region at any time.
type view struct {
	applied atomic.Uint64
	leader  atomic.Uint64 // the store that leads, 0 if none is known
}

// region is this store's replica of one region. It belongs to one worker.
type region struct {
	id    uint64
	store uint64
	group etcdraft.Group
	node  *raft.RawNode
	guard etcdraft.Guard // against messages that would make the node panic
	log   *logStore
	view  *view

	// home is the store that is to lead when all is well.
	home    uint64
	leader  uint64 // peer id
	leads   bool
	led     int // for how many ticks
	newFor  int // ticks since the start of a region that was new, -1 for others
	idle    int // ticks since the log last grew
	applied uint64
	active  bool // whether it is in the worker's list of regions with work
	dedup   map[uint64]*dedupRow
	writes  writeQueue
	reads   readQueue
}

// openRegion loads a region.
func openRegion(h *Host, id uint64) (*region, error) {
	r := &region{
		id:    id,
		store: h.options.StoreID,
		view:  &h.views[id-1],
		home:  h.stores[id%uint64(len(h.stores))],
		dedup: map[uint64]*dedupRow{},
		group: etcdraft.Group{
			RegionID: id,
			Self:     etcdraft.Peer{ID: PeerID(id, h.options.StoreID), StoreID: h.options.StoreID},
			Epoch:    etcdraft.Epoch{ConfVer: 1, Version: 1},
			Stores:   map[uint64]uint64{},
		},
	}
	var voters []uint64
	for _, store := range h.stores {
		voters = append(voters, PeerID(id, store))
		r.group.Stores[PeerID(id, store)] = store
	}
	var err error
	if r.log, err = loadLog(h.db, id, voters); err != nil {
		return nil, err
	}
	if r.applied, r.dedup, err = loadState(h.db, id); err != nil {
		return nil, err
	}
	r.view.applied.Store(r.applied)
	r.newFor = -1
	if r.log.isNew() {
		r.newFor = 0
	}
	r.guard = etcdraft.NewGuard(r.group.Self.ID, r.log.lastIndex)
	r.writes.incarnation = h.incarnation
	r.reads.incarnation = h.incarnation
	r.node, err = raft.NewRawNode(&raft.Config{
		ID:                        r.group.Self.ID,
		ElectionTick:              electionTick,
		HeartbeatTick:             heartbeatTick,
		Storage:                   r.log,
		Applied:                   r.applied,
		MaxSizePerMsg:             1 << 20,
		MaxCommittedSizePerReady:  4 << 20,
		MaxUncommittedEntriesSize: 64 << 20,
		MaxInflightMsgs:           256,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		Logger:                    raftLogger{h.options.Logger},
	})
	if err == nil && len(voters) == 1 {
		err = r.node.Campaign() // nobody else will, and there is nothing to wait for
	}
	return r, err
}

// tick moves the region's clock.
func (r *region) tick() {
	if r.newFor >= 0 {
		if r.tickNew() {
			return
		}
	}
	r.node.Tick()
	if r.idle++; r.idle == 10*electionTick {
		r.log.forget()
	}
}

// tickNew spreads the first leaders over the stores: only the region's home
// campaigns at first. It returns whether the clock is to stand still.
func (r *region) tickNew() bool {
	if r.leader != 0 || !r.log.isNew() || r.newFor >= newRegionPatience {
		r.newFor = -1
		return false
	}
	if r.store == r.home && r.newFor%firstCampaign == 0 {
		_ = r.node.Campaign()
	}
	r.newFor++
	return true
}

// homeAgain is how long a region's home must have been in reach before it is
// given the lead: by then, the other stores have found it too. It is more than
// the longest pause between two attempts to connect.
const homeAgain = 8 * backoffStep

// rebalance hands the lead to the region's home, if that is well and has all of
// the log.
func (r *region) rebalance(upFor func(store uint64) time.Duration) {
	if !r.leads || r.store == r.home {
		r.led = 0
		return
	}
	// Half-way between two of Raft's quorum checks, each of which makes RecentActive false.
	if r.led++; r.led < 2*electionTick+electionTick/2 {
		return
	}
	r.led -= electionTick // look again in a while
	if upFor(r.home) < homeAgain {
		return
	}
	home := PeerID(r.id, r.home)
	progress, ok := r.node.Status().Progress[home]
	if ok && progress.RecentActive && progress.Match == r.log.lastIndex {
		r.node.TransferLeader(home)
	}
}

// unreachable tells Raft that messages to a peer, or to all peers of a store, may be lost.
func (r *region) unreachable(peer uint64) {
	if r.leads {
		r.node.ReportUnreachable(peer)
	}
}

// softState notes who leads now.
func (r *region) softState(state *raft.SoftState) (becameLeader bool) {
	if state == nil {
		return false
	}
	leads := state.RaftState == raft.StateLeader
	becameLeader = leads && !r.leads
	if r.leader != state.Lead || becameLeader {
		// What was under way to the old leader may be lost, so ask at once.
		r.writes.retryAll()
		r.reads.retryAll()
	}
	r.leader, r.leads = state.Lead, leads
	r.view.leader.Store(r.group.Stores[state.Lead])
	return becameLeader
}
