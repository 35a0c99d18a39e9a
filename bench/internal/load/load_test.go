package load

import (
	"bytes"
	"slices"
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"google.golang.org/protobuf/proto"
)

func TestPlansAreCheckedAndAlwaysTheSame(t *testing.T) {
	if _, err := (Plan{Shape: "huge", Ring: 1}).Messages(0); err == nil {
		t.Error("a shape that isn't known is accepted")
	}
	plan := Plan{Shape: "mix", Regions: 7, Stores: 2, Workers: 2, Ring: 1000, PerFlush: 10}
	first, err := plan.Messages(1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := plan.Messages(1)
	if err != nil {
		t.Fatal(err)
	}
	same := slices.EqualFunc(first, again, func(a, b Message) bool {
		return a.Kind == b.Kind && a.Region == b.Region && a.Store == b.Store && bytes.Equal(a.Data, b.Data)
	})
	if len(first) != plan.Ring || !same {
		t.Error("a plan's messages differ from one time to the next")
	}
}

func TestMix(t *testing.T) {
	messages, err := Plan{Shape: "mix", Regions: 7, Stores: 1, Workers: 1, Ring: 10_000, PerFlush: 10}.Messages(0)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[Kind]int)
	for _, m := range messages {
		counts[m.Kind]++
		if (m.Kind == Append) != (m.Data != nil) {
			t.Fatalf("kind %d with %d bytes", m.Kind, len(m.Data))
		}
	}
	for kind, want := range map[Kind]int{Heartbeat: 3000, HeartbeatResponse: 3000, AppendResponse: 2000, Append: 2000} {
		if got := counts[kind]; got < want*9/10 || got > want*11/10 {
			t.Errorf("%d messages of kind %d, want about %d", got, kind, want)
		}
	}
}

// Stores change once per flush, so that each gets as many messages of it.
func TestStoresTakeTurns(t *testing.T) {
	messages, err := Plan{Shape: "heartbeat", Regions: 5, Stores: 3, Workers: 1, Ring: 24, PerFlush: 4}.Messages(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range messages {
		if want := uint64(i/4%3) + FirstStore; m.Store != want {
			t.Errorf("message %d goes to store %d, want %d", i, m.Store, want)
		}
	}
}

// Both forms say the same: what one encodes the other decodes.
func TestForms(t *testing.T) {
	for kind := Heartbeat; kind <= Append; kind++ {
		m := Message{Kind: kind, Region: 3, Store: 2, Index: 9}
		if kind == Append {
			m.Data = []byte("entry")
		}
		body, err := proto.Marshal(m.Etcd())
		if err != nil {
			t.Fatal(err)
		}
		var read eraftpb.Message
		if err := read.Unmarshal(body); err != nil {
			t.Fatal(err)
		}
		if got, want := read.String(), m.KV().Message.String(); got != want {
			t.Errorf("kind %d: %s, want %s", kind, got, want)
		}
	}
}
