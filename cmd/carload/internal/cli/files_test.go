package cli

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The store and the service are large packages. Dependencies between their
// files must not form cycles.
func TestFilesOfLargeRoomsHaveAnOrder(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a while")
	}
	for _, dir := range []string{"../../../../internal/store", "../../../../internal/service"} {
		needs := fileNeeds(t, dir)
		if len(needs) < 10 {
			t.Fatalf("%s: files were not found: %v", dir, needs)
		}
		for len(needs) > 0 {
			var free []string // files that need none of the remaining ones
			for file, of := range needs {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(of)), func(f string) bool { _, left := needs[f]; return left }) {
					free = append(free, file)
				}
			}
			if len(free) == 0 {
				for file, of := range needs {
					maps.DeleteFunc(of, func(f, _ string) bool { _, left := needs[f]; return !left })
					t.Errorf("%s: %s needs %v", dir, file, of)
				}
				break
			}
			for _, f := range free {
				delete(needs, f)
			}
		}
	}
}

// fileNeeds returns what each file of a package needs from the others: for each
// of these, one name in it.
func fileNeeds(t *testing.T, dir string) map[string]map[string]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{.GoFiles}}", ".")
	list.Dir = dir
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := make(map[string]string)
	var last []string
	for line := range strings.Lines(string(out)) {
		last = strings.Split(strings.TrimSpace(line), "\t")
		exports[last[0]] = last[1]
	}
	fset := token.NewFileSet()
	needs := make(map[string]map[string]string)
	var files []*ast.File
	for _, name := range strings.Fields(strings.Trim(last[3], "[]")) {
		f, err := parser.ParseFile(fset, filepath.Join(last[2], name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files, needs[name] = append(files, f), make(map[string]string)
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	pkg, err := conf.Check(last[0], fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	for id, o := range info.Uses {
		if o.Pkg() != pkg {
			continue
		}
		from, of := filepath.Base(fset.Position(id.Pos()).Filename), filepath.Base(fset.Position(o.Pos()).Filename)
		if from != of {
			needs[from][of] = o.Name()
		}
	}
	return needs
}
