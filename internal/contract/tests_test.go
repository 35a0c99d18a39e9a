package contract

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// root is what the page calls the module's root package.
const root = "raftmux"

// testFunc is one test function of the module.
type testFunc struct {
	pkg  string // "raftmux", or its folder
	name string
	doc  string
}

func (f testFunc) String() string { return f.pkg + "." + f.name }

// names says whether the function's name begins with, or its doc comment has,
// the given mark, such as C7.
func (f testFunc) names(mark string) bool {
	return numbered(f.name) == mark || regexp.MustCompile(`\b`+mark+`\b`).MatchString(f.doc)
}

var numberedName = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark|Example)([CS]\d+)(?:[^\d]|$)`)

// numbered returns the mark with which a test's name begins, or "".
func numbered(name string) string {
	if m := numberedName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// moduleRoot returns the folder with go.mod in it, this one or one above.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above %s", dir)
		}
		dir = parent
	}
}

// moduleTests returns the test functions of the module, without those of the
// modules inside it and of this package.
func moduleTests(dir string) (tests []testFunc, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != dir && skipped(path, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		pkg, err := filepath.Rel(dir, filepath.Dir(path))
		if err != nil {
			return err
		}
		if pkg = filepath.ToSlash(pkg); pkg == "." {
			pkg = root
		}
		if pkg == "internal/contract" {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found, err := fileTests(pkg, path, src)
		tests = append(tests, found...)
		return err
	})
	return tests, err
}

// skipped says whether a folder is none of the module's.
func skipped(path, name string) bool {
	if name == "testdata" || name == "vendor" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

// fileTests returns the test functions of one file.
func fileTests(pkg, path string, src []byte) (tests []testFunc, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || f.Name.Name == "TestMain" {
			continue
		}
		for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
			if strings.HasPrefix(f.Name.Name, prefix) {
				tests = append(tests, testFunc{pkg: pkg, name: f.Name.Name, doc: f.Doc.Text()})
				break
			}
		}
	}
	return tests, nil
}
