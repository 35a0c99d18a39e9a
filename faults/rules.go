package faults

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmux/raftmux"
)

// Options configures Rules. Every field has a default, which its zero value
// stands for.
type Options struct {
	// Seed decides chance. 0 is a seed like any other.
	Seed uint64
	// StoreID is this store's id. It stands for the sending store of messages
	// whose Envelope, when they are sent, doesn't name it; those of a
	// raftmux.Sender and of etcdraft do.
	StoreID uint64
	// MaxWaitingMessages and MaxWaitingBytes bound the messages that wait. One
	// above that passes at once. Default 65536, and 64 MiB. With a negative bound
	// none waits.
	MaxWaitingMessages, MaxWaitingBytes int
}

// Rules is a set of rules at work. All methods may be called at any time from
// any goroutine, also while messages pass. It implements raftmux.Filter.
//
// Messages that wait have one goroutine, which is there only while there are any.
// Close the Rules before the Client and the Server that they are attached to.
type Rules struct {
	options Options
	waiting *waiting
	stats   counters

	active atomic.Pointer[[]*active] // nil while there are none; never changed in place

	mu    sync.Mutex // for changes of active
	added uint64     // rules so far
}

// active is a rule at work.
type active struct {
	Rule
	key     uint64    // for chance: the rule's number
	end     time.Time // zero if it lives for ever
	refused error     // what a message that it drops on receive is refused with

	matched, hit atomic.Uint64
}

// New returns Rules without any rule, by which every message passes.
func New(options Options) *Rules {
	if options.MaxWaitingMessages == 0 {
		options.MaxWaitingMessages = 64 << 10
	}
	if options.MaxWaitingBytes == 0 {
		options.MaxWaitingBytes = 64 << 20
	}
	r := &Rules{options: options}
	r.waiting = newWaiting(options.MaxWaitingMessages, options.MaxWaitingBytes, &r.stats)
	return r
}

// Add adds rules behind those that are there: all of them, or none and a
// *raftmux.OptionError that names a field. The rules' memory stays the caller's.
func (r *Rules) Add(rules ...Rule) error {
	for _, rule := range rules {
		if err := rule.validate(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.install(append(r.living(), r.activate(rules)...))
	return nil
}

// Set replaces all rules by those that the texts say, one each. See Parse. If a
// text is bad, it changes nothing and returns a *ParseError. Counts and lives
// begin anew, also of rules that were there before.
func (r *Rules) Set(texts ...string) error {
	rules := make([]Rule, 0, len(texts))
	for _, text := range texts {
		rule, err := Parse(text)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.install(r.activate(rules))
	return nil
}

// Clear removes all rules. Messages that wait still come when it is their time.
func (r *Rules) Clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.install(nil)
}

// Active is a rule at work, and what it has done.
type Active struct {
	Rule Rule
	// Left is the rest of its life, 0 if it lives for ever.
	Left time.Duration
	// Matched messages met all that the rule says of messages. Hit are those of
	// them that the count and chance left to it.
	Matched, Hit uint64
}

// List returns the rules at work, in order.
func (r *Rules) List() []Active {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Active
	for _, a := range r.living() {
		one := Active{Rule: a.clone(), Matched: a.matched.Load(), Hit: a.hit.Load()}
		if !a.end.IsZero() {
			one.Left = max(time.Until(a.end), 1)
		}
		list = append(list, one)
	}
	return list
}

// Close ends the waiting of messages for good: what waits is lost, and reported
// if it was to be sent. It returns once nothing is handed over and no callback
// runs any more, so it must not be called from a Handler or a Router. The rules
// stay, but those of delay and reorder have no effect any more. It may be called again.
func (r *Rules) Close() { r.waiting.close() }

// activate begins the lives of rules, under mu.
func (r *Rules) activate(rules []Rule) []*active {
	now := time.Now()
	list := make([]*active, 0, len(rules))
	for _, rule := range rules {
		r.added++
		a := &active{Rule: rule.clone(), key: r.added}
		if rule.For > 0 {
			a.end = now.Add(rule.For)
		}
		a.refused = fmt.Errorf("%w by rule %q", raftmux.ErrFiltered, rule)
		list = append(list, a)
	}
	return list
}

// living returns a fresh list of the rules that haven't run out, under mu.
func (r *Rules) living() []*active {
	var list []*active
	for _, a := range r.load() {
		if !a.over() {
			list = append(list, a)
		}
	}
	return list
}

func (r *Rules) install(list []*active) {
	if len(list) == 0 {
		r.active.Store(nil)
		return
	}
	list = slices.Clip(list)
	r.active.Store(&list)
}

func (r *Rules) load() []*active {
	if list := r.active.Load(); list != nil {
		return *list
	}
	return nil
}

// prune removes the rules that have run out, so that they cost nothing more.
func (r *Rules) prune() {
	if !r.mu.TryLock() {
		return // somebody changes the rules; the next message prunes
	}
	defer r.mu.Unlock()
	r.install(r.living())
}

func (a *active) over() bool { return !a.end.IsZero() && !time.Now().Before(a.end) }

// Pass implements raftmux.Filter: it decides about drop, partition and isolate
// on send. It takes no lock, but for the one message that finds a rule run out,
// and allocates nothing.
func (r *Rules) Pass(envelope raftmux.Envelope) bool {
	rules := r.load()
	if rules == nil {
		return true
	}
	fate := r.decide(rules, OnSend, &envelope, Action.cuts)
	if fate.cut != nil {
		r.stats.dropped.Add(1)
	}
	return fate.cut == nil
}

// fate is what the rules make of one message.
type fate struct {
	cut    *active       // the rule that takes it away, if any
	delay  time.Duration // for which it waits
	copies int           // that come besides it
}

// wait adds to the delay. What would be more than a Duration holds is the longest.
func (f *fate) wait(d time.Duration) { f.delay += min(d, math.MaxInt64-f.delay) }

// cuts says whether the action takes messages away.
func (a Action) cuts() bool { return a == Drop || a == Partition || a == Isolate }

// stretches is the other actions: those that leave the message, in some way.
func (a Action) stretches() bool { return !a.cuts() }

// all is for places where every action takes effect.
func (a Action) all() bool { return true }

// decide lets a message meet those rules whose action does something here.
func (r *Rules) decide(rules []*active, at Direction, e *raftmux.Envelope, here func(Action) bool) (f fate) {
	if e.FromStoreID == 0 && at == OnSend {
		e.FromStoreID = r.options.StoreID
	}
	over := false
	for _, a := range rules {
		if !here(a.Action) || !a.matches(at, e) {
			continue
		}
		if a.over() {
			over = true
			continue
		}
		n, hit := a.meet(r.options.Seed)
		if !hit {
			continue
		}
		switch a.Action {
		case Delay:
			f.wait(a.Time)
		case Reorder:
			most := a.Time
			if most == 0 {
				most = DefaultReorder
			}
			f.wait(max(1, time.Duration(chance(r.options.Seed, a.key, n, forTime)*float64(most))))
		case Duplicate:
			f.copies++
		default:
			f.cut = a
		}
		if f.cut != nil {
			break // what it was to wait or to be repeated before is in vain
		}
	}
	if over {
		r.prune()
	}
	return f
}

// meet counts a message that matches, and says whether the rule hits it. n is
// its number.
func (a *active) meet(seed uint64) (n uint64, hit bool) {
	n = a.matched.Add(1)
	if n <= a.After {
		return n, false
	}
	if a.Percent != 0 && chance(seed, a.key, n, forShare)*100 >= a.Percent {
		return n, false
	}
	a.hit.Add(1)
	return n, true
}

// What chance decides: different questions about the same message.
const (
	forShare = iota
	forTime
)

// chance returns a number from 0 to below 1 that depends on its arguments alone.
// So deciding takes no lock and no state.
func chance(seed, rule, message, question uint64) float64 {
	x := mix(seed) // or seed 1 had for rule 2 what seed 2 has for rule 1
	for _, part := range [...]uint64{rule, message, question} {
		x = mix(x ^ part)
	}
	return float64(x>>11) / (1 << 53)
}

// mix is the step of splitmix64: every bit of its result depends on every bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
