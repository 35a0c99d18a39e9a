package raftmux

import (
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/rig"
)

// seqConfig and seqOps are one sequence, drawn before it runs, so that rapid can
// shrink it.
type seqConfig struct {
	Stores, Connections, MaxSnapshots     int
	QueueMessages, QueueKiB, BatchMsgs    int
	BatchBytes, MaxMessageKiB, BudgetOver int
	Age, Step, Stall, Close               time.Duration
	Shared                                bool // messages of a region go to one peer; otherwise each has its own
	LetGo                                 bool // the end of a stream lets go of what it held
	Deaf                                  bool // edges of stores may be answered "not now"
	Heal                                  bool
	Closes, ReferTo                       int
}

type seqOp struct {
	Do     string
	Store  int
	Sender int
	N      int
	Region uint64
	Wait   bool // let all that can happen now happen, and look
}

func drawSeqConfig(t *rapid.T) seqConfig {
	pick := func(name string, of ...int) int { return rapid.SampledFrom(of).Draw(t, name) }
	return seqConfig{
		Stores:        rapid.IntRange(1, 3).Draw(t, "stores"),
		Connections:   rapid.IntRange(1, 3).Draw(t, "connections"),
		MaxSnapshots:  pick("snapshots", 1, 32),
		QueueMessages: pick("queue", 6, 30, 4096),
		QueueKiB:      pick("queue KiB", 64, 1024, 64<<10),
		BatchMsgs:     pick("batch", 1, 3, 128),
		BatchBytes:    pick("batch bytes", 500, 10<<20),
		MaxMessageKiB: pick("message KiB", 32, 256),
		BudgetOver:    pick("budget", 4, 5, 100),
		Age:           rapid.SampledFrom([]time.Duration{5 * time.Millisecond, 800 * time.Millisecond, time.Minute}).Draw(t, "age"),
		Step:          rapid.SampledFrom([]time.Duration{5 * time.Millisecond, 100 * time.Millisecond, time.Second}).Draw(t, "step"),
		Stall:         rapid.SampledFrom([]time.Duration{50 * time.Millisecond, 10 * time.Second}).Draw(t, "stall"),
		Close:         rapid.SampledFrom([]time.Duration{0, time.Millisecond, 50 * time.Millisecond, 20 * time.Second}).Draw(t, "close"),
		Shared:        rapid.IntRange(0, 3).Draw(t, "shared") == 0,
		LetGo:         rapid.Bool().Draw(t, "let go"),
		Deaf:          rapid.IntRange(0, 4).Draw(t, "deaf") == 0,
		Heal:          rapid.IntRange(0, 2).Draw(t, "heal") == 0,
		Closes:        pick("closes", 1, 1, 1, 10),
		ReferTo:       pick("refer to", 0, 4<<10),
	}
}

// seqDo lists what may happen, the frequent more than once.
var seqDo = []string{
	"send", "send", "send", "send", "send", "flush", "flush", "flush", "sleep", "sleep", "sleep",
	"connect", "headers", "take", "take", "know", "end", "end", "release", "resolver", "resolver",
	"snapshot", "snapshots", "not now", "remove", "revive", "allow", "open sender", "close sender",
}

func drawSeqOps(t *rapid.T) []seqOp {
	one := rapid.Custom(func(t *rapid.T) seqOp {
		return seqOp{
			Do:     rapid.SampledFrom(seqDo).Draw(t, "do"),
			Store:  rapid.IntRange(0, 2).Draw(t, "store"),
			Sender: rapid.IntRange(0, 2).Draw(t, "sender"),
			N:      rapid.IntRange(0, 23).Draw(t, "n"),
			Region: rapid.Uint64Range(1, seqRegions).Draw(t, "region"),
			Wait:   rapid.Bool().Draw(t, "wait"),
		}
	})
	return rapid.SliceOfN(one, 5, 60).Draw(t, "ops")
}

func seqMessage(kind string, region, store, peer uint64) *raft_serverpb.RaftMessage {
	switch kind {
	case "heartbeat":
		return rig.Heartbeat(region, store, peer)
	case "vote":
		return rig.Vote(region, store, peer)
	case "timeout":
		m := rig.Heartbeat(region, store, peer)
		m.Message.MsgType = 14 // MsgTimeoutNow
		return m
	case "extra":
		return rig.Extra(region, store, peer)
	case "snapshot":
		return rig.Snapshot(region, store, peer, 10)
	case "big":
		return rig.Append(region, store, peer, 1, 40_000)
	default:
		return rig.Append(region, store, peer, 1, 60)
	}
}
