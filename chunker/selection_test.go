package chunker_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carload/carload/chunker"
)

// plant makes a directory of files. Names that end in a slash are directories.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		at := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			at = path
		}
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if at != path {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// taken returns the files of a tree, and how many entries were left out.
func taken(t *testing.T, dir string, opts chunker.Options) ([]string, int64) {
	t.Helper()
	dag := buildDisk(t, dir, opts)
	var got []string
	for e := range dag.AllEntries() {
		if e.Type == 0 {
			got = append(got, e.Path)
		}
	}
	slices.Sort(got)
	return got, dag.Filtered()
}

func buildDisk(t *testing.T, dir string, opts chunker.Options) *chunker.DAG {
	t.Helper()
	tree := chunker.NewTree()
	if err := tree.AddDisk("", dir); err != nil {
		t.Fatal(err)
	}
	dag, err := tree.Build(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return dag
}

// Build and Explain agree about every entry.
func TestSelection(t *testing.T) {
	t.Parallel()
	const ignore = ".carloadignore"
	now := time.Now()
	dir := plant(t, map[string]string{
		ignore:               "*.log\n/top\n# no\n\nbuild/\nspaced\\ \nx{1}\n",
		"a.log":              "1",
		"top":                "1",
		"keep":               "12345",
		"spaced ":            "1",
		"x{1}":               "1",
		"x1":                 "1",
		"sub/" + ignore:      "!a.log\n/deep/*\n!/deep/kept\n",
		"sub/a.log":          "1",
		"sub/b.log":          "1",
		"sub/top":            "1",
		"sub/deep/kept":      "1",
		"sub/deep/lost":      "1",
		"sub/deep/more/lost": "1",
		"build/out":          "1",
		"other/build/out":    "1",
		"other/deep/lost":    "1",
		"other/old":          "1",
	})
	old := now.Add(-48 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "other/old"), old, old); err != nil {
		t.Fatal(err)
	}
	all := []string{"keep", "other/deep/lost", "other/old", "sub/a.log", "sub/deep/kept", "sub/top", "x1"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(n string) bool { return slices.Contains(names, n) })
	}
	for _, tt := range []struct {
		name     string
		opts     chunker.Options
		want     []string
		filtered int64
	}{
		{"ignore files", chunker.Options{IgnoreFile: ignore}, all, 11},
		{"no pattern takes in what they leave out", chunker.Options{IgnoreFile: ignore, Patterns: []string{"top", "!a.log"}}, without("sub/top"), 12},
		{"at least", chunker.Options{IgnoreFile: ignore, MinSize: 5}, []string{"keep"}, 17},
		{"at most", chunker.Options{IgnoreFile: ignore, MaxSize: 4}, without("keep"), 12},
		{"exactly", chunker.Options{IgnoreFile: ignore, MinSize: 5, MaxSize: 5}, []string{"keep"}, 17},
		{"new", chunker.Options{IgnoreFile: ignore, ModifiedFrom: now.Add(-24 * time.Hour)}, without("other/old"), 12},
		{"old", chunker.Options{IgnoreFile: ignore, ModifiedUntil: now.Add(-24 * time.Hour)}, []string{"other/old"}, 17},
		{"one file system", chunker.Options{IgnoreFile: ignore, OneFileSystem: true}, all, 11},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, filtered := taken(t, dir, tt.opts)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if filtered != tt.filtered {
				t.Errorf("%d entries left out, not %d", filtered, tt.filtered)
			}
			agrees(t, dir, tt.opts, got)
		})
	}
}

// agrees asks Explain about every file.
func agrees(t *testing.T, dir string, opts chunker.Options, taken []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		d, err := opts.Explain(dir, rel)
		if err != nil {
			return err
		}
		if d.Taken != slices.Contains(taken, rel) {
			t.Errorf("%s: explained as %+v", rel, d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	dir := plant(t, map[string]string{"ignore": "x\nlogs/\n!important\n", "logs/a": "", "x": "", "important": "", ".h": "", "a": ""})
	opts := chunker.Options{IgnoreFile: "ignore", Patterns: []string{"*.tmp", "!a"}}
	file := filepath.Join(dir, "ignore")
	for name, want := range map[string]chunker.Decision{
		"a":         {Path: filepath.Join(dir, "a"), Taken: true, Kind: chunker.RulePattern, Pattern: "!a", Line: 1},
		"ignore":    {Path: file, Taken: true},
		"important": {Path: filepath.Join(dir, "important"), Taken: true, Kind: chunker.RuleIgnoreFile, Pattern: "!important", File: file, Line: 3},
		"logs/a":    {Path: filepath.Join(dir, "logs"), Kind: chunker.RuleIgnoreFile, Pattern: "logs/", File: file, Line: 2},
		".h":        {Path: filepath.Join(dir, ".h"), Kind: chunker.RuleHidden, Why: "its name begins with a dot"},
		"":          {Path: dir, Taken: true},
	} {
		got, err := opts.Explain(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", name, diff)
		}
	}
	if _, err := opts.Explain(dir, "gone"); !os.IsNotExist(err) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestOneFileSystem(t *testing.T) {
	t.Parallel()
	const top, below = "/dev", "shm"
	opts := chunker.Options{OneFileSystem: true, Patterns: []string{"*", "!/" + below}}
	d, err := opts.Explain(top, below)
	if err != nil || d.Taken && d.Kind == chunker.RulePattern {
		t.Skipf("no file system that is known is at /dev/shm: %+v, %v", d, err)
	}
	if d.Kind != chunker.RuleFileSystem || d.Path != "/dev/shm" {
		t.Errorf("explained as %+v", d)
	}
	for e := range buildDisk(t, top, opts).AllEntries() {
		t.Errorf("%s was taken", e.Path)
	}
	opts.OneFileSystem = false
	if d, err := opts.Explain(top, below); err != nil || !d.Taken {
		t.Errorf("without the limit: %+v, %v", d, err)
	}
}

// An invalid ignore file is not the same as none: it might keep secrets from
// being sent.
func TestUnreadableIgnoreFile(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"pattern":   {"ignore": "ok\n[a\n"},
		"directory": {"ignore/": ""},
		"size":      {"ignore": strings.Repeat("name\n", 1<<18)},
	} {
		tree := chunker.NewTree()
		if err := tree.AddDisk("", plant(t, files)); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Build(t.Context(), chunker.Options{IgnoreFile: "ignore"}); err == nil || !strings.Contains(err.Error(), "ignore") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Random .gitignore files leave out what Git leaves out.
func TestGitAgrees(t *testing.T) {
	t.Parallel()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("there is no git")
	}
	names := []string{"a", "b", "ab", "c.log", "d"}
	parts := []string{"a", "b", "ab", "*", "**", "?", "[ab]", "[!a]", "*.log", "a*", "**b", "c.*", "d", `\a`, "a ", "{a,b}"}
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
	pick := func(of []string) string { return of[rnd.IntN(len(of))] }
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		files := map[string]string{}
		for range 25 {
			var at []string
			for range 1 + rnd.IntN(4) {
				at = append(at, pick(names))
			}
			files[strings.Join(at, "/")+".f"] = ""
			files[strings.Join(at, "/")+"_/"+pick(names)] = ""
			if len(at) > 1 {
				files[strings.Join(at[:len(at)-1], "/")+"_/"+at[len(at)-1]] = ""
			}
		}
		for _, dir := range []string{"", pick(names) + "/", pick(names) + "_/"} {
			var text strings.Builder
			for range 1 + rnd.IntN(4) {
				p := pick(parts)
				for range rnd.IntN(3) {
					p += "/" + pick(parts)
				}
				p = pick([]string{"", "", "", "/"}) + p + pick([]string{"", "", "", "/", "_", "_/", ".f", "/**"})
				fmt.Fprintf(&text, "%s%s\n", pick([]string{"", "", "!"}), p)
			}
			files[dir+".gitignore"] = text.String()
		}
		dir := plant(t, files)
		list := exec.CommandContext(t.Context(), git, "-c", "core.excludesFile=", "ls-files", "-z", "--others", "--exclude-standard")
		init := exec.CommandContext(t.Context(), git, "init", "-q")
		for _, c := range []*exec.Cmd{init, list} {
			c.Dir = dir
			c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull)
		}
		if out, err := init.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		want := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
		slices.Sort(want)
		opts := chunker.Options{Hidden: true, IgnoreFile: ".gitignore", Patterns: []string{"/.git"}}
		got, _ := taken(t, dir, opts)
		if !slices.Equal(want, got) {
			for name, text := range files {
				if filepath.Base(name) == ".gitignore" {
					t.Logf("%s:\n%s", name, text)
				}
			}
			t.Fatalf("seed %d, Git (-) and we (+): %s", seed, cmp.Diff(want, got))
		}
	}
}
