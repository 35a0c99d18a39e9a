package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftmux/raftmux/kvstore"
)

// A short demo, with real processes and real kills, ends well and leaves nothing.
func TestDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	code, out, stderr := command(t, "demo", "--for", "4s", "--regions", "30", "--writers", "9", "--dir", dir)
	if code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, stderr, out)
	}
	for _, want := range []string{
		"SIGKILL to store 3", "store 3 is started again", "SIGKILL to all 3 stores at once",
		" 0 lost;", " 0 stale", "30 regions on 3 stores, checked in each store's Pebble: equal", "OK",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

// With --wipe a store loses its data, is refused, and another one takes its place.
func TestWipeDemo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	code, out, stderr := command(t, "demo", "--wipe", "--for", "4s", "--regions", "30", "--writers", "9", "--dir", dir)
	if code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, stderr, out)
	}
	for _, want := range []string{
		"store 3's data folder is removed", "store 3 is started again, and refused", "was a member before, and its data is gone",
		"it joins as store 4", "RAFT.REPLACE 3 4: 30 regions", "30/30 regions moved", "store 4 has all 30 regions",
		" 0 lost;", " 0 stale", "30 regions on 3 stores, checked in each store's Pebble: equal", "OK",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

func TestInterruptedDemoCleansUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("TMP", os.Getenv("TMPDIR")) // Windows' name
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*time.Second, cancel) // wherever that is
	var out, stderr strings.Builder
	if code := run(ctx, []string{"demo", "--regions", "10"}, &out, &stderr); code != 130 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A demo that nobody watches any more ends, and leaves nothing behind.
func TestDemoWithoutReaderCleansUp(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("TMP", os.Getenv("TMPDIR"))
	reader, writer := io.Pipe()
	_ = reader.Close()
	var stderr strings.Builder
	if code := run(t.Context(), []string{"demo", "--regions", "10", "--for", "1h"}, writer, &stderr); code != 130 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A demo that fails keeps what tells why.
func TestFailedDemoKeepsItsData(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("TMP", os.Getenv("TMPDIR"))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now()) // no store has time to start
	defer cancel()
	err := runDemo(ctx, demoFlags{stores: 1, regions: 1, writers: 1, valueSize: 1, length: time.Hour}, io.Discard)
	left, readErr := os.ReadDir(os.Getenv("TMPDIR"))
	if err == nil || readErr != nil || len(left) != 1 || !strings.HasSuffix(err.Error(), "its data and logs are kept in "+filepath.Join(os.Getenv("TMPDIR"), left[0].Name())) {
		t.Errorf("error is %v, %v is left, %v", err, left, readErr)
	}
}

// fillStore makes a folder of a store on its own, with some keys.
func fillStore(t *testing.T, dir string, pairs map[string]string) *child {
	t.Helper()
	store, err := kvstore.Open(kvstore.Options{StoreID: 1, Dir: dir, Peers: map[uint64]string{1: "127.0.0.1:0"}, Regions: 3})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range pairs {
		if err := store.Set([]byte(key), []byte(value)); err != nil {
			t.Error(err)
		}
	}
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &child{id: 1, dir: dir}
}

// The check finds what it is there to find.
func TestCheck(t *testing.T) {
	load := newWorkload("run", 2, 64, nil)
	load.writers[0].acked.Store(2)
	good := map[string]string{}
	for n := range int64(3) { // the third has an unknown outcome
		good[load.key(0, n)] = load.value(0, n)
	}
	with := func(change func(map[string]string)) map[string]string {
		pairs := map[string]string{}
		for key, value := range good {
			pairs[key] = value
		}
		change(pairs)
		return pairs
	}
	for name, test := range map[string]struct {
		pairs map[string]string
		want  string
	}{
		"good":         {good, ""},
		"unknown gone": {with(func(p map[string]string) { delete(p, load.key(0, 2)) }), ""},
		"lost":         {with(func(p map[string]string) { delete(p, load.key(0, 1)) }), "1 acknowledged writes are lost; w000:000000001, for one, is missing on store 1"},
		"wrong value":  {with(func(p map[string]string) { p[load.key(0, 1)] = load.value(0, 2) }), "1 acknowledged writes are lost"},
		"nobody's key": {with(func(p map[string]string) { p[load.key(1, 1)] = load.value(1, 1) }), "1 keys are nobody's"},
		"foreign key":  {with(func(p map[string]string) { p["x"] = "y" }), "1 keys are nobody's"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := check(load, []*child{fillStore(t, t.TempDir(), test.pairs)})
			if err != nil {
				t.Fatal(err)
			}
			if err = v.err(); test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("verdict is %v, want %q", err, test.want)
			}
		})
	}
	t.Run("replicas differ", func(t *testing.T) {
		less := with(func(p map[string]string) { delete(p, load.key(0, 2)) })
		v, err := check(load, []*child{fillStore(t, t.TempDir(), good), fillStore(t, t.TempDir(), less)})
		if err != nil || v.err() == nil || !strings.Contains(v.err().Error(), "replicas of") {
			t.Errorf("verdict is %v, %v", v.err(), err)
		}
	})
}

func TestKeysAndValues(t *testing.T) {
	load := newWorkload("run", 2, 64, nil)
	if writer, n, ok := parseKey(load.key(7, 42)); !ok || writer != 7 || n != 42 {
		t.Errorf("parsed %d, %d, %v", writer, n, ok)
	}
	for _, key := range []string{"", "w", "w001", "x001:5", "w0x1:5", "w001:x"} {
		if _, _, ok := parseKey(key); ok {
			t.Errorf("%q was parsed", key)
		}
	}
	if load.value(1, 1) == load.value(1, 2) || load.value(1, 1) == load.value(0, 1) || len(load.value(1, 1)) != 64 {
		t.Error("values are not unique or not of the right size")
	}
}

func TestTallyFollowsRestarts(t *testing.T) {
	tally := newTally()
	look := func(incarnation, out string) uint64 {
		return tally.look(info{"incarnation": incarnation, "messages_out": out, "messages_dropped_full": out})["messages_out"]
	}
	if a, b, c := look("1", "10"), look("1", "15"), look("2", "7"); a != 10 || b != 5 || c != 7 {
		t.Errorf("added %d, %d, %d", a, b, c)
	}
	if tally.total["messages_out"] != 22 || tally.dropped["full"] != 22 {
		t.Errorf("totals are %v, %v", tally.total, tally.dropped)
	}
}

func TestNumbersForPeople(t *testing.T) {
	for want, got := range map[string]string{
		"0": grouped(0), "999": grouped(999), "1,000": grouped(1000), "-1,234,567": grouped(-1234567),
		"0.50 ms": seconds(500 * time.Microsecond), "12.3 ms": seconds(12300 * time.Microsecond), "2.0 s": seconds(2 * time.Second),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
