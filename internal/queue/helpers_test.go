package queue

import (
	"bytes"
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

// referring is an encoder of bytes that are there already, in which payloads can
// be told apart.
type referring struct {
	encoded
	payloads [][]byte // parts of encoded, in order
}

// referringTo returns an encoder of m that refers to the entries' data in place.
func referringTo(t fatalf, m *raft_serverpb.RaftMessage) *referring {
	t.Helper()
	r := &referring{encoded: encode(t, m)}
	from := 0
	for _, entry := range m.GetMessage().GetEntries() {
		i := bytes.Index(r.encoded[from:], entry.Data)
		r.payloads = append(r.payloads, r.encoded[from+i:from+i+len(entry.Data)])
		from += i + len(entry.Data)
	}
	return r
}

func (r *referring) PayloadBytes(atLeast int) (n int) {
	for _, payload := range r.payloads {
		if len(payload) >= atLeast {
			n += len(payload)
		}
	}
	return n
}

func (r *referring) AppendReferring(buffer []byte, payloads *Payloads) []byte {
	rest := r.encoded
	for _, payload := range r.payloads {
		at := cap(rest) - cap(payload)
		buffer = append(buffer, rest[:at]...)
		buffer = payloads.Append(buffer, payload)
		rest = rest[at+len(payload):]
	}
	return append(buffer, rest...)
}

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
func newQueue(messages, bytes int, changes ...func(*Options)) (*Queue, *drops) {
	d := new(drops)
	options := Options{Messages: messages, Bytes: bytes, Pool: new(Pool), Dropped: d.dropped}
	for _, change := range changes {
		change(&options)
	}
	d.queue = New(options)
	return d.queue, d
}

// referTo makes a queue refer to payloads of at least that many bytes.
func referTo(bytes int) func(*Options) { return func(o *Options) { o.ReferTo = bytes } }

// shallowAt makes that many bytes enough for a queue that was full.
func shallowAt(bytes int) func(*Options) { return func(o *Options) { o.Shallow = bytes } }

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

// push pushes m, whose data can be referred to. Heartbeats are volatile.
func push(t fatalf, s *Stage, m *raft_serverpb.RaftMessage) error {
	t.Helper()
	body := referringTo(t, m)
	return s.Push(Message{
		RegionID: m.RegionId,
		PeerID:   m.ToPeer.Id,
		Volatile: m.Message.MsgType == eraftpb.MessageType_MsgHeartbeat,
		Size:     len(body.encoded),
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
