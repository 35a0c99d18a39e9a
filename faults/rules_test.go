package faults

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"

	"github.com/raftmux/raftmux"
)

// from1 is an append of region 7 from store 1 to a store.
func from1(to uint64) raftmux.Envelope {
	return raftmux.Envelope{
		RegionID: 7, FromStoreID: 1, ToStoreID: to, ToPeerID: 70 + to,
		HasMessage: true, Type: msgAppend,
	}
}

func with(e raftmux.Envelope, change func(*raftmux.Envelope)) raftmux.Envelope {
	change(&e)
	return e
}

func setRules(t testing.TB, options Options, texts ...string) *Rules {
	t.Helper()
	rules := New(options)
	t.Cleanup(rules.Close)
	if err := rules.Set(texts...); err != nil {
		t.Fatal(err)
	}
	return rules
}

// A rule hits what all its words are true of, and nothing else.
func TestMatches(t *testing.T) {
	t.Parallel()
	bodiless := func(e *raftmux.Envelope) { e.HasMessage, e.Bodiless = false, true }
	for _, c := range []struct {
		text string
		e    raftmux.Envelope
		pass bool
	}{
		{"drop", from1(2), false},
		{"drop", with(from1(2), bodiless), false},
		{"drop MsgAppend", from1(2), false},
		{"drop MsgHeartbeat", from1(2), true},
		{"drop MsgHeartbeat,MsgAppend", from1(2), false},
		{"drop MsgAppend", with(from1(2), bodiless), true},
		{"drop region=6,7", from1(2), false},
		{"drop region=6", from1(2), true},
		{"drop to=2", from1(2), false},
		{"drop to=2", from1(3), true},
		{"drop from=1", from1(2), false},
		{"drop from=2", from1(2), true},
		{"drop from=1 to=2 region=7 MsgAppend on=send", from1(2), false},
		{"drop from=1 to=2 region=8 MsgAppend", from1(2), true},
		{"drop on=receive", from1(2), true},
		{"isolate 1", from1(2), false},
		{"isolate 2", from1(2), false},
		{"isolate 3", from1(2), true},
		{"isolate 2 MsgHeartbeat", from1(2), true},
		{"partition 1,2|3", from1(2), true},
		{"partition 1,2|3", from1(3), false},
		{"partition 1,2|3", from1(4), true}, // in none of the sets
		{"partition 2|3", from1(3), true},
		{"partition 2|3|1", from1(3), false},
		{"delay 1s", from1(2), true},
		{"duplicate", from1(2), true},
	} {
		rules := setRules(t, Options{}, c.text)
		if rules.Pass(c.e) != c.pass {
			t.Errorf("%s: %+v passes: %v", c.text, c.e, !c.pass)
		}
		if dropped := rules.Stats().Dropped; dropped != 1 == !c.pass {
			t.Errorf("%s: %d counted", c.text, dropped)
		}
	}
}

// The own store stands in for a sender that the envelope doesn't name.
func TestOwnStore(t *testing.T) {
	t.Parallel()
	nameless := with(from1(2), func(e *raftmux.Envelope) { e.FromStoreID = 0 })
	if setRules(t, Options{StoreID: 1}, "isolate 1").Pass(nameless) {
		t.Error("passes")
	}
	if !setRules(t, Options{}, "isolate 1").Pass(nameless) {
		t.Error("doesn't pass")
	}
}

// Rules add up; each counts what it met and what it hit.
func TestRulesCompose(t *testing.T) {
	t.Parallel()
	rules := setRules(t, Options{}, "drop MsgAppend after=2", "drop to=3")
	passed := 0
	for range 5 {
		for _, to := range []uint64{2, 3} {
			if rules.Pass(from1(to)) {
				passed++
			}
		}
	}
	if list := rules.List(); passed != 1 || list[0].Matched != 10 || list[0].Hit != 8 || list[1].Matched != 1 || list[1].Hit != 1 {
		t.Errorf("%d passed, %+v", passed, list)
	}
	if err := rules.Add(Rule{Action: Isolate, Store: 9}); err != nil || len(rules.List()) != 3 || rules.List()[0].Matched != 10 {
		t.Errorf("%v, %+v", err, rules.List())
	}
	if err := rules.Set("drop", "dorp"); err == nil || len(rules.List()) != 3 {
		t.Errorf("%v, %+v", err, rules.List())
	}
	rules.Clear()
	if !rules.Pass(from1(3)) || len(rules.List()) != 0 {
		t.Error("rules stay")
	}
}

// The caller may use again what it gave to Add, and change what List gave it.
func TestRulesAreCopied(t *testing.T) {
	t.Parallel()
	rules := New(Options{})
	rule := Rule{
		Action: Partition, Groups: [][]uint64{{1}, {2}}, Types: []eraftpb.MessageType{msgAppend},
		Regions: []uint64{7}, From: []uint64{1}, To: []uint64{2},
	}
	if err := rules.Add(rule); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rule.Groups[0][0], rule.Groups[1] = 9, nil
		rule.Types[0], rule.Regions[0], rule.From[0], rule.To[0] = msgHeartbeat, 9, 9, 9
		if rules.Pass(from1(2)) {
			t.Error("the rule changed")
		}
		rule = rules.List()[0].Rule
	}
}

// A share is what it says, the same seed gives the same messages, another seed
// others, and so does another rule.
func TestShareAndSeed(t *testing.T) {
	t.Parallel()
	const n = 20_000
	draw := func(seed uint64, texts ...string) (hits []bool, total int) {
		rules := setRules(t, Options{Seed: seed}, texts...)
		for range n {
			hit := !rules.Pass(from1(2))
			hits = append(hits, hit)
			if hit {
				total++
			}
		}
		return hits, total
	}
	same := func(a, b []bool) (count int) {
		for i := range a {
			if a[i] == b[i] {
				count++
			}
		}
		return count
	}
	first, total := draw(1, "drop 10%")
	if total < n/10*9/10 || total > n/10*11/10 {
		t.Errorf("%d of %d", total, n)
	}
	if again, _ := draw(1, "drop 10%"); same(first, again) != n {
		t.Error("the same seed gave other messages")
	}
	for name, texts := range map[uint64][]string{2: {"drop 10%"}, 1: {"drop to=9", "drop 10%"}} {
		if other, _ := draw(name, texts...); same(first, other) > n*9/10 {
			t.Errorf("seed %d, %q: the messages of seed 1", name, texts)
		}
	}
	for _, pair := range [][2]uint64{{1, 2}, {1, 3}, {4, 7}} { // of a seed and a rule's number, and the other way round
		hits := func(seed, rule uint64) []bool {
			hits, _ := draw(seed, append(slices.Repeat([]string{"drop to=9"}, int(rule-1)), "drop 10%")...)
			return hits
		}
		if same(hits(pair[0], pair[1]), hits(pair[1], pair[0])) > n*9/10 {
			t.Errorf("seed and rule %v: the same messages either way", pair)
		}
	}
	if _, total := draw(0, "drop 50%", "drop 50%"); total < n*7/10 || total > n*8/10 {
		t.Errorf("two rules of 50%% hit %d of %d", total, n)
	}
	if _, total := draw(7, "drop 100%"); total != n {
		t.Errorf("100%% is %d of %d", total, n)
	}
}

// A rule runs out by itself, and is gone then.
func TestRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := setRules(t, Options{}, "drop for=30s", "drop to=9")
		time.Sleep(29 * time.Second)
		if rules.Pass(from1(2)) {
			t.Error("ran out early")
		}
		if list := rules.List(); list[0].Left != time.Second || list[1].Left != 0 {
			t.Errorf("%+v", list)
		}
		time.Sleep(time.Second)
		if !rules.Pass(from1(2)) {
			t.Error("didn't run out")
		}
		if n := len(rules.load()); n != 1 {
			t.Errorf("%d rules stay", n)
		}
		if list := rules.List(); len(list) != 1 || list[0].Rule.String() != "drop to=9" {
			t.Errorf("%+v", list)
		}
	})
}

// Rules change while messages pass: each message meets a set that was there. For
// the race detector.
func TestChangesWhileRunning(t *testing.T) {
	t.Parallel()
	rules := setRules(t, Options{}, "drop to=2")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 5000 {
				if rules.Pass(from1(2)) {
					t.Error("passed, though every set drops it")
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 1000 {
			if err := rules.Set("drop to=2", "drop 50% for=1ns"); err != nil {
				t.Error(err)
			}
			if err := rules.Add(Rule{Action: Drop, Types: []eraftpb.MessageType{msgAppend}}); err != nil {
				t.Error(err)
			}
			rules.List()
		}
	})
	wg.Wait()
}

// C1: the filter allocates nothing, with and without rules.
func TestPassAllocatesNothing(t *testing.T) {
	rules := setRules(t, Options{}, "drop 10% MsgAppend region=7 for=1h", "partition 1,2|3", "isolate 9")
	none := New(Options{})
	e := from1(2)
	if n := testing.AllocsPerRun(1000, func() { rules.Pass(e); none.Pass(e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPass(b *testing.B) {
	for name, texts := range map[string][]string{
		"none":  nil,
		"one":   {"drop 10% MsgAppend region=7"},
		"three": {"drop 10% MsgAppend region=8 for=1h", "partition 1,2|3", "isolate 9"},
	} {
		b.Run(name, func(b *testing.B) {
			rules := setRules(b, Options{}, texts...)
			e := from1(2)
			b.ReportAllocs()
			for b.Loop() {
				rules.Pass(e)
			}
		})
	}
}
