//go:build unix

package chunker_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/links"
)

// One build reports every entry that cannot be taken. With SkipRefused the root
// is that of a tree without them.
func TestRefused(t *testing.T) {
	t.Parallel()
	dir, clean := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, clean} {
		for _, name := range []string{"a", "sub/b", "sub/deep/c", "z"} {
			path := filepath.Join(d, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(name), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad := map[string]func(path string) error{
		"name\xff":         func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"sub/nowhere":      func(p string) error { return os.Symlink("nothing", p) },
		"sub/loop":         func(p string) error { return os.Symlink("loop", p) },
		"sub/deep/back":    func(p string) error { return os.Symlink("..", p) },
		"sub/deep/version": func(p string) error { return os.Symlink("/proc/version", p) },
		"sub/size":         func(p string) error { return os.Symlink("/sys/kernel/mm/transparent_hugepage/enabled", p) },
	}
	special := map[string]func(path string) error{
		"sub/fifo": func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"null":     func(p string) error { return os.Symlink("/dev/null", p) },
	}
	want := map[string]bool{}
	for _, entries := range []map[string]func(string) error{bad, special} {
		for name, make := range entries {
			path := filepath.Join(dir, name)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			if to, err := os.Readlink(path); err == nil && strings.HasPrefix(to, "/sys/") {
				if info, err := os.Stat(to); err != nil || info.Size() != 4096 {
					_ = os.Remove(path) // this system has no such file
					continue
				}
			}
			want[path] = true
		}
	}
	var met []string
	opts := chunker.Options{Dereference: true, Refused: func(r chunker.Refusal) {
		met = append(met, r.Path)
		if r.Special != (special[strings.TrimPrefix(r.Path, dir+"/")] != nil) {
			t.Errorf("%+v", r)
		}
		if errors.Is(r.Err, car.ErrSourceChanged) {
			t.Errorf("%s: running it again will not help: %v", r.Path, r.Err)
		}
	}}
	check := func() {
		t.Helper()
		slices.Sort(met)
		if len(slices.Compact(slices.Clone(met))) != len(want) || len(met) != len(want) {
			t.Errorf("met %q, want %d entries", met, len(want))
		}
		for _, path := range met {
			if !want[path] {
				t.Errorf("%s was refused", path)
			}
		}
		met = nil
	}
	if _, err := chunker.BuildTree(t.Context(), dir, opts); !errors.Is(err, chunker.ErrRefused) {
		t.Errorf("without SkipRefused: %v", err)
	}
	check()
	opts.SkipRefused = true
	dag, err := chunker.BuildTree(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	check()
	wholly, err := chunker.BuildTree(t.Context(), clean, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if dag.Root() != wholly.Root() || dag.Refused() != int64(len(want)-len(special)) {
		t.Errorf("root %s without %d entries, want %s", dag.Root(), dag.Refused(), wholly.Root())
	}
}

// A directory that cannot be listed is left out with everything in it, as is
// one whose name is refused. The top of the tree never is.
func TestRefusedDirectories(t *testing.T) {
	t.Parallel()
	tree := chunker.NewTree()
	for _, path := range []string{"a", "gone", "d\xff/x", "d/y"} {
		name := filepath.Join(t.TempDir(), "f")
		if path != "gone" {
			if err := os.WriteFile(name, []byte(path), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.AddDisk(path, name); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	opts := chunker.Options{SkipRefused: true, Refused: func(chunker.Refusal) { refused++ }}
	dag, err := tree.Build(t.Context(), opts)
	if err != nil || refused != 2 || dag.Refused() != 2 || dag.Size() != int64(len("a")+len("d/y")) {
		t.Errorf("%v, %d refused, %+v", err, refused, dag)
	}
	if _, err := chunker.BuildTree(t.Context(), filepath.Join(t.TempDir(), "nothing"), opts); err == nil || errors.Is(err, chunker.ErrRefused) {
		t.Errorf("a tree that is not there: %v", err)
	}
}

// The programs of two profiles change these names, and for those profiles so do
// we. internal/interop compares with the programs themselves.
func TestRenamed(t *testing.T) {
	t.Parallel()
	for _, row := range [][2][]string{
		{{"a.txt", "a b", "d/ a", "d /a", "a\u200b", "a\u0085", "a^b"}, nil},
		{{"a.txt "}, {"a.txt"}},
		{{" a.txt"}, {"a.txt"}},
		{{"a\t"}, {"a"}},
		{{"a\r"}, {"a"}},
		{{"\u3000a"}, {"a"}},
		{{"a\ufeff"}, {"a"}},
		{{"a\u00a0\n"}, {"a"}},
		{{"d/a "}, {"d/a"}},
		{{" d/ a"}, {"d/ a"}},
		{{"d / a "}, {"d / a"}},
		{{`a\b`}, {"a/b"}},
		{{`\a`}, {"a"}},
		{{`a\`}, {"a"}},
		{{`a\\b`}, {"a/b"}},
		{{`d\d/a`}, {"d/d/a"}},
		{{`a\b`, `a\c`, "a/d", `a\x\y`}, {"a/b", "a/c", "a/d", "a/x/y"}},
		{{" /f", " /g/ i", "h"}, {"f", "g/ i", "h"}},
		{{" d/a", "d/b", `d\c`}, {"d/a", "d/b", "d/c"}},
		{{`x\y/z/w `, `x\y/v`, "x/u"}, {"x/y/z/w", "x/y/v", "x/u"}},
	} {
		in, want := row[0], row[1]
		if want == nil {
			want = in
		}
		files := func(names []string) string {
			dir := t.TempDir()
			for i, name := range names {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(strings.Repeat(strconv.Itoa(i), 300_000)), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		}
		from, to := files(in), files(want)
		for _, profile := range []string{"nft.storage", "nft.storage+width-100", "web3.storage", "ipfs-car", "unixfs-v1-2025"} {
			p, err := chunker.ProfileNamed(profile)
			if err != nil {
				t.Fatal(err)
			}
			got, err := chunker.BuildTree(t.Context(), from, chunker.Options{Profile: p})
			if err != nil {
				t.Fatalf("%s, %q: %v", profile, in, err)
			}
			expected := to
			if profile == "ipfs-car" || profile == "unixfs-v1-2025" {
				expected = from
			}
			same, err := chunker.BuildTree(t.Context(), expected, chunker.Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			if got.Root() != same.Root() || got.Size() != same.Size() || got.TotalSize() != same.TotalSize() {
				t.Errorf("%s: %q are not as %q", profile, in, want)
			}
			checkList(t, got) // and its blocks can be read again from disk
			tree := chunker.NewTree()
			for _, name := range in {
				if err := tree.AddDisk(name, filepath.Join(from, name)); err != nil {
					t.Fatal(err)
				}
			}
			if put, err := tree.Build(t.Context(), chunker.Options{Profile: p}); err != nil || put.Root() != same.Root() {
				t.Errorf("%s: %q put together: %v", profile, in, err)
			}
		}
	}
}

// Names that the programs drop, and names that become equal, are errors that
// say which.
func TestRenamedToNothing(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		names []string
		says  []string
	}{
		{[]string{" "}, []string{`" "`}},
		{[]string{`\`}, []string{`\\`}},
		{[]string{"d/ "}, []string{`" "`, `/d"`}},
		{[]string{`d\/a`}, []string{`d\\`}},
		{[]string{`a\..\b`}, []string{`a\\..\\b`}},
		{[]string{"a", "a "}, []string{`/a"`, `/a "`}},
		{[]string{`a\b`, "a/b"}, []string{`a\\b"`, `a/b"`}},
		{[]string{`a\b`, "a"}, []string{`a"`}},
	} {
		dir := t.TempDir()
		for _, name := range row.names {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		p, err := chunker.ProfileNamed("nft.storage")
		if err != nil {
			t.Fatal(err)
		}
		_, err = chunker.BuildTree(t.Context(), dir, chunker.Options{Profile: p})
		if err == nil || len(row.names) == 1 && !errors.Is(err, chunker.ErrRenamed) {
			t.Errorf("%q: %v", row.names, err)
			continue
		}
		for _, want := range row.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: no %s in %v", row.names, want, err)
			}
		}
	}
}

// What could not be retrieved is reported before anything is sent: a DAG that
// is too deep, and a file whose path is too long to open again.
func TestTooDeep(t *testing.T) {
	t.Parallel()
	for depth, ok := range map[int]bool{links.MaxDepth - 1: true, links.MaxDepth: false, 3 * links.MaxDepth: false} {
		tree := chunker.NewTree()
		if err := tree.AddFile(strings.Repeat("d/", depth)+"f", bytesSource("x"), chunker.Stat{}); err != nil {
			t.Fatal(err)
		}
		dag, err := tree.Build(t.Context(), chunker.Options{})
		if (err == nil) != ok || !ok && !errors.Is(err, car.ErrTooDeep) {
			t.Errorf("%d directories: %v", depth, err)
		}
		if ok && dag.At(dag.Len()-1).Depth != links.MaxDepth {
			t.Errorf("%d directories are %d links deep", depth, dag.At(dag.Len()-1).Depth)
		}
	}
}

func TestLongPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := strings.Repeat("n", 200)
	at, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	long := 0
	for range 30 { // 6,000 bytes
		if err := at.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := at.OpenRoot(name)
		_ = at.Close()
		if err != nil {
			t.Fatal(err)
		}
		at = next
		if long += len(name) + 1; long > 3000 {
			f, err := at.Create("f")
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	_ = at.Close()
	var refused []string
	opts := chunker.Options{SkipRefused: true, Refused: func(r chunker.Refusal) {
		if !errors.Is(r.Err, syscall.ENAMETOOLONG) {
			t.Error(r.Err)
		}
		refused = append(refused, r.Path)
	}}
	dag, err := chunker.BuildTree(t.Context(), dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(refused) == 0 || len(refused) >= 16 {
		t.Errorf("%d files were refused", len(refused))
	}
	for _, path := range refused {
		if len(path) < 4096 {
			t.Errorf("a path of %d bytes was refused", len(path))
		}
	}
	if err := dag.Changed(t.Context()); err != nil { // opens all the others
		t.Error(err)
	}
	if _, err := chunker.BuildTree(t.Context(), dir, chunker.Options{}); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("without SkipRefused: %v", err)
	}
}

// A file that changes after it was described is found, whatever its
// modification time.
func TestChanged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"grown": func(p string) error { return os.WriteFile(p, []byte("some more bytes"), 0o600) },
		"gone":  os.Remove,
		"replaced": func(p string) error {
			return errors.Join(os.WriteFile(p+"2", []byte("other bytes"), 0o600), os.Rename(p+"2", p))
		},
		"set back": func(p string) error {
			old := time.Unix(1_000_000_000, 0)
			return errors.Join(os.WriteFile(p, []byte("other bytes"), 0o600), os.Chtimes(p, old, old))
		},
		"a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"nothing":     func(string) error { return nil },
		"touched":     func(p string) error { return os.Chtimes(p, time.Time{}, time.Now().Add(time.Hour)) },
		"the same":    func(p string) error { return os.WriteFile(p, []byte("these bytes"), 0o600) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("these bytes"), 0o600); err != nil {
			t.Fatal(err)
		}
		tree, err := chunker.BuildTree(t.Context(), dir, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		src, err := chunker.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := chunker.Build(t.Context(), src, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		// The clock of a file system ticks some hundred times a second.
		for at := time.Now(); ; {
			probe := filepath.Join(t.TempDir(), "probe")
			if err := os.WriteFile(probe, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(probe); err != nil || info.ModTime().After(at) {
				break
			}
		}
		if err := change(path); err != nil {
			t.Fatal(err)
		}
		for what, dag := range map[string]*chunker.DAG{"tree": tree, "file": file} {
			if err := dag.Changed(t.Context()); errors.Is(err, car.ErrSourceChanged) != (name != "nothing" && name != "touched" && name != "the same") || err != nil && !errors.Is(err, car.ErrSourceChanged) {
				t.Errorf("%s of a %s: %v", name, what, err)
			}
		}
	}
}
