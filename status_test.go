package raftmux_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/raftmux/raftmux/internal/queue"
)

// The comment at Ledger.Dropped lists every reason.
func TestDroppedReasonsAreDescribed(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "status.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var comment string
	ast.Inspect(file, func(node ast.Node) bool {
		if field, ok := node.(*ast.Field); ok && len(field.Names) == 1 && field.Names[0].Name == "Dropped" {
			comment = field.Doc.Text()
		}
		return true
	})
	for _, reason := range queue.Reasons() {
		if !strings.Contains(comment, `- "`+reason.String()+`": `) {
			t.Errorf("%s is not described:\n%s", reason, comment)
		}
	}
	if n := strings.Count(comment, `- "`); n != len(queue.Reasons()) {
		t.Errorf("%d reasons are described, there are %d", n, len(queue.Reasons()))
	}
}
