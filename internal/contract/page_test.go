package contract

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// clause is one clause of the page.
type clause struct {
	number int
	text   string
	notYet string   // what is missing, when no test holds it
	tests  []string // package.TestName
}

var (
	clauseLine = regexp.MustCompile(`^- \*\*C(\d+)\*\* (.+)$`)
	heldLine   = regexp.MustCompile(`^ +- Held by: *(.*)$`)
	testName   = regexp.MustCompile("`([^`\\s]+\\.(?:Test|Fuzz|Benchmark|Example)[^`\\s]*)`")
)

// parsePage reads the clauses of the page, in its order. A clause is a line of
// its own, and "Held by" the item under it, which may run over lines.
func parsePage(page string) (clauses []clause, problems []string) {
	var held *string // the text of the item that is being read
	var texts []*string
	for _, line := range strings.Split(page, "\n") {
		if m := clauseLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1])
			clauses = append(clauses, clause{number: n, text: m[2]})
			texts, held = append(texts, nil), nil
		} else if m := heldLine.FindStringSubmatch(line); m != nil && len(clauses) > 0 {
			if texts[len(texts)-1] != nil {
				problems = append(problems, fmt.Sprintf("C%d says twice what holds it", clauses[len(clauses)-1].number))
			}
			held = &m[1]
			texts[len(texts)-1] = held
		} else if held != nil && strings.HasPrefix(line, "  ") {
			*held += " " + strings.TrimSpace(line)
		} else {
			held = nil
		}
	}
	for i := range clauses {
		if problem := clauses[i].heldBy(texts[i]); problem != "" {
			problems = append(problems, fmt.Sprintf("C%d %s", clauses[i].number, problem))
		}
	}
	return clauses, problems
}

// heldBy reads the item under a clause, and says what is wrong with it.
func (c *clause) heldBy(text *string) (problem string) {
	if text == nil {
		return "doesn't say what holds it"
	}
	for _, m := range testName.FindAllStringSubmatch(*text, -1) {
		c.tests = append(c.tests, m[1])
	}
	missing, isNotYet := strings.CutPrefix(*text, "not yet")
	missing = strings.TrimLeft(missing, ":, ")
	switch {
	case isNotYet && len(c.tests) > 0:
		return `lists tests, and says "not yet"`
	case isNotYet && missing == "":
		return `says "not yet", and not what is missing`
	case isNotYet:
		c.notYet = missing
	case len(c.tests) == 0:
		return `lists no test, and doesn't say "not yet"`
	}
	return ""
}
