package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	clauseCount = 25
	rowCount    = 25
)

// check compares the page with the tests there are, and returns what is wrong.
func check(page string, tests []testFunc) (problems []string) {
	clauses, problems := parsePage(page)
	listed := make(map[string][]string) // the tests that each clause lists
	times := make(map[int]int)
	for _, c := range clauses {
		mark := fmt.Sprintf("C%d", c.number)
		times[c.number]++
		listed[mark] = append(listed[mark], c.tests...)
		if c.number < 1 || c.number > clauseCount {
			problems = append(problems, mark+" is no clause")
		}
		for _, name := range c.tests {
			i := slices.IndexFunc(tests, func(f testFunc) bool { return f.String() == name })
			switch {
			case i < 0:
				problems = append(problems, fmt.Sprintf("%s lists %s, which doesn't exist", mark, name))
			case !tests[i].names(mark):
				problems = append(problems, fmt.Sprintf("%s lists %s, which doesn't name it", mark, name))
			}
		}
	}
	for n := 1; n <= clauseCount; n++ {
		if times[n] != 1 {
			problems = append(problems, fmt.Sprintf("C%d is there %d times", n, times[n]))
		}
	}
	for _, f := range tests {
		mark := numbered(f.name)
		if strings.HasPrefix(mark, "C") && !slices.Contains(listed[mark], f.String()) {
			problems = append(problems, fmt.Sprintf("%s doesn't list %s", mark, f))
		}
	}
	return problems
}

// The page names every clause once, with tests that exist and name it.
func TestContractPage(t *testing.T) {
	dir, tests := module(t)
	page, err := os.ReadFile(filepath.Join(dir, "docs", "CONTRACT.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range check(string(page), tests) {
		t.Error(problem)
	}
}

// Every row of the table of what five years of production found in such
// transports has a test, in the root package or below internal.
func TestRowsHaveTests(t *testing.T) {
	_, tests := module(t)
	var missing []string
	for n := 1; n <= rowCount; n++ {
		row := fmt.Sprintf("S%d", n)
		if !slices.ContainsFunc(tests, func(f testFunc) bool {
			return (f.pkg == root || strings.HasPrefix(f.pkg, "internal/")) && f.names(row)
		}) {
			missing = append(missing, row)
		}
	}
	if len(missing) > 0 {
		t.Errorf("no test names %s", strings.Join(missing, ", "))
	}
}

func module(t *testing.T) (dir string, tests []testFunc) {
	t.Helper()
	dir, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tests, err = moduleTests(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, tests
}

// The check finds what can be wrong with a page.
func TestCheck(t *testing.T) {
	tests := []testFunc{
		{pkg: root, name: "TestC1Sends"},
		{pkg: root, name: "TestC12Falls"},
		{pkg: "internal/queue", name: "TestBounds", doc: "C2 and C17: bounds."},
	}
	good := "- **C1** text\n  - Held by: `raftmux.TestC1Sends`\n" +
		"- **C2** text\n  - Held by: `internal/queue.TestBounds`,\n    and more\n" +
		"- **C12** text\n  - Held by:\n    `raftmux.TestC12Falls`\n"
	for n := 3; n <= clauseCount; n++ {
		if n != 12 {
			good += fmt.Sprintf("- **C%d** text\n  - Held by: not yet: all of it\n", n)
		}
	}
	for name, test := range map[string]struct {
		old, replacement string
		want             []string
	}{
		"good":         {},
		"missing":      {"- **C3** text\n  - Held by: not yet: all of it\n", "", []string{"C3 is there 0 times"}},
		"twice":        {"**C3**", "**C4**", []string{"C3 is there 0 times", "C4 is there 2 times"}},
		"unknown":      {"**C3**", "**C26**", []string{"C26 is no clause", "C3 is there 0 times"}},
		"silent":       {"text\n  - Held by: not yet: all of it\n- **C4**", "text\n- **C4**", []string{"C3 doesn't say what holds it"}},
		"no test":      {"`internal/queue.TestBounds`", "faith", []string{`C2 lists no test, and doesn't say "not yet"`}},
		"not yet what": {": all of it\n- **C4**", "\n- **C4**", []string{`C3 says "not yet", and not what is missing`}},
		"not there":    {"queue.TestBounds", "queue.TestBound", []string{"C2 lists internal/queue.TestBound, which doesn't exist"}},
		"not its own": {
			"`raftmux.TestC1Sends`", "`raftmux.TestC1Sends` `raftmux.TestC12Falls`",
			[]string{"C1 lists raftmux.TestC12Falls, which doesn't name it"},
		},
		"not listed": {
			"`raftmux.TestC1Sends`", "not yet: x",
			[]string{"C1 doesn't list raftmux.TestC1Sends"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			page := strings.Replace(good, test.old, test.replacement, 1)
			if got := check(page, tests); !slices.Equal(got, test.want) {
				t.Errorf("found %q, not %q", got, test.want)
			}
		})
	}
}
