package faults

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"

	"github.com/raftmux/raftmux"
)

// Action is what a rule does to a message that it hits.
type Action uint8

// The actions.
const (
	// Drop takes the message away.
	Drop Action = iota + 1
	// Delay lets it come later.
	Delay
	// Reorder lets it come later by a random time, so that others overtake it.
	Reorder
	// Duplicate lets it come twice.
	Duplicate
	// Partition takes away what goes from one set of stores to another.
	Partition
	// Isolate takes away what comes from or goes to one store.
	Isolate
)

// String returns the word that stands for the action in a rule.
func (a Action) String() string {
	switch a {
	case Drop:
		return "drop"
	case Delay:
		return "delay"
	case Reorder:
		return "reorder"
	case Duplicate:
		return "duplicate"
	case Partition:
		return "partition"
	case Isolate:
		return "isolate"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// holds says whether the action lets messages wait.
func (a Action) holds() bool { return a == Delay || a == Reorder }

// Direction is where a rule acts.
type Direction uint8

// The directions.
const (
	// Both is the zero value: wherever the Rules are attached.
	Both Direction = 0
	// OnSend is in the store that sends.
	OnSend Direction = 1
	// OnReceive is in the store that receives.
	OnReceive Direction = 2
)

// String returns the word that stands for the direction in a rule.
func (d Direction) String() string {
	switch d {
	case Both:
		return "both"
	case OnSend:
		return "send"
	case OnReceive:
		return "receive"
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// DefaultReorder is the longest time that reorder lets a message wait, unless
// the rule says another.
const DefaultReorder = 10 * time.Millisecond

// Rule is one fault. It hits a message if all that it says is true of it; a field
// that is zero says nothing. See Parse for rules as text.
type Rule struct {
	// Action is mandatory.
	Action Action
	// Percent is the share of matching messages that are hit. 0 means all, so a share
	// that is computed and may be none is for no rule.
	Percent float64
	// Time is Delay's time, mandatory there, and the most of Reorder's, where 0
	// means DefaultReorder. Other actions have none.
	Time time.Duration
	// Groups are Partition's sets of stores, two or more. No store is in two.
	Groups [][]uint64
	// Store is Isolate's.
	Store uint64

	// Types are those of the Raft message.
	Types []eraftpb.MessageType
	// Regions, From and To have the message's region and stores among them.
	Regions, From, To []uint64
	// On is where the rule acts.
	On Direction
	// After is how many matching messages pass before the first is hit.
	After uint64
	// For is how long the rule lives, from when it is added. 0 means for ever.
	For time.Duration
}

// String returns text that Parse makes an equal rule of, if the rule is valid.
func (r Rule) String() string {
	text := r.Action.String()
	word := func(format string, args ...any) { text += " " + fmt.Sprintf(format, args...) }
	if r.Action == Partition {
		sets := make([]string, len(r.Groups))
		for i, group := range r.Groups {
			sets[i] = joined(group)
		}
		word("%s", strings.Join(sets, "|"))
	}
	if r.Action == Isolate {
		word("%d", r.Store)
	}
	if r.Percent != 0 {
		word("%s%%", strconv.FormatFloat(r.Percent, 'f', -1, 64))
	}
	if r.Time != 0 {
		word("%v", r.Time)
	}
	if len(r.Types) > 0 {
		names := make([]string, len(r.Types))
		for i, t := range r.Types {
			names[i] = t.String()
		}
		word("%s", strings.Join(names, ","))
	}
	for _, ids := range []struct {
		key  string
		list []uint64
	}{{"region", r.Regions}, {"from", r.From}, {"to", r.To}} {
		if len(ids.list) > 0 {
			word("%s=%s", ids.key, joined(ids.list))
		}
	}
	if r.On != Both {
		word("on=%v", r.On)
	}
	if r.After != 0 {
		word("after=%d", r.After)
	}
	if r.For != 0 {
		word("for=%v", r.For)
	}
	return text
}

func joined(ids []uint64) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(words, ",")
}

// validate returns nil or a *raftmux.OptionError that names a field.
func (r Rule) validate() error {
	bad := func(field, format string, args ...any) error {
		return &raftmux.OptionError{Field: "Rule." + field, Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case r.Action < Drop || r.Action > Isolate:
		return bad("Action", "is %v, must be one from Drop to Isolate", r.Action)
	case !(r.Percent >= 0 && r.Percent <= 100): // NaN is neither
		return bad("Percent", "is %v, must be between 0 and 100", r.Percent)
	case r.Time < 0 || r.Action == Delay && r.Time == 0:
		return bad("Time", "is %v, must be positive", r.Time)
	case r.Time > 0 && !r.Action.holds():
		return bad("Time", "is given, but %v takes none", r.Action)
	case len(r.Groups) > 0 && r.Action != Partition:
		return bad("Groups", "are given, but %v takes none", r.Action)
	case len(r.Groups) < 2 && r.Action == Partition:
		return bad("Groups", "are %d, must be 2 or more", len(r.Groups))
	case r.Store != 0 && r.Action != Isolate:
		return bad("Store", "is given, but %v takes none", r.Action)
	case r.Store == 0 && r.Action == Isolate:
		return bad("Store", "is mandatory and never 0")
	case r.On > OnReceive:
		return bad("On", "is %v", r.On)
	case r.For < 0:
		return bad("For", "is %v, must be positive", r.For)
	}
	seen := make(map[uint64]bool)
	for _, group := range r.Groups {
		if len(group) == 0 {
			return bad("Groups", "has an empty set")
		}
		for _, store := range group {
			switch {
			case store == 0:
				return bad("Groups", "has store 0, which there never is")
			case seen[store]:
				return bad("Groups", "has store %d twice", store)
			}
			seen[store] = true
		}
	}
	if slices.Contains(r.From, 0) {
		return bad("From", "has store 0, which there never is")
	}
	if slices.Contains(r.To, 0) {
		return bad("To", "has store 0, which there never is")
	}
	for _, t := range r.Types {
		if !crosses(t) {
			return bad("Types", "has %v, which does not cross the network", t)
		}
	}
	return nil
}

// crosses says whether messages of a type exist between stores.
func crosses(t eraftpb.MessageType) bool {
	switch t {
	case eraftpb.MessageType_MsgHup,
		eraftpb.MessageType_MsgBeat,
		eraftpb.MessageType_MsgUnreachable,
		eraftpb.MessageType_MsgSnapStatus,
		eraftpb.MessageType_MsgCheckQuorum:
		return false
	}
	_, known := eraftpb.MessageType_name[int32(t)]
	return known
}

// clone returns a copy that shares no memory with r.
func (r Rule) clone() Rule {
	groups := slices.Clone(r.Groups)
	for i := range groups {
		groups[i] = slices.Clone(groups[i])
	}
	r.Groups = groups
	r.Types = slices.Clone(r.Types)
	r.Regions, r.From, r.To = slices.Clone(r.Regions), slices.Clone(r.From), slices.Clone(r.To)
	return r
}

// matches says whether all that the rule says of messages is true of this one,
// chance, count and time left aside.
func (r *Rule) matches(at Direction, e *raftmux.Envelope) bool {
	switch {
	case r.On != Both && r.On != at:
		return false
	case len(r.Regions) > 0 && !slices.Contains(r.Regions, e.RegionID):
		return false
	case len(r.To) > 0 && !slices.Contains(r.To, e.ToStoreID):
		return false
	case len(r.From) > 0 && !slices.Contains(r.From, e.FromStoreID):
		return false
	case len(r.Types) > 0 && (!e.HasMessage || !slices.Contains(r.Types, e.Type)):
		return false
	}
	switch r.Action {
	case Partition:
		from, to := r.group(e.FromStoreID), r.group(e.ToStoreID)
		return from >= 0 && to >= 0 && from != to
	case Isolate:
		return e.FromStoreID == r.Store || e.ToStoreID == r.Store
	}
	return true
}

// group returns the index of the set that a store is in, or -1.
func (r *Rule) group(store uint64) int {
	return slices.IndexFunc(r.Groups, func(group []uint64) bool { return slices.Contains(group, store) })
}
