package wire

import (
	"flag"
	"hash/crc32"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/disk_usage"
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// What poisoned memory holds: values that no message has, so that a test in
// which somebody kept lent memory fails instead of reading something plausible.
const (
	PoisonByte   = 0xdb
	PoisonNumber = 0xdbdbdbdbdbdbdbdb
	poisonEnum   = -0x24242425 // 0xdbdbdbdb
	poisonText   = "raftmux: lent memory used after it was taken back"
)

// Poisoning says whether memory that is given back is overwritten: in tests,
// those of hosts too, but not in a run of benchmarks (go test -bench), which
// would measure little else.
func Poisoning() bool { return poisoning() }

var poisoning = sync.OnceValue(func() bool { //nolint:gochecknoglobals // never changes once it is known
	if !testing.Testing() {
		return false
	}
	bench := flag.Lookup("test.bench")
	return bench == nil || bench.Value.String() == ""
})

// Poison overwrites b if Poisoning, and does nothing otherwise. Call it on
// pooled memory that is given back, before anyone can get it again.
func Poison(b []byte) {
	if !Poisoning() {
		return
	}
	for i := range b {
		b[i] = PoisonByte
	}
}

// poison overwrites the message and what is lent with it. The pointers stay,
// so that a kept one is seen to be absurd rather than nil.
func (n *node) poison() {
	poisonMessage(&n.rm)
	poisonPeer(&n.from)
	poisonPeer(&n.to)
	poisonEpoch(&n.epoch)
	poisonRaft(&n.msg)
}

func poisonMessage(m *raft_serverpb.RaftMessage) {
	m.RegionId = PoisonNumber
	m.StartKey, m.EndKey = []byte(poisonText), []byte(poisonText)
	m.ExtraCtx = []byte(poisonText)
	m.DiskUsage = disk_usage.DiskUsage(poisonEnum)
	m.XXX_unrecognized = nil
}

func poisonPeer(p *metapb.Peer) {
	p.Id, p.StoreId, p.Role = PoisonNumber, PoisonNumber, metapb.PeerRole(poisonEnum)
	p.XXX_unrecognized = nil
}

func poisonEpoch(e *metapb.RegionEpoch) {
	e.ConfVer, e.Version = PoisonNumber, PoisonNumber
	e.XXX_unrecognized = nil
}

func poisonRaft(m *eraftpb.Message) {
	m.MsgType = eraftpb.MessageType(poisonEnum)
	m.To, m.From, m.Term, m.LogTerm = PoisonNumber, PoisonNumber, PoisonNumber, PoisonNumber
	m.Index, m.Commit = PoisonNumber, PoisonNumber
	m.RejectHint, m.RequestSnapshot = PoisonNumber, PoisonNumber
	m.Context = []byte(poisonText)
	m.XXX_unrecognized = nil
}

func poisonEntry(e *eraftpb.Entry) {
	e.EntryType = eraftpb.EntryType(poisonEnum)
	e.Term, e.Index = PoisonNumber, PoisonNumber
	e.Data, e.Context = []byte(poisonText), []byte(poisonText)
	e.XXX_unrecognized = nil
}

// Seal tells whether a host has changed memory that it lends: a checksum if
// Poisoning, and nothing otherwise.
type Seal uint32

// SealOf seals b.
func SealOf(b []byte) Seal {
	if !Poisoning() {
		return 0
	}
	return Seal(crc32.ChecksumIEEE(b))
}

// Holds says whether b is as it was when it was sealed.
func (s Seal) Holds(b []byte) bool { return s == SealOf(b) }
