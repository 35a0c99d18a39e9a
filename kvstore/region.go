package kvstore

import (
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

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
	role    atomic.Uint32 // a viewedRole
	entries atomic.Uint64 // in the log
	moving  atomic.Bool   // whether a replacement is ordered
	buried  atomic.Uint64 // the highest peer id that there is a tombstone of
}

// viewedRole is what this store's replica of a region is.
type viewedRole uint32

const (
	roleNone    viewedRole = iota // there is none
	roleWaiting                   // for its first snapshot
	roleLearner
	roleVoter
)

// region is this store's replica of one region. It belongs to one worker.
type region struct {
	id    uint64
	store uint64
	group etcdraft.Group
	node  *raft.RawNode
	guard etcdraft.Guard // against messages that would make the node panic
	log   *logStore
	view  *view

	// descriptor is that of the applied index; it has no peers while the region
	// waits for its first snapshot.
	descriptor *Descriptor
	// strangers are the senders that are in group.Stores though the descriptor doesn't
	// know them, by peer id. Who was heard last is last.
	strangers []uint64
	// changes are the conf changes that are in the batch, for Raft to be told of.
	changes []*raftpb.ConfChange
	// change is the membership change that this leader has proposed last, nil once
	// it was answered, and barrier the index that has to be applied before another.
	change  *request
	barrier uint64
	// outgoing is the snapshot for peers that need one; wanted says that Raft
	// asked in vain. incoming are snapshots that came and are with Raft.
	outgoing *outgoing
	wanted   bool
	// rooms is what the stores of peers that lack a snapshot have said, while this
	// peer leads, by peer.
	rooms    map[uint64]*room
	incoming []incoming
	dead     bool // destroyed

	// home is the store that is to lead when all is well.
	home    uint64
	leader  uint64 // peer id
	leads   bool
	led     int // for how many ticks
	alone   int // for how many ticks there has been no leader
	newFor  int // ticks since the start of a region that was new, -1 for others
	idle    int // ticks since the log last grew
	applied uint64
	active  bool // whether it is in the worker's list of regions with work
	dedup   map[uint64]*dedupRow
	writes  writeQueue
	reads   readQueue
}

// openRegion loads a region's peer with this id, or makes one that has nothing.
func openRegion(h *Host, id, peer uint64) (*region, error) {
	r := &region{
		id:         id,
		store:      h.options.StoreID,
		view:       &h.views[id-1],
		descriptor: &Descriptor{},
		group: etcdraft.Group{
			RegionID: id,
			Self:     etcdraft.Peer{ID: peer, StoreID: h.options.StoreID},
			Stores:   map[uint64]uint64{},
		},
		newFor: -1,
	}
	value, err := getCopy(h.db, regionKey(id, partDescriptor))
	if err != nil {
		return nil, err
	}
	r.view.role.Store(uint32(roleWaiting))
	if value != nil {
		d, err := decodeDescriptor(value)
		if err != nil {
			return nil, err
		}
		r.describe(d)
	}
	if r.log, err = loadLog(h.db, id, r.descriptor.confState()); err != nil {
		return nil, err
	}
	r.log.snapshots = r
	if r.applied, r.dedup, err = loadState(h.db, id); err != nil {
		return nil, err
	}
	r.view.applied.Store(r.applied)
	if r.initialized() && r.log.isNew() {
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
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{h.options.Logger},
	})
	if err == nil && len(r.descriptor.Peers) == 1 {
		err = r.node.Campaign() // nobody else will, and there is nothing to wait for
	}
	return r, err
}

// initialized says whether the region knows its peers; one that doesn't waits
// for a snapshot and takes part in nothing.
func (r *region) initialized() bool { return len(r.descriptor.Peers) > 0 }

// describe notes who the peers are. Where former ones are is kept in mind: the
// last messages to them are on their way.
func (r *region) describe(d *Descriptor) {
	r.descriptor = d
	r.group.Epoch = etcdraft.Epoch{ConfVer: d.ConfVer, Version: 1}
	r.dropStrangers()
	for _, peer := range d.Peers {
		r.group.Stores[peer.ID] = peer.StoreID
	}
	if voters := d.voterStores(); len(voters) > 0 {
		r.home = voters[r.id%uint64(len(voters))]
	}
	role := roleWaiting
	if own := d.peer(r.group.Self.ID); own != nil && own.Role == Learner {
		role = roleLearner
	} else if own != nil {
		role = roleVoter
	}
	r.view.role.Store(uint32(role))
	r.view.moving.Store(d.Replacement != nil)
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
	if r.changing() || upFor(r.home) < homeAgain {
		return
	}
	home := r.descriptor.on(r.home)
	if home == nil {
		return
	}
	progress, ok := r.node.Status().Progress[home.ID]
	if ok && progress.RecentActive && progress.Match == r.log.lastIndex {
		r.node.TransferLeader(home.ID)
	}
}

// moving says whether this leader has a replacement to do that has begun.
func (r *region) moving() bool {
	order := r.descriptor.Replacement
	return order != nil && r.leads && (r.change != nil || r.descriptor.on(order.Old) == nil)
}

// toMove says whether this leader has a replacement to do.
func (r *region) toMove() bool { return r.descriptor.Replacement != nil && r.leads }

// close answers everyone who waits for the region.
func (r *region) close(err error) {
	for _, write := range r.writes.pending {
		write.finish(answer{err: err})
	}
	for _, read := range r.reads.waiting {
		read.finish(answer{err: err})
	}
	for _, round := range r.reads.rounds {
		for _, read := range round.reads {
			read.finish(answer{err: err})
		}
	}
	if r.change != nil {
		r.change.finish(answer{err: err})
		r.change = nil
	}
}

// clear makes a view that of a region that isn't there. What was buried remains so.
func (v *view) clear() {
	v.applied.Store(0)
	v.leader.Store(0)
	v.role.Store(uint32(roleNone))
	v.entries.Store(0)
	v.moving.Store(false)
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
	if leads && !r.leads {
		// What an earlier leader proposed is in the log, perhaps, and not applied.
		r.barrier = max(r.barrier, r.log.lastIndex)
	}
	becameLeader = leads && !r.leads
	if r.leader != state.Lead || becameLeader {
		// What was under way to the old leader may be lost, so ask at once.
		r.writes.retryAll()
		r.reads.retryAll()
	}
	if !leads {
		r.rooms = nil
	}
	r.leader, r.leads = state.Lead, leads
	r.view.leader.Store(r.group.Stores[state.Lead])
	return becameLeader
}
