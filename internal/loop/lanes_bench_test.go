package loop

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// lanes says which messages of a group travel apart from appends and their
// responses.
type lanes struct {
	name  string
	apart func(kind raftpb.MessageType) bool
	// clamp lets heartbeats commit nothing new at a follower that had an append
	// since the last one, as etcdraft.Guard does: appends say what is committed, too.
	clamp bool
	// noCommit takes the commit index out of all heartbeats. Followers may then
	// learn of a commit late, so it is no plan, but shows where the cost comes from.
	noCommit bool
}

func control(kind raftpb.MessageType) bool { return laneOf(kind) == 0 }

var lanePlans = []lanes{
	{name: "one", apart: func(raftpb.MessageType) bool { return false }},
	{name: "apart", apart: control},
	{name: "responses-with-data", apart: func(kind raftpb.MessageType) bool {
		return control(kind) && kind != raftpb.MsgHeartbeatResp
	}},
	{name: "heartbeats-with-data", apart: func(kind raftpb.MessageType) bool {
		return control(kind) && kind != raftpb.MsgHeartbeat
	}},
	{name: "apart-and-clamped", apart: control, clamp: true},
	{name: "apart-without-commit", apart: control, noCommit: true},
}

// BenchmarkHeartbeatResponsesPassAppends measures what it costs that heartbeats
// pass appends, and their responses those of appends. Each response makes the
// leader send something to a follower that is behind, and once more what it sent
// already to one that it probes. And a heartbeat tells the follower what is
// committed: an append that comes after it, and begins before that, is answered
// and not appended, with all that is new in it, so that the next one is rejected
// and the leader probes again.
//
// It plays a minute of one group in memory, by a clock of its own, with a write
// of 1 KiB each 10 ms and a heartbeat each 200 ms, on lanes that take slow-ms for
// data to the leader (back), or both ways, and 1 ms for the rest. (Slow data from
// the leader alone makes no difference, and neither do slow lanes while nothing
// happens.) What happens is a loss of all that is under way to one follower or to both,
// once, or to one each 5 s, each told to the leader; or that the leader was
// elected when data was slow already.
//
// Each figure but the last is for both followers together, to whom 40 KiB of
// writes go per interval:
//   - apps/entry: MsgApp per committed entry;
//   - hb-apps/interval: those sent in answer to a heartbeat response, per
//     heartbeat interval, and hb-KiB/interval the entries in them;
//   - again-KiB/interval: entries that were sent before, whatever the cause;
//   - commit-ms: from proposal to commit, in the mean.
//
// Every run is the same, so -benchtime=1x is enough.
func BenchmarkHeartbeatResponsesPassAppends(b *testing.B) {
	for _, event := range []string{"one-loss", "both-lose", "each-5s", "elected"} {
		for _, slow := range []int{200, 400} {
			for _, way := range []string{"back", "both"} {
				for _, plan := range lanePlans {
					b.Run(fmt.Sprintf("event=%s/slow-ms=%d/way=%s/lanes=%s", event, slow, way, plan.name), func(b *testing.B) {
						var sum laneCosts
						for b.Loop() {
							sum.add(playLanes(plan, event, slow, way))
						}
						sum.report(b)
					})
				}
			}
		}
	}
}

func playLanes(plan lanes, event string, slow int, way string) laneCosts {
	s := newLaneSim(plan)
	if event == "elected" {
		s.slow(slow, way)
	}
	s.elect()
	s.slow(slow, way)
	s.play(simTime, event)
	return s.costs
}

// In ms of the benchmark's own time.
const (
	simTime     = 60_000
	simTick     = 100
	simWrite    = 10
	simLoss     = 5_000
	simFast     = 1
	simInterval = simTick * heartbeatTick
)

type laneCosts struct {
	entries, apps, hbApps, hbBytes, againBytes, intervals, waiting int
}

func (c *laneCosts) add(more laneCosts) {
	c.entries += more.entries
	c.apps += more.apps
	c.hbApps += more.hbApps
	c.hbBytes += more.hbBytes
	c.againBytes += more.againBytes
	c.intervals += more.intervals
	c.waiting += more.waiting
}

func (c *laneCosts) report(b *testing.B) {
	intervals := float64(c.intervals)
	b.ReportMetric(float64(c.apps)/float64(c.entries), "apps/entry")
	b.ReportMetric(float64(c.hbApps)/intervals, "hb-apps/interval")
	b.ReportMetric(float64(c.hbBytes)/1024/intervals, "hb-KiB/interval")
	b.ReportMetric(float64(c.againBytes)/1024/intervals, "again-KiB/interval")
	b.ReportMetric(float64(c.waiting)/float64(c.entries), "commit-ms") // Little's law
	b.ReportMetric(0, "ns/op")                                         // it says nothing
}

// laneSim is one group of three and the lanes between them. Node 1 leads.
type laneSim struct {
	plan  lanes
	there int // ms for data from the leader
	back  int // ms for data to the leader
	now   int
	nodes [stores + 1]*laneNode
	ways  [stores + 1][stores + 1][2][]underWay
	heard [stores + 1]bool   // whether a follower had an append since its last heartbeat
	last  [stores + 1]uint64 // the greatest index ever sent to a follower
	costs laneCosts
}

type laneNode struct {
	*raft.RawNode
	storage wholeLog
}

type underWay struct {
	message *raftpb.Message
	due     int
}

// newLaneSim returns a group on fast lanes.
func newLaneSim(plan lanes) *laneSim {
	s := &laneSim{plan: plan, there: simFast, back: simFast}
	for id := uint64(1); id <= stores; id++ {
		n := &laneNode{storage: wholeLog{raft.NewMemoryStorage(), []uint64{1, 2, 3}}}
		var err error
		n.RawNode, err = raft.NewRawNode(&raft.Config{
			ID: id, ElectionTick: electionTick, HeartbeatTick: heartbeatTick, Storage: n.storage,
			MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 256, CheckQuorum: true, PreVote: true, Logger: quiet{},
		})
		if err != nil {
			panic(err)
		}
		s.nodes[id] = n
	}
	return s
}

// elect makes node 1 the leader and lets it work for a while.
func (s *laneSim) elect() {
	_ = s.nodes[1].Campaign()
	s.flush(1, false)
	for range 3000 {
		s.load()
	}
}

// slow makes data slow from now on.
func (s *laneSim) slow(ms int, way string) {
	s.back = ms
	if way == "both" {
		s.there = ms
	}
}

// play measures so many ms, after some in which things settle.
func (s *laneSim) play(ms int, event string) {
	for range 2000 {
		s.load()
	}
	s.costs = laneCosts{}
	leader := s.nodes[1]
	committed := leader.BasicStatus().GetCommit()
	for i := range ms {
		if event == "each-5s" && i%simLoss == 0 || i == 0 && (event == "one-loss" || event == "both-lose") {
			s.lose(2)
		}
		if i == 0 && event == "both-lose" {
			s.lose(3)
		}
		s.load()
		last, _ := leader.storage.LastIndex()
		s.costs.waiting += int(last - leader.BasicStatus().GetCommit())
	}
	if leader.BasicStatus().RaftState != raft.StateLeader {
		panic("the leader fell")
	}
	s.costs.entries = int(leader.BasicStatus().GetCommit() - committed)
	s.costs.intervals = ms / simInterval
}

func (s *laneSim) lose(follower uint64) {
	s.ways[1][follower] = [2][]underWay{}
	s.nodes[1].ReportUnreachable(follower)
	s.flush(1, false)
}

// load is a step, and what happens on its time.
func (s *laneSim) load() {
	s.step()
	if s.now%simWrite == 0 {
		_ = s.nodes[1].Propose(make([]byte, 1024))
		s.flush(1, false)
	}
	if s.now%simTick == 0 {
		for id := uint64(1); id <= stores; id++ {
			s.nodes[id].Tick()
			s.flush(id, false)
		}
	}
}

// step lets 1 ms pass and delivers what is due, control first.
func (s *laneSim) step() {
	s.now++
	for from := range s.ways {
		for to := range s.ways[from] {
			for lane := range s.ways[from][to] {
				queue := &s.ways[from][to][lane]
				for len(*queue) > 0 && (*queue)[0].due <= s.now {
					m := (*queue)[0].message
					*queue = (*queue)[1:]
					s.clamp(uint64(to), m)
					_ = s.nodes[to].Step(m)
					s.flush(uint64(to), m.GetType() == raftpb.MsgHeartbeatResp)
				}
			}
		}
	}
}

// clamp does to a message that arrives what the plan says, for plans that meddle
// with commits.
func (s *laneSim) clamp(to uint64, m *raftpb.Message) {
	switch {
	case m.GetType() == raftpb.MsgApp:
		s.heard[to] = true
	case s.plan.noCommit && m.GetType() == raftpb.MsgHeartbeat:
		m.Commit = nil
	case s.plan.clamp && m.GetType() == raftpb.MsgHeartbeat:
		if s.heard[to] {
			m.Commit = new(min(m.GetCommit(), s.nodes[to].BasicStatus().GetCommit()))
		}
		s.heard[to] = false
	}
}

// flush does what a node asks for. The node was asked for it by a heartbeat
// response and nothing else, if byHeartbeat is set.
func (s *laneSim) flush(id uint64, byHeartbeat bool) {
	n := s.nodes[id]
	for n.HasReady() {
		ready := n.Ready()
		if !raft.IsEmptyHardState(ready.HardState) {
			_ = n.storage.SetHardState(ready.HardState)
		}
		_ = n.storage.Append(ready.Entries)
		n.Advance(ready)
		for _, m := range ready.Messages {
			if m.GetType() == raftpb.MsgApp {
				s.count(m, byHeartbeat)
			}
			s.send(m)
		}
	}
}

func (s *laneSim) count(m *raftpb.Message, byHeartbeat bool) {
	s.costs.apps++
	if byHeartbeat {
		s.costs.hbApps++
	}
	for _, e := range m.Entries {
		size := len(e.GetData())
		if byHeartbeat {
			s.costs.hbBytes += size
		}
		if e.GetIndex() <= s.last[m.GetTo()] {
			s.costs.againBytes += size
		}
	}
	if n := len(m.Entries); n > 0 {
		s.last[m.GetTo()] = max(s.last[m.GetTo()], m.Entries[n-1].GetIndex())
	}
}

func (s *laneSim) send(m *raftpb.Message) {
	lane, takes := 1, s.back
	if m.GetFrom() == 1 {
		takes = s.there
	}
	if s.plan.apart(m.GetType()) {
		lane, takes = 0, simFast
	}
	queue := &s.ways[m.GetFrom()][m.GetTo()][lane]
	*queue = append(*queue, underWay{m, s.now + takes})
}
