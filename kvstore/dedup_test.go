package kvstore

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// However a store's proposals are repeated, reordered, lost and delayed, each is
// applied at most once, and those that the store still waits for are applied
// when they come; the window stays within what is not settled.
func TestDedupAppliesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row := &dedupRow{}
		var queue writeQueue
		var entries []command // what is proposed and may reach the log, any number of times
		applied := map[uint64]int{}
		incarnation := uint64(1)
		propose := func(r *request) {
			entries = append(entries, command{id: requestID{1, incarnation, r.sequence}, low: queue.low()})
		}
		t.Repeat(map[string]func(*rapid.T){
			"new write": func(t *rapid.T) {
				r := &request{done: make(chan answer, 1)}
				if queue.add(r) {
					propose(r)
				}
			},
			"propose again": func(t *rapid.T) {
				if len(queue.pending) == 0 {
					t.Skip("none")
				}
				if r := rapid.SampledFrom(queue.pending).Draw(t, "write"); !r.finished {
					propose(r)
				}
			},
			"give up": func(t *rapid.T) {
				if len(queue.pending) == 0 {
					t.Skip("none")
				}
				rapid.SampledFrom(queue.pending).Draw(t, "write").finish(answer{err: ErrTryAgain})
				queue.settle()
			},
			"restart": func(t *rapid.T) {
				incarnation++
				queue, applied = writeQueue{}, map[uint64]int{}
			},
			"apply": func(t *rapid.T) {
				if len(entries) == 0 {
					t.Skip("none")
				}
				c := rapid.SampledFrom(entries).Draw(t, "entry")
				admitted := row.admit(c.id, c.low)
				if c.id.incarnation != incarnation {
					return
				}
				waiting := queue.find(c.id.sequence)
				if admitted {
					applied[c.id.sequence]++
					if waiting != nil {
						waiting.finish(answer{})
					}
				} else if waiting != nil && !waiting.finished {
					t.Fatalf("sequence %d is waited for and was not applied", c.id.sequence)
				}
				queue.settle()
			},
			"": func(t *rapid.T) {
				for sequence, times := range applied {
					if times > 1 {
						t.Fatalf("sequence %d was applied %d times", sequence, times)
					}
				}
				if len(row.window) > maxPending {
					t.Fatalf("the window has %d numbers", len(row.window))
				}
				again, err := decodeDedupRow(row.encode())
				if err != nil || !reflect.DeepEqual(again.window, append([]uint64(nil), row.window...)) ||
					again.low != row.low || again.incarnation != row.incarnation {
					t.Fatalf("%+v came back as %+v, %v", row, again, err)
				}
			},
		})
	})
}

func TestWriteQueueIsBounded(t *testing.T) {
	var queue writeQueue
	first := &request{done: make(chan answer, 1)}
	queue.add(first)
	for range maxPending - 1 {
		r := &request{done: make(chan answer, 1)}
		if !queue.add(r) {
			t.Fatal("refused below the bound")
		}
		r.finish(answer{})
	}
	queue.settle()
	if queue.add(&request{done: make(chan answer, 1)}) {
		t.Error("the oldest is not settled, and a sequence a window away was given")
	}
	first.finish(answer{})
	queue.settle()
	if !queue.add(&request{done: make(chan answer, 1)}) {
		t.Error("refused though nothing is pending")
	}
}

func TestCommandEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := command{
			id:    requestID{rapid.Uint64().Draw(t, "store"), rapid.Uint64().Draw(t, "incarnation"), rapid.Uint64().Draw(t, "sequence")},
			low:   rapid.Uint64().Draw(t, "low"),
			op:    rapid.SampledFrom([]operation{opSet, opDel}).Draw(t, "op"),
			key:   rapid.SliceOf(rapid.Byte()).Draw(t, "key"),
			value: rapid.SliceOf(rapid.Byte()).Draw(t, "value"),
		}
		got, err := decodeCommand(want.encode())
		if err != nil || got.id != want.id || got.low != want.low || got.op != want.op ||
			string(got.key) != string(want.key) || string(got.value) != string(want.value) {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
		_, _ = decodeCommand(rapid.SliceOf(rapid.Byte()).Draw(t, "garbage")) // must not panic
	})
}

// A restored row says of the sequences in its window that they were applied, and
// nothing of those below it.
func TestRestoredRowSettlesItsWindow(t *testing.T) {
	r := &region{store: 1, dedup: map[uint64]*dedupRow{1: {incarnation: 1, low: 2, window: []uint64{3}}}}
	r.writes.incarnation = 1
	for range 4 {
		r.writes.add(&request{op: opSet, done: make(chan answer, 1)})
	}
	writes := r.writes.pending
	r.settleRestored()
	for _, write := range writes {
		if write.finished != (write.sequence == 3) {
			t.Errorf("sequence %d: finished is %v", write.sequence, write.finished)
		}
	}
}
