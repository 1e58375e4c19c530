package surface_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	repository = "../.."
	module     = "github.com/carload/carload"
)

var update = flag.Bool("update", false, "write the golden files")

// TestAPI compares what packages export with the reviewed list. Whoever changes
// the API runs it with -update, and commits the list with the change.
func TestAPI(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	for _, dir := range packages(t) {
		got.WriteString(api(t, dir))
	}
	golden := filepath.Join("testdata", "api.txt")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(got.String()) {
		if !strings.Contains("\n"+string(want), "\n"+line) {
			t.Errorf("new: %s", strings.TrimSuffix(line, "\n"))
		}
	}
	for line := range strings.Lines(string(want)) {
		if !strings.Contains("\n"+got.String(), "\n"+line) {
			t.Errorf("gone: %s", strings.TrimSuffix(line, "\n"))
		}
	}
	if !t.Failed() && !bytes.Equal(got.Bytes(), want) {
		t.Error("the order of the API, or what belongs to what in it, has changed")
	}
	if t.Failed() {
		t.Log("if that is meant: go test ./internal/surface -run TestAPI -update")
	}
}

// packages returns the directories of the module that other modules can import.
func packages(t *testing.T) (dirs []string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || path == repository {
			return err
		}
		rel, err := filepath.Rel(repository, path)
		if err != nil {
			return err
		}
		name := e.Name()
		if strings.HasPrefix(name, ".") || slices.Contains([]string{"internal", "testdata", "cmd", "bench", "docs", "node_modules"}, name) {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
			return filepath.SkipDir // a separate module
		}
		if sources, err := filepath.Glob(filepath.Join(path, "*.go")); err != nil || len(sources) == 0 {
			return err
		}
		dirs = append(dirs, filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) < 10 {
		t.Fatalf("found only %q", dirs)
	}
	return dirs
}

// parsed returns the source of a package as built for Linux, without tests.
func parsed(t *testing.T, dir string) (*token.FileSet, []*ast.File) {
	t.Helper()
	system := build.Default
	system.GOOS, system.GOARCH, system.CgoEnabled = "linux", "amd64", false
	p, err := system.ImportDir(filepath.Join(repository, dir), 0)
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(repository, dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return fset, files
}

// api returns what a package exports, without comments.
func api(t *testing.T, dir string) string {
	t.Helper()
	fset, files := parsed(t, dir)
	p, err := doc.NewFromFiles(fset, files, module+"/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("package " + module + "/" + dir + "\n\n")
	decl := func(d ast.Decl) {
		bare(d)
		if err := (&printer.Config{Mode: printer.UseSpaces, Tabwidth: 4}).Fprint(&out, token.NewFileSet(), d); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n")
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			decl(v.Decl)
		}
	}
	funcs := func(fs []*doc.Func) {
		for _, f := range fs {
			decl(f.Decl)
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs(p.Funcs)
	for _, typ := range p.Types {
		decl(typ.Decl)
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs)
		funcs(typ.Methods)
	}
	out.WriteString("\n")
	return out.String()
}

// bare removes comments and bodies.
func bare(n ast.Node) {
	ast.Inspect(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			n.Doc, n.Body = nil, nil
		case *ast.GenDecl:
			n.Doc = nil
		case *ast.Field:
			n.Doc, n.Comment = nil, nil
		case *ast.ValueSpec:
			n.Doc, n.Comment = nil, nil
		case *ast.TypeSpec:
			n.Doc, n.Comment = nil, nil
		}
		return true
	})
}

// TestModules checks the list in docs/library.md of the modules that a program
// takes in when it embeds the engine.
func TestModules(t *testing.T) {
	t.Parallel()
	list := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./uploader")
	list.Dir = repository
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	got = slices.DeleteFunc(slices.Compact(got), func(path string) bool { return path == module })
	page, err := os.ReadFile(filepath.Join(repository, "docs", "library.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "<!-- modules -->\n```\n")
	block, _, ends := strings.Cut(after, "```")
	if !found || !ends {
		t.Fatal("docs/library.md has no list that is marked modules")
	}
	if want := strings.Fields(block); !slices.Equal(got, want) {
		t.Errorf("a program that embeds ./uploader carries:\n%s\ndocs/library.md says:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
