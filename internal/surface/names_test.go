package surface_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNames checks that what pages and package comments mention exists:
// identifiers of our packages, files and folders, tests, and flags.
func TestNames(t *testing.T) {
	t.Parallel()
	code := readCode(t)
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "bench/*.md"} {
		found, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	checked := map[string]int{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
			kind, ok := code.has(m[1])
			if checked[kind]++; !ok {
				t.Errorf("%s names the %s %s, which does not exist", page, kind, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`[\s\x60(](--[a-z][a-z-]+)`).FindAllStringSubmatch(string(text), -1) {
			if checked["flag"]++; !code.words[m[1][2:]] && !strings.Contains(foreignFlags, m[1]+" ") {
				t.Errorf("%s names the flag %s, which no command has", page, m[1])
			}
		}
	}
	for dir, comment := range code.comments {
		for _, m := range regexp.MustCompile(`\[([A-Za-z][\w.]*)\]`).FindAllStringSubmatch(comment, -1) {
			name := m[1]
			if first, _, _ := strings.Cut(name, "."); !code.packages[first] && token.IsExported(first) {
				name = filepath.Base(dir) + "." + name
			}
			kind, ok := code.has(name)
			if checked[kind]++; !ok {
				t.Errorf("the comment of package %s names the %s %s, which does not exist", dir, kind, m[1])
			}
		}
	}
	for _, kind := range []string{"identifier", "file", "test", "flag"} {
		if checked[kind] == 0 {
			t.Errorf("no %s was found: the test tests nothing", kind)
		}
	}
}

// foreignFlags are flags of other programs.
const foreignFlags = "--only-hash --ignore-scripts --data --data-binary --enable-gc "

// code holds everything that can be mentioned.
type code struct {
	packages map[string]bool // by name
	idents   map[string]bool // package.Name, package.Type.Member
	tests    map[string]bool
	words    map[string]bool   // strings in the source, which include the names of flags
	comments map[string]string // of packages, by directory
}

var (
	testName   = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)[A-Z]\w*$`)
	identName  = regexp.MustCompile(`^\*?([a-z][a-z0-9]*)((\.[A-Z]\w*){1,2})(\(\))?$`)
	fileName   = regexp.MustCompile(`^[\w.-]+(/[\w.*-]+)+/?$|^[\w-]+\.go$`)
	ourFolders = regexp.MustCompile(`^(car|chunker|splitter|uploader|cmd|bench|internal|testdata|docs)/|\.go$`)
)

// has returns the kind of a name, and whether it exists. If it cannot be a name
// of ours, the kind is empty.
func (c *code) has(name string) (kind string, ok bool) {
	switch m := identName.FindStringSubmatch(name); {
	case testName.MatchString(name):
		return "test", c.tests[name]
	case m != nil && c.packages[m[1]]:
		return "identifier", c.idents[m[1]+m[2]]
	case fileName.MatchString(name) && ourFolders.MatchString(name):
		for _, pattern := range []string{name, "*/" + name, "*/*/" + name, "*/*/*/" + name, "*/*/*/*/" + name} {
			if found, err := filepath.Glob(filepath.Join(repository, pattern)); err == nil && len(found) > 0 {
				return "file", true
			}
		}
		return "file", false
	}
	return "", true
}

// readCode collects the names of all packages, including nested modules.
func readCode(t *testing.T) *code {
	t.Helper()
	c := &code{packages: map[string]bool{}, idents: map[string]bool{}, tests: map[string]bool{}, words: map[string]bool{}, comments: map[string]string{}}
	fset := token.NewFileSet()
	err := filepath.WalkDir(repository, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "node_modules" || e.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if f.Doc != nil && !strings.HasSuffix(path, "_test.go") {
			c.comments[filepath.Dir(path)] += f.Doc.Text()
		}
		if rel := strings.TrimPrefix(path, repository+"/"); strings.HasPrefix(rel, "cmd/") || strings.HasPrefix(rel, "uploader/fleet/") {
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && !strings.HasSuffix(path, "_test.go") {
					c.words[strings.Trim(lit.Value, "\"`")] = true
				}
				return true
			})
		}
		name := strings.TrimSuffix(f.Name.Name, "_test")
		c.packages[name] = true
		for _, d := range f.Decls {
			c.declare(name, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *code) declare(pkg string, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		name := d.Name.Name
		if d.Recv != nil {
			c.idents[pkg+"."+receiver(d.Recv.List[0].Type)+"."+name] = true
			return
		}
		c.idents[pkg+"."+name] = true
		if testName.MatchString(name) {
			c.tests[name] = true
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				for _, n := range s.Names {
					c.idents[pkg+"."+n.Name] = true
				}
			case *ast.TypeSpec:
				c.idents[pkg+"."+s.Name.Name] = true
				for _, member := range members(s.Type) {
					c.idents[pkg+"."+s.Name.Name+"."+member] = true
				}
			}
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func members(e ast.Expr) (names []string) {
	var list *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		list = e.Fields
	case *ast.InterfaceType:
		list = e.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		for _, n := range f.Names {
			names = append(names, n.Name)
		}
	}
	return names
}
