package queue

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"

	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// fatalf is what the helpers need of testing.TB and *rapid.T.
type fatalf interface {
	Helper()
	Fatalf(format string, args ...any)
}

// limits are wide enough to cut nothing that a test doesn't want cut.
var limits = Limits{Messages: 128, Bytes: 10 << 20, Age: time.Hour}

// encoded is an encoder of bytes that are there already.
type encoded []byte

func (e encoded) AppendTo(buffer []byte) []byte { return append(buffer, e...) }

// encoderFunc is an encoder that does as a test says.
type encoderFunc func(buffer []byte) []byte

func (f encoderFunc) AppendTo(buffer []byte) []byte { return f(buffer) }

// drop is one call of Options.Dropped.
type drop struct {
	reason   Reason
	peers    []report.Peer
	messages int
}

// drops records the calls of Options.Dropped.
type drops struct {
	queue *Queue

	mu    sync.Mutex
	calls []drop
}

func (d *drops) dropped(reason Reason, peers []report.Peer, messages int) {
	d.queue.Ledger() // needs every lock of the queue: none may be held
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, drop{reason, slices.Clone(peers), messages})
}

// take returns the calls since the last one of take.
func (d *drops) take() []drop {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// newQueue returns a queue with bounds, and the record of what it drops.
func newQueue(messages, bytes int) (*Queue, *drops) {
	d := new(drops)
	d.queue = New(Options{Messages: messages, Bytes: bytes, Pool: new(Pool), Dropped: d.dropped})
	return d.queue, d
}

// appendOf returns an append to a peer of a region with size bytes of data.
func appendOf(region, peer uint64, size int) *raft_serverpb.RaftMessage {
	return rig.Append(region, 2, peer, 1, size)
}

func encode(t fatalf, m *raft_serverpb.RaftMessage) encoded {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatalf("marshal: %v", err)
	}
	return b
}

// push pushes m. Heartbeats are volatile.
func push(t fatalf, s *Stage, m *raft_serverpb.RaftMessage) error {
	t.Helper()
	body := encode(t, m)
	return s.Push(Message{
		RegionID: m.RegionId,
		PeerID:   m.ToPeer.Id,
		Volatile: m.Message.MsgType == eraftpb.MessageType_MsgHeartbeat,
		Size:     len(body),
	}, body)
}

func mustPush(t fatalf, s *Stage, messages ...*raft_serverpb.RaftMessage) {
	t.Helper()
	for _, m := range messages {
		if err := push(t, s, m); err != nil {
			t.Fatalf("push: %v", err)
		}
	}
}

// decode returns what kvproto's own code reads in a batch, and frees it.
func decode(t fatalf, batch Batch, bare bool) []*raft_serverpb.RaftMessage {
	t.Helper()
	data := batch.Buffers.Materialize()
	batch.Buffers.Free()
	if len(data) != batch.Bytes {
		t.Fatalf("%d bytes, said to be %d", len(data), batch.Bytes)
	}
	var decoded tikvpb.BatchRaftMessage
	if bare {
		m := new(raft_serverpb.RaftMessage)
		if err := m.Unmarshal(data); err != nil {
			t.Fatalf("unmarshal: %v", err)
		}
		decoded.Msgs = append(decoded.Msgs, m)
	} else {
		if err := decoded.Unmarshal(data); err != nil {
			t.Fatalf("unmarshal: %v", err)
		}
		frames := wire.ReadFrames(data)
		for _, ok := frames.Next(); ok; _, ok = frames.Next() {
		}
		if _, ok := frames.ObservedTime(); !ok {
			t.Fatalf("a batch without last_observed_time")
		}
	}
	if len(decoded.Msgs) != batch.Messages {
		t.Fatalf("%d messages, said to be %d", len(decoded.Msgs), batch.Messages)
	}
	return decoded.Msgs
}

// takeAll takes until nothing waits, and returns the batches decoded.
func takeAll(t fatalf, q *Queue, limits Limits) (batches [][]*raft_serverpb.RaftMessage) {
	t.Helper()
	for {
		batch, ok := q.Take(limits)
		if !ok {
			return batches
		}
		batches = append(batches, decode(t, batch, limits.Bare))
	}
}

// peersOf returns to whom messages go.
func peersOf(batches ...[]*raft_serverpb.RaftMessage) (peers []uint64) {
	for _, m := range slices.Concat(batches...) {
		peers = append(peers, m.ToPeer.Id)
	}
	return peers
}

// balanced checks the ledger's identity, and the load against it.
func balanced(t fatalf, q *Queue) Ledger {
	t.Helper()
	l := q.Ledger()
	if l.Accepted != l.Sent+l.DroppedTotal()+l.Queued {
		t.Fatalf("accepted %d, sent %d, dropped %d, queued %d", l.Accepted, l.Sent, l.DroppedTotal(), l.Queued)
	}
	messages, bytes := q.load.read()
	if messages != int(l.Queued) || bytes != int(l.QueuedBytes+l.LentBytes) {
		t.Fatalf("a load of %d messages and %d bytes; queued are %d and %d, lent %d",
			messages, bytes, l.Queued, l.QueuedBytes, l.LentBytes)
	}
	return l
}

// woken says whether there is a token, and takes it.
func woken(q *Queue) bool {
	select {
	case <-q.Wake():
		return true
	default:
		return false
	}
}

// within runs f and fails the test if it takes too long.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(rig.WaitTimeout):
		t.Fatal("it doesn't end")
	}
}
