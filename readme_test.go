package raftmux_test

import (
	"os"
	"strings"
	"testing"
)

// TestReadmeShowsExample keeps the README's example the one that is compiled,
// and short.
func TestReadmeShowsExample(t *testing.T) {
	source := read(t, "example_test.go")
	_, body, ok := strings.Cut(source, "func Example() {\n")
	if !ok {
		t.Fatal("example_test.go has no Example")
	}
	body, _, _ = strings.Cut(body, "\n}\n")
	lines := strings.Split(body, "\n")
	if len(lines) > 30 {
		t.Errorf("the example has %d lines, more than 30", len(lines))
	}
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "\t")
	}
	if !strings.Contains(read(t, "README.md"), "```go\n"+strings.Join(lines, "\n")+"\n```") {
		t.Error("README.md doesn't show the body of Example as it is")
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
