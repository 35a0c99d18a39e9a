package faults

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
)

// ParseError says where the text of a rule is wrong, and what should be there.
type ParseError struct {
	// Text is the whole rule.
	Text string
	// Offset is the byte of Text at which the mistake begins, len(Text) where
	// something is missing at the end.
	Offset int
	// Found is what stands there, "" for nothing.
	Found string
	// Expected is what should.
	Expected string
}

// Error implements error. Columns count bytes, from 1.
func (e *ParseError) Error() string {
	found := "nothing"
	switch {
	case e.Found != "":
		found = strconv.Quote(e.Found)
	case e.Offset == len(e.Text):
		found = "the end"
	}
	return fmt.Sprintf("faults: rule %q, column %d: found %s, expected %s", e.Text, e.Offset+1, found, e.Expected)
}

// What is expected, where it is said more than once.
const (
	anAction   = "drop, delay, reorder, duplicate, partition or isolate"
	aPercent   = "a share such as 10%, above 0% and up to 100%"
	aDuration  = "a duration such as 50ms"
	aStore     = "a store id above 0"
	aRegion    = "a region id"
	aGroup     = "sets of stores such as 1,2|3"
	anyKey     = "region=, from=, to=, on=, after= or for="
	anyWord    = "a share such as 10%, a message type such as MsgAppend, " + anyKey
	anyWordToo = "a duration such as 50ms, " + anyWord
)

// Parse reads one rule. See the package's documentation for the grammar. An error
// is a *ParseError.
func Parse(text string) (Rule, error) {
	p := parser{text: text, words: split(text), seen: make(map[string]bool)}
	if err := p.parse(); err != nil {
		return Rule{}, err
	}
	return p.rule, nil
}

// word is a piece of a rule's text and its place in it.
type word struct {
	text   string
	offset int
}

// cut returns what is behind the first n bytes.
func (w word) cut(n int) word { return word{w.text[n:], w.offset + n} }

// split cuts a word, or a whole text, at single bytes that sep picks.
func (w word) split(sep byte) (pieces []word) {
	for {
		i := strings.IndexByte(w.text, sep)
		if i < 0 {
			return append(pieces, w)
		}
		pieces = append(pieces, word{w.text[:i], w.offset})
		w = w.cut(i + 1)
	}
}

func split(text string) (words []word) {
	start := -1
	for i := range len(text) + 1 {
		space := i == len(text) || strings.IndexByte(" \t\r\n", text[i]) >= 0
		switch {
		case space && start >= 0:
			words = append(words, word{text[start:i], start})
			start = -1
		case !space && start < 0:
			start = i
		}
	}
	return words
}

type parser struct {
	text  string
	words []word
	rule  Rule
	seen  map[string]bool // kinds of words, each of which comes once
}

func (p *parser) parse() error {
	action := p.next()
	for a := Drop; a <= Isolate; a++ {
		if action.text == a.String() {
			p.rule.Action = a
		}
	}
	if p.rule.Action == 0 {
		return p.fail(action, anAction)
	}
	var err error
	switch p.rule.Action {
	case Partition:
		err = p.groups(p.next())
	case Isolate:
		p.rule.Store, err = p.id(p.next(), 1, aStore)
	}
	for err == nil && len(p.words) > 0 {
		err = p.word(p.next())
	}
	if err == nil && p.rule.Action == Delay && p.rule.Time == 0 {
		err = p.fail(p.next(), aDuration)
	}
	return err
}

// next takes the next word; at the end it is empty.
func (p *parser) next() word {
	if len(p.words) == 0 {
		return word{offset: len(p.text)}
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) fail(at word, expected string) error {
	return &ParseError{Text: p.text, Offset: at.offset, Found: at.text, Expected: expected}
}

// once fails if there was a word of that kind before.
func (p *parser) once(at word, kind string) error {
	if p.seen[kind] {
		return p.fail(at, kind+" only once")
	}
	p.seen[kind] = true
	return nil
}

// word reads one word after the action, and tells by its looks what it is.
func (p *parser) word(w word) error {
	if i := strings.IndexByte(w.text, '='); i >= 0 {
		return p.keyed(w, w.text[:i], w.cut(i+1))
	}
	switch {
	case strings.HasSuffix(w.text, "%"):
		return p.percent(w)
	case strings.HasPrefix(w.text, "Msg"):
		return p.types(w)
	case p.rule.Action.holds() && strings.IndexByte("0123456789.+-", w.text[0]) >= 0:
		if err := p.once(w, "the duration"); err != nil {
			return err
		}
		var err error
		p.rule.Time, err = p.duration(w)
		return err
	case p.rule.Action.holds():
		return p.fail(w, anyWordToo)
	}
	return p.fail(w, anyWord)
}

// keyed reads the value of key=value.
func (p *parser) keyed(w word, key string, value word) (err error) {
	switch key {
	case "region", "from", "to", "on", "after", "for":
		if err := p.once(w, key+"="); err != nil {
			return err
		}
	}
	switch key {
	case "region":
		p.rule.Regions, err = p.ids(value, 0, aRegion)
	case "from":
		p.rule.From, err = p.ids(value, 1, aStore)
	case "to":
		p.rule.To, err = p.ids(value, 1, aStore)
	case "on":
		switch value.text {
		case OnSend.String():
			p.rule.On = OnSend
		case OnReceive.String():
			p.rule.On = OnReceive
		default:
			return p.fail(value, "send or receive")
		}
	case "after":
		p.rule.After, err = p.id(value, 1, "a number of messages above 0")
	case "for":
		p.rule.For, err = p.duration(value)
	default:
		return p.fail(w, anyKey)
	}
	return err
}

func (p *parser) percent(w word) error {
	if err := p.once(w, "the share"); err != nil {
		return err
	}
	number := strings.TrimSuffix(w.text, "%")
	if strings.Trim(number, "0123456789.") != "" { // ParseFloat takes more: 1e1, 0x1, Inf
		return p.fail(w, aPercent)
	}
	percent, err := strconv.ParseFloat(number, 64)
	if err != nil || percent <= 0 || percent > 100 {
		return p.fail(w, aPercent)
	}
	p.rule.Percent = percent
	return nil
}

func (p *parser) duration(w word) (time.Duration, error) {
	d, err := time.ParseDuration(w.text)
	if err != nil || d <= 0 {
		return 0, p.fail(w, aDuration)
	}
	return d, nil
}

func (p *parser) types(w word) error {
	if err := p.once(w, "message types"); err != nil {
		return err
	}
	for _, name := range w.split(',') {
		number, ok := eraftpb.MessageType_value[name.text]
		if !ok {
			return p.fail(name, "a message type such as MsgAppend")
		}
		t := eraftpb.MessageType(number)
		if !crosses(t) {
			return p.fail(name, "a message type that crosses the network, such as MsgAppend")
		}
		p.rule.Types = append(p.rule.Types, t)
	}
	return nil
}

// id reads a number that is at least smallest.
func (p *parser) id(w word, smallest uint64, expected string) (uint64, error) {
	n, err := strconv.ParseUint(w.text, 10, 64)
	if err != nil || n < smallest {
		return 0, p.fail(w, expected)
	}
	return n, nil
}

func (p *parser) ids(w word, smallest uint64, expected string) (ids []uint64, err error) {
	for _, piece := range w.split(',') {
		id, err := p.id(piece, smallest, expected)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// groups reads the sets of a partition.
func (p *parser) groups(w word) error {
	pieces := w.split('|')
	if len(pieces) < 2 {
		return p.fail(w, aGroup)
	}
	seen := make(map[uint64]bool)
	for _, piece := range pieces {
		var group []uint64
		for _, one := range piece.split(',') {
			store, err := p.id(one, 1, aStore)
			if err != nil {
				return err
			}
			if seen[store] {
				return p.fail(one, "each store only once")
			}
			seen[store] = true
			group = append(group, store)
		}
		p.rule.Groups = append(p.rule.Groups, group)
	}
	return nil
}
