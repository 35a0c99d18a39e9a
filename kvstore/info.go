package kvstore

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/snapshot"
)

// sections returns the lower-case names of the sections that INFO is asked for,
// nil for all.
func sections(args [][]byte) []string {
	var names []string
	for _, arg := range args {
		name := strings.ToLower(string(arg))
		if name == "all" || name == "default" || name == "everything" {
			return nil
		}
		names = append(names, name)
	}
	return names
}

// info is the answer to INFO: sections of key:value lines, as Redis has them.
func (s *Store) info(names []string) string {
	var text strings.Builder
	section := func(name string, write func(line func(key string, value any))) {
		if names != nil && !slices.Contains(names, strings.ToLower(name)) {
			return
		}
		if text.Len() > 0 {
			text.WriteString("\r\n")
		}
		fmt.Fprintf(&text, "# %s\r\n", name)
		write(func(key string, value any) { fmt.Fprintf(&text, "%s:%v\r\n", key, value) })
	}
	section("Server", s.infoServer)
	section("Clients", func(line func(string, any)) { line("connected_clients", s.clients.clients.Load()) })
	section("Regions", s.infoRegions)
	section("Raftmux", s.infoRaftmux)
	section("Stores", s.infoStores)
	section("Snapshots", s.infoSnapshots)
	return text.String()
}

func (s *Store) infoServer(line func(string, any)) {
	line("redis_version", redisVersion)
	line("redis_mode", "standalone")
	line("server", "raftmux")
	line("store_id", s.options.StoreID)
	line("cluster_id", s.host.affiliation.id())
	serving := s.host.serving.Load()
	line("serving", serving)
	if serving {
		line("incarnation", s.host.incarnation)
	}
	line("process_id", os.Getpid())
	line("go_version", runtime.Version())
	line("raft_addr", s.Addr())
	line("client_addr", s.ClientAddr())
	line("uptime_in_seconds", int(time.Since(s.started).Seconds()))
}

func (s *Store) infoRegions(line func(string, any)) {
	leaders, leaderless, sum, entries := 0, 0, uint64(0), uint64(0)
	roles, moving := map[viewedRole]int{}, 0
	digest := fnv.New64a()
	for i := range s.host.views {
		view := &s.host.views[i]
		switch leader := view.leader.Load(); {
		case leader == s.options.StoreID:
			leaders++
		case leader == 0 && viewedRole(view.role.Load()) != roleNone:
			leaderless++
		}
		applied := view.applied.Load()
		sum += applied
		entries += view.entries.Load()
		roles[viewedRole(view.role.Load())]++
		if view.moving.Load() {
			moving++
		}
		_ = binary.Write(digest, binary.BigEndian, applied)
	}
	line("regions", s.options.Regions)
	line("workers", s.options.Workers)
	line("leaders", leaders)
	line("leaderless", leaderless)
	line("voters", roles[roleVoter])
	line("learners", roles[roleLearner])
	line("waiting", roles[roleWaiting])
	line("to_replace", moving)
	line("log_entries", entries)
	line("applied_entries", sum)
	// Equal on two stores when they have applied the same entries of every region.
	line("applied_digest", fmt.Sprintf("%016x", digest.Sum64()))
	if !s.host.serving.Load() {
		return
	}
	var loops, syncs, writes, reads, became, refused, compactions, destroyed uint64
	for _, w := range s.host.workers {
		loops += w.counters.loops.Load()
		syncs += w.counters.syncs.Load()
		writes += w.counters.writes.Load()
		reads += w.counters.reads.Load()
		became += w.counters.becameLeader.Load()
		refused += w.counters.refused.Load()
		compactions += w.counters.compactions.Load()
		destroyed += w.counters.destroyed.Load()
	}
	line("worker_loops", loops)
	line("synced_batches", syncs)
	line("writes_acknowledged", writes)
	line("reads", reads)
	line("became_leader", became)
	line("steps_refused", refused)
	line("log_compactions", compactions)
	line("peers_destroyed", destroyed)
}

// infoRaftmux sums the ledgers of all connections.
func (s *Store) infoRaftmux(line func(string, any)) {
	var sum raftmux.Ledger
	var batches, generations uint64
	connected := 0
	dropped := map[string]uint64{}
	for _, store := range s.client.Stores() {
		for _, c := range store.Connections {
			sum.Accepted += c.Ledger.Accepted
			sum.Sent += c.Ledger.Sent
			sum.SentBytes += c.Ledger.SentBytes
			sum.Queued += c.Ledger.Queued
			sum.QueuedBytes += c.Ledger.QueuedBytes
			batches += c.Batches
			generations += c.Generation
			if c.Connected {
				connected++
			}
			for reason, n := range c.Ledger.Dropped {
				dropped[reason] += n
			}
		}
	}
	line("connections_out", connected)
	line("generations_out", generations)
	line("messages_accepted", sum.Accepted)
	line("messages_out", sum.Sent)
	line("bytes_out", sum.SentBytes)
	line("batches_out", batches)
	line("messages_queued", sum.Queued)
	line("bytes_queued", sum.QueuedBytes)
	total := uint64(0)
	for _, n := range dropped {
		total += n
	}
	line("messages_dropped", total)
	for _, reason := range sortedKeys(dropped) {
		line("messages_dropped_"+reason, dropped[reason])
	}
	in := s.server.Stats()
	line("streams_in", in.Streams)
	line("batches_in", in.Batches)
	line("messages_in", in.Messages)
	line("bytes_in", in.Bytes)
	line("messages_refused", in.Refused)
	line("messages_malformed", in.Malformed)
}

func (s *Store) infoStores(line func(string, any)) {
	line("cluster_refusals", s.host.affiliation.refusals.Load())
	if last := s.host.affiliation.lastRefusal(); last != nil {
		line("cluster_last_refusal", last)
	}
	line("retired_stores", strings.Trim(fmt.Sprint(s.host.directory.retiredStores()), "[]"))
	// Those that have to answer before this one begins.
	line("awaited_stores", strings.Trim(fmt.Sprint(s.host.awaited.ids()), "[]"))
	for _, store := range s.client.Stores() {
		line(fmt.Sprintf("store%d", store.StoreID), fmt.Sprintf("state=%s,address=%s,connections=%d",
			store.State, store.Address, len(store.Connections)))
	}
}

func (s *Store) infoSnapshots(line func(string, any)) {
	line("snapshots_restored", s.host.restored.Load())
	line("snapshot_bytes_in", s.host.receivedBytes.Load())
	if s.host.serving.Load() {
		var sent, failed, asked, refused uint64
		for _, w := range s.host.workers {
			sent += w.counters.snapshotsSent.Load()
			failed += w.counters.snapshotsFailed.Load()
			asked += w.counters.prechecks.Load()
			refused += w.counters.prechecksRefused.Load()
		}
		// How often other stores were asked for room, and had none.
		line("snapshot_prechecks", asked)
		line("snapshot_prechecks_refused", refused)
		line("snapshots_made", s.host.files.made.Load())
		line("snapshots_sent", sent)
		line("snapshots_failed", failed)
	}
	for _, way := range []struct {
		name      string
		transfers []snapshot.Progress
	}{{"out", s.snapshotSender.Transfers()}, {"in", s.snapshotReceiver.Transfers()}} {
		line("snapshots_under_way_"+way.name, len(way.transfers))
		rate, left := 0.0, int64(0)
		for _, t := range way.transfers {
			rate += t.Rate
			left = laterOf(left, wholeSeconds(t.Left))
			line(fmt.Sprintf("snapshot_%s_region%d", way.name, t.RegionID), fmt.Sprintf(
				"peer=%d,store=%d,phase=%s,done=%d,total=%d,resumed=%d,rate=%.0f,left=%ds",
				t.PeerID, t.StoreID, t.Phase, t.Done, t.Total, t.Resumed, t.Rate, wholeSeconds(t.Left)))
		}
		line("snapshot_rate_"+way.name, int64(rate))
		// Until all that are under way now have ended, -1 if that can't be told.
		line("snapshot_left_seconds_"+way.name, left)
	}
}

// wholeSeconds rounds a time left up, so that 0 means that nothing is left. It is
// -1 if nobody can tell.
func wholeSeconds(left time.Duration) int64 {
	if left < 0 {
		return -1
	}
	return int64(math.Ceil(left.Seconds()))
}

// laterOf returns the longer of two times left; one that can't be told is longer
// than any.
func laterOf(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return max(a, b)
}

func sortedKeys(m map[string]uint64) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
