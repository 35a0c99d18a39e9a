package contract

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mutantCount is how many clauses internal/mutant can break: C1 to this one.
const mutantCount = 24

var (
	mutantUse = regexp.MustCompile(`\bmutant\.(C\d+)\b`)
	mutantRow = regexp.MustCompile(`(?m)^\s*(C\d+)\s+(\./?\S*)\s+(Test\S+)$`)
)

// Every clause has a defect in the code, and .ci/mutants finds it with tests
// that the page lists under the clause.
func TestEveryClauseHasAMutant(t *testing.T) {
	dir, _ := module(t)
	page, err := os.ReadFile(filepath.Join(dir, "docs", "CONTRACT.md"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(dir, ".ci", "mutants"))
	if err != nil {
		t.Fatal(err)
	}
	clauses, _ := parsePage(string(page))
	held := make(map[string][]string)
	for _, c := range clauses {
		held[fmt.Sprintf("C%d", c.number)] = c.tests
	}
	used, err := mutantsUsed(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	for _, row := range mutantRow.FindAllStringSubmatch(string(script), -1) {
		mark, pkg := row[1], strings.TrimPrefix(row[2], "./")
		if pkg == "." {
			pkg = root
		}
		found[mark]++
		for _, test := range strings.Split(row[3], "|") {
			test, _, _ = strings.Cut(test, "/") // without its subtest
			if name := pkg + "." + test; !slices.Contains(held[mark], name) {
				t.Errorf("%s: .ci/mutants runs %s, which docs/CONTRACT.md doesn't list", mark, name)
			}
		}
	}
	for n := 1; n <= mutantCount; n++ {
		mark := fmt.Sprintf("C%d", n)
		if used[mark] != 1 || found[mark] != 1 {
			t.Errorf("%s: its mutant is in the code %d times and in .ci/mutants %d times", mark, used[mark], found[mark])
		}
	}
}

// mutantsUsed counts, by clause, the places where the code can be broken.
func mutantsUsed(dir string) (used map[string]int, err error) {
	used = make(map[string]int)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if path != dir && skipped(path, d.Name()) {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		src, err := os.ReadFile(path)
		for _, m := range mutantUse.FindAllSubmatch(src, -1) {
			used[string(m[1])]++
		}
		return err
	})
	return used, err
}
