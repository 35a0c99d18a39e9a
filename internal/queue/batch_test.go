package queue

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// S3: a batch has 128 messages at most; the 129th opens the next one.
func TestS3BatchOfMessages(t *testing.T) {
	q, _ := newQueue(1000, 1<<20)
	s := q.NewStage()
	for i := range uint64(300) {
		mustPush(t, s, rig.Heartbeat(1, 2, i))
		if i%7 == 0 {
			s.Flush()
		}
	}
	s.Flush()
	var sizes []int
	for _, batch := range takeAll(t, q, limits) {
		sizes = append(sizes, len(batch))
	}
	if !slices.Equal(sizes, []int{128, 128, 44}) {
		t.Errorf("batches of %v messages", sizes)
	}
	if l := q.Ledger(); l.Batches != 3 || l.Sent != 300 {
		t.Errorf("%d batches, %d messages", l.Batches, l.Sent)
	}
}

// batchSize is the size that kvproto's own code gives a batch, with room for
// last_observed_time behind it.
func batchSize(messages []*raft_serverpb.RaftMessage) int {
	return (&tikvpb.BatchRaftMessage{Msgs: messages}).Size() + wire.MaxObservedTimeSize
}

// S3, S4, C5, C18: batches hold as many messages as the limits allow by exact
// encoded size, and no more; the message that doesn't fit opens the next batch;
// one that is larger than the limit goes alone; all come out as they went in.
func TestS3BatchesByExactSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cut := Limits{
			Messages: rapid.IntRange(1, 20).Draw(t, "messages"),
			Bytes:    rapid.IntRange(12, 3000).Draw(t, "bytes"),
			Age:      limits.Age,
			Bare:     rapid.IntRange(0, 4).Draw(t, "bare") == 0,
		}
		q, _ := newQueue(1000, 1<<30, referTo(rapid.SampledFrom([]int{0, 1100}).Draw(t, "refer to")))
		stage := q.NewStage()
		var sent []*raft_serverpb.RaftMessage
		sizes := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 3000), rapid.IntRange(0, 20_000))
		for i := range rapid.IntRange(1, 60).Draw(t, "n") {
			m := appendOf(1, uint64(i), sizes.Draw(t, "size"))
			if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
				m = rig.Heartbeat(1, 2, uint64(i))
			}
			if i == 40 {
				m = appendOf(1, uint64(i), 300_000)
			}
			sent = append(sent, m)
			mustPush(t, stage, m)
			if rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
				stage.Flush()
			}
		}
		stage.Flush()

		batches := takeAll(t, q, cut)
		for i, batch := range batches {
			switch {
			case cut.Bare:
				if len(batch) != 1 {
					t.Fatalf("%d messages in a bare batch", len(batch))
				}
				continue
			case len(batch) > cut.Messages:
				t.Fatalf("%d messages, the limit is %d", len(batch), cut.Messages)
			case len(batch) > 1 && batchSize(batch) > cut.Bytes:
				t.Fatalf("%d messages of %d bytes, the limit is %d", len(batch), batchSize(batch), cut.Bytes)
			}
			if i+1 == len(batches) || len(batch) == cut.Messages {
				continue
			}
			if more := append(slices.Clone(batch), batches[i+1][0]); batchSize(more) <= cut.Bytes {
				t.Fatalf("batch %d has %d bytes, and one more message would have made %d", i, batchSize(batch), batchSize(more))
			}
		}
		got := slices.Concat(batches...)
		if len(got) != len(sent) {
			t.Fatalf("%d messages of %d", len(got), len(sent))
		}
		for i := range got {
			if !bytes.Equal(encode(t, got[i]), encode(t, sent[i])) {
				t.Fatalf("message %d is another one", i)
			}
		}
		balanced(t, q)
	})
}

// S3, C18: a batch may be as large as the limit, and not by a byte larger.
func TestS3BatchToTheByte(t *testing.T) {
	messages := []*raft_serverpb.RaftMessage{appendOf(1, 1, 700), rig.Heartbeat(1, 2, 2), appendOf(1, 3, 90)}
	for short, want := range [][]int{{3}, {2, 1}} {
		q, _ := newQueue(100, 1<<20)
		s := q.NewStage()
		for _, m := range messages {
			mustPush(t, s, m)
			s.Flush()
		}
		var sizes []int
		for _, batch := range takeAll(t, q, Limits{Messages: 128, Bytes: batchSize(messages) - short, Age: limits.Age}) {
			sizes = append(sizes, len(batch))
		}
		if !slices.Equal(sizes, want) {
			t.Errorf("%d bytes short: batches of %v messages, not %v", short, sizes, want)
		}
	}
}

// S3, C5: what is flushed after a part of a chunk was taken comes out whole.
func TestS3FlushBehindTakenPart(t *testing.T) {
	q, _ := newQueue(100, 1<<20)
	s := q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 1), rig.Heartbeat(1, 2, 2))
	s.Flush()
	first, _ := q.Take(Limits{Messages: 1, Bytes: 1 << 20, Age: limits.Age})
	mustPush(t, s, rig.Heartbeat(1, 2, 3))
	s.Flush()
	got := [][]uint64{peersOf(takeAll(t, q, limits)...), peersOf(decode(t, first, false))}
	if want := [][]uint64{{2, 3}, {1}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("sent %v, not %v", got, want)
	}
}

// S3, C18: a message larger than the limit goes alone, those around it don't wait.
func TestS3LargeMessageAlone(t *testing.T) {
	q, _ := newQueue(100, 64<<20)
	s := q.NewStage()
	mustPush(t, s, rig.Heartbeat(1, 2, 1), rig.Heartbeat(1, 2, 2), appendOf(1, 3, 11<<20), rig.Heartbeat(1, 2, 4))
	s.Flush()
	var got [][]uint64
	for _, batch := range takeAll(t, q, limits) {
		got = append(got, peersOf(batch))
	}
	if want := [][]uint64{{1, 2}, {3}, {4}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("batches %v, not %v", got, want)
	}
}

// S4: a bare stream gets one message at a time, without a frame, in order,
// whatever the limits, and whether chunks hold one or many.
func TestS4BareMode(t *testing.T) {
	q, _ := newQueue(1000, 64<<20)
	s := q.NewStage()
	bare := Limits{Messages: 128, Bytes: 1, Age: limits.Age, Bare: true}
	var want []uint64
	for i := range uint64(100) {
		m := rig.Heartbeat(1, 2, i)
		if i%10 == 3 {
			m = appendOf(1, i, 5000)
		}
		mustPush(t, s, m)
		want = append(want, i)
		if i%13 == 0 {
			s.Flush()
		}
		if i == 50 { // a peer may be asked for BatchRaft again at any time
			batch, _ := q.Take(limits)
			if got := peersOf(decode(t, batch, false)); !slices.Equal(got, want[:len(got)]) || len(got) == 0 {
				t.Fatalf("sent %v", got)
			}
			want = want[batch.Messages:]
		}
	}
	s.Flush()
	batches := takeAll(t, q, bare)
	if got := peersOf(batches...); !slices.Equal(got, want) || len(batches) != len(want) {
		t.Errorf("sent %v in %d batches", got, len(batches))
	}
	balanced(t, q)
}
