package faults

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
)

const (
	msgAppend    = eraftpb.MessageType_MsgAppend
	msgHeartbeat = eraftpb.MessageType_MsgHeartbeat
)

// C2: the rules that the documentation shows, and what they mean.
func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rule{
		"drop": {Action: Drop},
		"drop 10% MsgAppend region=7 to=2 for=30s": {
			Action: Drop, Percent: 10, Types: []eraftpb.MessageType{msgAppend},
			Regions: []uint64{7}, To: []uint64{2}, For: 30 * time.Second,
		},
		"drop MsgAppend after=100":         {Action: Drop, Types: []eraftpb.MessageType{msgAppend}, After: 100},
		"delay 50ms MsgHeartbeat":          {Action: Delay, Time: 50 * time.Millisecond, Types: []eraftpb.MessageType{msgHeartbeat}},
		"delay 1m30s from=1,3":             {Action: Delay, Time: 90 * time.Second, From: []uint64{1, 3}},
		"reorder 20% region=7,8":           {Action: Reorder, Percent: 20, Regions: []uint64{7, 8}},
		"reorder 1.5ms on=receive":         {Action: Reorder, Time: 1500 * time.Microsecond, On: OnReceive},
		"duplicate 0.5%":                   {Action: Duplicate, Percent: 0.5},
		"duplicate 100%":                   {Action: Duplicate, Percent: 100},
		"partition 1,2|3":                  {Action: Partition, Groups: [][]uint64{{1, 2}, {3}}},
		"partition 1|2|3 on=send":          {Action: Partition, Groups: [][]uint64{{1}, {2}, {3}}, On: OnSend},
		"isolate 3":                        {Action: Isolate, Store: 3},
		"isolate 18446744073709551615 50%": {Action: Isolate, Store: 1<<64 - 1, Percent: 50},
		"drop MsgAppend,MsgHeartbeat": {
			Action: Drop, Types: []eraftpb.MessageType{msgAppend, msgHeartbeat},
		},
	} {
		rule, err := Parse(text)
		if err != nil || !reflect.DeepEqual(rule, want) {
			t.Errorf("%q: %+v, %v", text, rule, err)
		}
		if rule.String() != text {
			t.Errorf("%q prints as %q", text, rule)
		}
	}
	loose, err := Parse("\t drop for=60s to=2  \n MsgAppend 10%\r\n")
	if err != nil || loose.String() != "drop 10% MsgAppend to=2 for=1m0s" {
		t.Errorf("%q, %v", loose, err)
	}
}

// A bad rule is refused with the place of the mistake, what stands there, and
// what was expected. ^ in the text marks the place.
func TestParseErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, found, expected string }{
		{"^", "", anAction},
		{"  ^", "", anAction},
		{"^dorp MsgAppend", "dorp", anAction},
		{"^10% drop", "10%", anAction},
		{"drop ^10", "10", anyWord},
		{"drop ^0%", "0%", aPercent},
		{"drop ^101%", "101%", aPercent},
		{"drop ^1e1%", "1e1%", aPercent},
		{"drop ^%", "%", aPercent},
		{"drop ^1.2.3%", "1.2.3%", aPercent},
		{"drop 1% ^2%", "2%", "the share only once"},
		{"drop ^50ms", "50ms", anyWord},
		{"delay^", "", aDuration},
		{"delay 10% MsgAppend^", "", aDuration},
		{"delay ^50", "50", aDuration},
		{"delay ^-1s", "-1s", aDuration},
		{"delay ^0s", "0s", aDuration},
		{"delay 1s ^2s", "2s", "the duration only once"},
		{"delay ^soon", "soon", anyWordToo},
		{"drop ^MsgApp", "MsgApp", "a message type such as MsgAppend"},
		{"drop MsgAppend,^", "", "a message type such as MsgAppend"},
		{"drop MsgAppend,^MsgHup", "MsgHup", "a message type that crosses the network, such as MsgAppend"},
		{"drop MsgAppend ^MsgHeartbeat", "MsgHeartbeat", "message types only once"},
		{"drop ^msgappend", "msgappend", anyWord},
		{"drop region=^", "", aRegion},
		{"drop region=^ to=2", "", aRegion},
		{"drop region=7,^x", "x", aRegion},
		{"drop region=^18446744073709551616", "18446744073709551616", aRegion},
		{"drop to=1,^0", "0", aStore},
		{"drop from=1,^,2", "", aStore},
		{"drop from=1 ^from=2", "from=2", "from= only once"},
		{"drop ^store=1", "store=1", anyKey},
		{"drop on=^sending", "sending", "send or receive"},
		{"drop after=^0", "0", "a number of messages above 0"},
		{"drop for=^30", "30", aDuration},
		{"partition^", "", aGroup},
		{"partition ^1,2", "1,2", aGroup},
		{"partition 1|^", "", aStore},
		{"partition 1,2|3,^2", "2", "each store only once"},
		{"partition 1|^0", "0", aStore},
		{"partition 1|2 ^3|4", "3|4", anyWord},
		{"isolate^", "", aStore},
		{"isolate ^0", "0", aStore},
		{"isolate 1 ^2", "2", anyWord},
	} {
		offset := strings.IndexByte(c.text, '^')
		text := strings.Replace(c.text, "^", "", 1)
		rule, err := Parse(text)
		var wrong *ParseError
		if !errors.As(err, &wrong) {
			t.Errorf("%q: %+v, %v", text, rule, err)
			continue
		}
		if want := (ParseError{Text: text, Offset: offset, Found: c.found, Expected: c.expected}); *wrong != want {
			t.Errorf("%q: %+v", c.text, *wrong)
		}
	}
	for text, want := range map[string]string{
		"drop 10 MsgAppend":    `faults: rule "drop 10 MsgAppend", column 6: found "10", expected ` + anyWord,
		"delay MsgAppend":      `faults: rule "delay MsgAppend", column 16: found the end, expected a duration such as 50ms`,
		"drop to= on=send":     `faults: rule "drop to= on=send", column 9: found nothing, expected a store id above 0`,
		"isolate 3 until=noon": `faults: rule "isolate 3 until=noon", column 11: found "until=noon", expected ` + anyKey,
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// anyRule generates valid rules.
var anyRule = rapid.Custom(func(t *rapid.T) Rule {
	some := func(name string) bool { return rapid.Bool().Draw(t, name) }
	duration := func() time.Duration {
		return time.Duration(rapid.Int64Range(1, 1<<62).Draw(t, "ns")>>rapid.IntRange(0, 61).Draw(t, "shift")) | 1
	}
	ids := func(name string, smallest uint64) (list []uint64) {
		if some(name) {
			list = rapid.SliceOfN(rapid.Uint64Min(smallest), 1, 4).Draw(t, name)
		}
		return list
	}
	r := Rule{Action: Action(rapid.IntRange(int(Drop), int(Isolate)).Draw(t, "action"))}
	if some("percent") {
		r.Percent = 100 - rapid.Float64Range(0, 99.999999).Draw(t, "percent")
	}
	if r.Action == Delay || r.Action == Reorder && some("time") {
		r.Time = duration()
	}
	if r.Action == Partition {
		stores := rapid.SliceOfNDistinct(rapid.Uint64Min(1), 2, 6, rapid.ID).Draw(t, "stores")
		cut := rapid.IntRange(1, len(stores)-1).Draw(t, "cut")
		r.Groups = [][]uint64{stores[:cut:cut], stores[cut:]}
	}
	if r.Action == Isolate {
		r.Store = rapid.Uint64Min(1).Draw(t, "store")
	}
	if some("types") {
		r.Types = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 18), func(n int) eraftpb.MessageType {
			if typ := eraftpb.MessageType(n); crosses(typ) {
				return typ
			}
			return msgAppend
		}), 1, 3).Draw(t, "types")
	}
	r.Regions, r.From, r.To = ids("regions", 0), ids("from", 1), ids("to", 1)
	r.On = Direction(rapid.IntRange(0, 2).Draw(t, "on"))
	if some("after") {
		r.After = rapid.Uint64Min(1).Draw(t, "after")
	}
	if some("for") {
		r.For = duration()
	}
	return r
})

// What a rule prints parses to an equal rule.
func TestParseRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rule := anyRule.Draw(t, "rule")
		if err := rule.validate(); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(rule.String())
		if err != nil || !reflect.DeepEqual(again, rule) {
			t.Fatalf("%v became %v, %v", rule, again, err)
		}
	})
}

// FuzzParse: whatever the text is, it is a valid rule that prints as an equal one,
// or an error that points into the text.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"drop 10% MsgAppend", "partition 1,2|3 on=send", "delay 50", ""} {
		f.Add(text) // more is in testdata
	}
	f.Fuzz(func(t *testing.T, text string) {
		rule, err := Parse(text)
		if err != nil {
			var wrong *ParseError
			if !errors.As(err, &wrong) || wrong.Text != text || wrong.Expected == "" ||
				wrong.Offset < 0 || wrong.Offset > len(text) || !strings.HasPrefix(text[wrong.Offset:], wrong.Found) {
				t.Fatalf("%q: %+v", text, err)
			}
			return
		}
		if err := rule.validate(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		again, err := Parse(rule.String())
		if err != nil || !reflect.DeepEqual(again, rule) {
			t.Fatalf("%q is %v, which becomes %v, %v", text, rule, again, err)
		}
	})
}

// A rule that was built badly is refused by the name of its field, and none of
// those that are added with it stays.
func TestAddRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field string
		rule  Rule
	}{
		{"Action", Rule{}},
		{"Action", Rule{Action: 99}},
		{"Percent", Rule{Action: Drop, Percent: -1}},
		{"Percent", Rule{Action: Drop, Percent: 101}},
		{"Percent", Rule{Action: Drop, Percent: math.NaN()}},
		{"Time", Rule{Action: Delay}},
		{"Time", Rule{Action: Delay, Time: -1}},
		{"Time", Rule{Action: Drop, Time: 1}},
		{"Groups", Rule{Action: Partition, Groups: [][]uint64{{1}}}},
		{"Groups", Rule{Action: Partition, Groups: [][]uint64{{1}, {}}}},
		{"Groups", Rule{Action: Partition, Groups: [][]uint64{{1}, {1}}}},
		{"Groups", Rule{Action: Partition, Groups: [][]uint64{{1}, {0}}}},
		{"Groups", Rule{Action: Drop, Groups: [][]uint64{{1}, {2}}}},
		{"Store", Rule{Action: Isolate}},
		{"Store", Rule{Action: Drop, Store: 1}},
		{"Types", Rule{Action: Drop, Types: []eraftpb.MessageType{eraftpb.MessageType_MsgBeat}}},
		{"Types", Rule{Action: Drop, Types: []eraftpb.MessageType{99}}},
		{"From", Rule{Action: Drop, From: []uint64{0}}},
		{"To", Rule{Action: Drop, To: []uint64{0}}},
		{"On", Rule{Action: Drop, On: 3}},
		{"For", Rule{Action: Drop, For: -1}},
	} {
		rules := New(Options{})
		var wrong *raftmux.OptionError
		err := rules.Add(Rule{Action: Drop}, c.rule)
		if !errors.As(err, &wrong) || wrong.Field != "Rule."+c.field {
			t.Errorf("%+v: %v", c.rule, err)
		}
		if len(rules.List()) != 0 {
			t.Errorf("%+v: %v stays", c.rule, rules.List())
		}
	}
}
