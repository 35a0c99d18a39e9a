package kvstore

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// A log on Pebble answers like a slice of entries, whatever is appended, cut
// off at either end, forgotten from memory, or read after a restart.
func TestLogStoreIsASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		db, err := pebble.Open("data", &pebble.Options{FS: vfs.NewMem(), Logger: pebbleLogger{Options{}.withDefaults().Logger}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		// Neighbours must not be seen.
		for _, region := range []uint64{6, 8} {
			if err := db.Set(logKey(region, 1), []byte{9, 0}, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
		}
		log, err := loadLog(db, 7, nil)
		if err != nil || !log.isNew() {
			t.Fatalf("new log: %v", err)
		}
		var want []*raftpb.Entry
		term := uint64(1)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				keep := len(want)
				if rapid.Bool().Draw(t, "new leader") {
					// What is compacted is applied, and stays.
					keep = rapid.IntRange(int(log.truncated.index), len(want)).Draw(t, "keep")
					term++
				}
				var entries []*raftpb.Entry
				for i := range rapid.IntRange(1, 5).Draw(t, "count") {
					entry := &raftpb.Entry{Term: new(term), Index: new(uint64(keep + i + 1)), Type: raftpb.EntryNormal.Enum()}
					if size := rapid.SampledFrom([]int{0, 1, 100, logCacheBytes / 2}).Draw(t, "size"); size > 0 {
						entry.Data = make([]byte, size)
						entry.Data[0] = byte(term)
					}
					entries = append(entries, entry)
				}
				want = append(want[:keep:keep], entries...)
				state := &raftpb.HardState{Term: new(term), Vote: new(uint64(1)), Commit: new(uint64(0))}
				batch := db.NewBatch()
				if err := log.stage(batch, state, entries); err != nil {
					t.Fatal(err)
				}
				if err := batch.Commit(pebble.NoSync); err != nil {
					t.Fatal(err)
				}
				_ = batch.Close()
				log.saved(state, entries)
			},
			"compact": func(t *rapid.T) {
				if last := uint64(len(want)); last > log.truncated.index {
					batch := db.NewBatch()
					if err := log.compact(batch, rapid.Uint64Range(log.truncated.index+1, last).Draw(t, "to")); err != nil {
						t.Fatal(err)
					}
					if err := batch.Commit(pebble.NoSync); err != nil {
						t.Fatal(err)
					}
					_ = batch.Close()
				}
			},
			"forget": func(*rapid.T) { log.forget() },
			"restart": func(t *rapid.T) {
				if log, err = loadLog(db, 7, nil); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				checkLog(t, log, want)
				if len(log.recent) > 1 && log.recentBytes > logCacheBytes {
					t.Fatalf("%d bytes are cached", log.recentBytes)
				}
			},
		})
	})
}

func checkLog(t *rapid.T, log *logStore, want []*raftpb.Entry) {
	last, _ := log.LastIndex()
	if last != uint64(len(want)) {
		t.Fatalf("last index is %d, must be %d", last, len(want))
	}
	first, _ := log.FirstIndex()
	if _, err := log.Entries(first-1, first, 0); first > 1 && !errors.Is(err, raft.ErrCompacted) {
		t.Fatalf("entries that are gone: %v", err)
	}
	for i, entry := range want {
		if uint64(i+2) < first {
			if _, err := log.Term(uint64(i + 1)); !errors.Is(err, raft.ErrCompacted) {
				t.Fatalf("term of %d, which is gone: %v", i+1, err)
			}
			continue
		}
		if term, err := log.Term(uint64(i + 1)); err != nil || term != entry.GetTerm() {
			t.Fatalf("term of %d is %d, %v", i+1, term, err)
		}
	}
	if uint64(len(want)) < first {
		return
	}
	low := rapid.IntRange(int(first), len(want)).Draw(t, "low")
	high := rapid.IntRange(low+1, len(want)+1).Draw(t, "high")
	limit := rapid.SampledFrom([]uint64{0, 200, 1 << 40}).Draw(t, "limit")
	got, err := log.Entries(uint64(low), uint64(high), limit)
	if err != nil || len(got) == 0 || len(got) > high-low || (limit == 1<<40 && len(got) != high-low) {
		t.Fatalf("entries %d to %d within %d: %d, %v", low, high, limit, len(got), err)
	}
	for i, entry := range got {
		if !proto.Equal(entry, want[low-1+i]) {
			t.Fatalf("entry %d is %v, must be %v", low+i, entry, want[low-1+i])
		}
	}
}
