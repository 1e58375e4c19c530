package cli

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A package without a linter rule may import anything, so every package must
// have one. Commands and benchmarks are at the top and may import everything.
func TestEveryPackageHasArrows(t *testing.T) {
	t.Parallel()
	root := os.DirFS("../../../..")
	rules, err := fs.ReadFile(root, ".golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range regexp.MustCompile(`"\*\*/([^"*]+)/\*\.go"`).FindAllSubmatch(rules, -1) {
		named = append(named, string(m[1]))
	}
	var packages []string
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		dir := path.Dir(name)
		_, noModule := fs.Stat(root, path.Join(name, "go.mod"))
		switch {
		case err != nil:
			return err
		case name == ".":
		case d.IsDir() && (name == "cmd" || name == "bench" || d.Name() == "testdata" || d.Name()[0] == '.' || noModule == nil):
			return fs.SkipDir
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !slices.Contains(packages, dir):
			packages = append(packages, dir)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(packages, "uploader/nftstorage") || !slices.Contains(packages, "internal/store") {
		t.Fatalf("packages were not found: %q", packages)
	}
	for _, dir := range packages {
		if !slices.Contains(named, dir) {
			t.Errorf("%s: no rule of .golangci.yml says what it may import", dir)
		}
	}
}

// Messages of the library are also for programs without a command line, so only
// this package may name flags.
func TestLibraryNamesNoFlags(t *testing.T) {
	t.Parallel()
	inText := regexp.MustCompile("[\"`][^\"`\n]*(^|[ \"(])--[a-z]")
	for _, room := range []string{"car", "chunker", "splitter", "uploader"} {
		err := filepath.WalkDir(filepath.Join("../../../..", room), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && (entry.Name() == "fleet" || entry.Name() == "targettest") {
				return fs.SkipDir // they run commands
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				code, _, _ := strings.Cut(line, "//")
				if inText.MatchString(code) && !strings.Contains(code, "Kubo --") { // Kubo's profiles are named after Kubo's flags
					t.Errorf("%s: %s", path, strings.TrimSpace(line))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
