//go:build unix

package chunker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

// onDisk makes a directory from names and contents. A name that ends in a slash
// is a directory, and content that begins with "-> " makes a symlink.
func onDisk(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		full := dir + "/" + name
		var err error
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(full, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(full), 0o755); err == nil {
			if target, ok := strings.CutPrefix(content, "-> "); ok {
				err = os.Symlink(target, full)
			} else {
				err = os.WriteFile(full, []byte(content), 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents reads a tree back from its blocks.
func contents(t *testing.T, d *chunker.DAG) map[string]string {
	t.Helper()
	blocks := map[cid.Cid][]byte{}
	for b := range d.Blocks() {
		blocks[b.Cid] = payload(t, b)
	}
	got := map[string]string{}
	var visit func(name string, c cid.Cid)
	visit = func(name string, c cid.Cid) {
		if c.Type() == cid.Raw {
			got[name] = string(blocks[c])
			return
		}
		nd, err := merkledag.DecodeProtobuf(blocks[c])
		if err != nil {
			t.Fatal(err)
		}
		fsn, err := unixfs.FSNodeFromBytes(nd.Data())
		if err != nil {
			t.Fatal(err)
		}
		switch fsn.Type() {
		case unixfs.TSymlink:
			got[name] = "-> " + string(fsn.Data())
		case unixfs.TDirectory:
			if len(nd.Links()) == 0 {
				got[name+"/"] = ""
			}
			for _, l := range nd.Links() {
				visit(strings.TrimPrefix(name+"/"+l.Name, "/"), l.Cid)
			}
		case unixfs.TFile:
			got[name] = string(fsn.Data())
			for _, l := range nd.Links() {
				got[name] += string(blocks[l.Cid])
			}
		default:
			t.Fatalf("%s is a %v", name, fsn.Type())
		}
	}
	visit("", d.Root())
	return got
}

func TestWalk(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 255)
	some := map[string]string{
		"a": "A", "b/c": "C", "b/d/e": "E", "empty/": "", "nothing/but/": "", ".hidden": "H", ".git/config": "G", "b/.x": "X",
		"link": "-> b/c", "dangling": "-> /no/such", "up": "-> ../..", "line\nbreak": "n", long: "l", "same": "A", "zero": "",
	}
	without := func(names ...string) map[string]string {
		m := map[string]string{}
		for name, content := range some {
			if !slices.Contains(names, name) && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.") {
				m[name] = content
			}
		}
		return m
	}
	noLinks := []string{"link", "dangling", "up"}
	for _, tt := range []struct {
		name string
		disk map[string]string
		opts chunker.Options
		want map[string]string
	}{
		{"default", some, chunker.Options{}, without()},
		{"hidden", some, chunker.Options{Hidden: true}, some},
		{"no empty directories", some, chunker.Options{NoEmptyDirs: true}, without("empty/", "nothing/but/")},
		{"nothing", map[string]string{}, chunker.Options{NoEmptyDirs: true}, map[string]string{"/": ""}},
		{
			"followed",
			map[string]string{"a/b": "B", "c": "-> a", "d": "-> a/b", "e/f": "-> ../c/b"},
			chunker.Options{Dereference: true},
			map[string]string{"a/b": "B", "c/b": "B", "d": "B", "e/f": "B"},
		},
		{"left out", some, chunker.Options{Patterns: []string{"*", "!/b", "!b/**", "d/", "!zero"}}, map[string]string{"b/c": "C", "zero": ""}},
		{"by name", some, chunker.Options{Patterns: append([]string{"c", "e", "n*", "line*", "same", "/empty"}, noLinks...)}, map[string]string{"a": "A", "b/d/": "", "zero": ""}},
		{
			"one match decides",
			map[string]string{"x.log": "1", "y.log": "2", "sub/x.log": "3"},
			chunker.Options{Patterns: []string{"*.log", "!x.log", "sub/x.log"}},
			map[string]string{"x.log": "1", "sub/": ""},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var files, read atomic.Int64
			tt.opts.Files, tt.opts.Read = &files, &read
			d, err := chunker.BuildTree(t.Context(), onDisk(t, tt.disk), tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, contents(t, d)); diff != "" {
				t.Error(diff)
			}
			checkList(t, d)
			var wantFiles, wantRead int64
			for name, content := range tt.want {
				if !strings.HasSuffix(name, "/") && !strings.HasPrefix(content, "-> ") {
					wantFiles++
					wantRead += int64(len(content))
				}
			}
			if files.Load() != wantFiles || read.Load() != wantRead || d.Size() != wantRead {
				t.Errorf("%d files of %d bytes, size %d, want %d of %d", files.Load(), read.Load(), d.Size(), wantFiles, wantRead)
			}
		})
	}
}

// TestWalkBigFiles mixes files of many sizes.
func TestWalkBigFiles(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	for i, size := range []int{0, 1, 4095, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5 << 20, 33 << 20} {
		want[fmt.Sprintf("d%d/f", i%3)+fmt.Sprint(size)] = string(random(size, uint64(i)))
	}
	dir := onDisk(t, want)
	for _, p := range []chunker.Profile{chunker.UnixFSv1(), chunker.UnixFSv0(), with(t, "unixfs-v1-2025", "buzhash")} {
		d, err := chunker.BuildTree(t.Context(), dir, chunker.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		checkList(t, d)
		tree := chunker.NewTree()
		for name, content := range want {
			if err := tree.AddFile(name, bytesSource(content), chunker.Stat{}); err != nil {
				t.Fatal(err)
			}
		}
		inMemory, err := tree.Build(t.Context(), chunker.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		if !d.Root().Equals(inMemory.Root()) {
			t.Errorf("%s: root %s from disk, %s from memory", p.Name, d.Root(), inMemory.Root())
		}
	}
}

func TestSpecialFilesAreSkipped(t *testing.T) {
	t.Parallel()
	dir := onDisk(t, map[string]string{"a": "A", "sub/b": "B"})
	if err := syscall.Mkfifo(filepath.Join(dir, "sub", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := chunker.BuildTree(t.Context(), dir, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []chunker.Skipped{{Path: filepath.Join(dir, "sock"), Reason: "a socket"}, {Path: filepath.Join(dir, "sub", "fifo"), Reason: "a FIFO"}}
	if diff := cmp.Diff(want, d.Skipped()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"a": "A", "sub/b": "B"}, contents(t, d)); diff != "" {
		t.Error(diff)
	}
}

func TestWalkErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		disk map[string]string
		opts chunker.Options
		want string
	}{
		{"loop", map[string]string{"a/b/loop": "-> ..", "a/x": ""}, chunker.Options{Dereference: true}, `a/b/loop" leads back to`},
		{"loop of one", map[string]string{"loop": "-> loop"}, chunker.Options{Dereference: true}, "too many levels of symbolic links"},
		{"dangling", map[string]string{"d": "-> nowhere"}, chunker.Options{Dereference: true}, "no such file"},
		{"not UTF-8", map[string]string{"sub/a\xffb": ""}, chunker.Options{}, `the name "a\xffb" in directory`},
		{"pattern", nil, chunker.Options{Patterns: []string{"[a"}}, `pattern "[a"`},
		{"profile", nil, chunker.Options{Profile: chunker.Profile{Name: "mine"}}, `profile "mine"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := chunker.BuildTree(t.Context(), onDisk(t, tt.disk), tt.opts)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want an error with %s", err, tt.want)
			}
		})
	}
	if _, err := chunker.BuildTree(t.Context(), filepath.Join(t.TempDir(), "no", "such"), chunker.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := chunker.BuildTree(t.Context(), os.DevNull, chunker.Options{}); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Error(err)
	}
}

func TestRawNames(t *testing.T) {
	t.Parallel()
	want := map[string]string{"a\xffb": "1", "\xfe/x": "2"}
	d, err := chunker.BuildTree(t.Context(), onDisk(t, want), chunker.Options{RawNames: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, contents(t, d)); diff != "" {
		t.Error(diff)
	}
}

func TestUnreadableFileIsNamed(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := onDisk(t, map[string]string{"sub/secret": "x"})
	name := filepath.Join(dir, "sub", "secret")
	if err := os.Chmod(name, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := chunker.BuildTree(t.Context(), dir, chunker.Options{}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), name) {
		t.Errorf("%v, want an error with %s", err, name)
	}
}

// TestTreeOfSeveral puts several files and directories on disk into one
// directory.
func TestTreeOfSeveral(t *testing.T) {
	t.Parallel()
	dir := onDisk(t, map[string]string{"one/a": "A", "one/b/c": "C", "two.txt": "2", "link": "-> one"})
	tree := chunker.NewTree()
	for path, name := range map[string]string{"one": "one", "deep/inside/2.txt": "two.txt", "link": "link"} {
		if err := tree.AddDisk(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	d, err := tree.Build(t.Context(), chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"one/a": "A", "one/b/c": "C", "deep/inside/2.txt": "2", "link/a": "A", "link/b/c": "C"}
	if diff := cmp.Diff(want, contents(t, d)); diff != "" {
		t.Error(diff)
	}
}

// TestTreeOfOneFile: the root is the file itself, without a directory.
func TestTreeOfOneFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(onDisk(t, map[string]string{"f": string(random(3<<20, 1))}), "f")
	d, err := chunker.BuildTree(t.Context(), name, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	src, err := chunker.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want, err := chunker.Build(t.Context(), src, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Root().Equals(want.Root()) || d.Len() != want.Len() {
		t.Errorf("root %s, want %s", d.Root(), want.Root())
	}
}

// TestWalkStat stores the modes and times found on disk.
func TestWalkStat(t *testing.T) {
	t.Parallel()
	dir := onDisk(t, map[string]string{"a": "A", "d/b": "B", "l": "-> a"})
	when := time.Unix(1_600_000_000, 123_456_789)
	tree := chunker.NewTree()
	add := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	add(os.Chmod(filepath.Join(dir, "a"), 0o4711|fs.ModeSetuid))
	for _, name := range []string{"a", "d/b", "d", ""} {
		add(os.Chtimes(filepath.Join(dir, name), when, when))
	}
	info, err := os.Lstat(filepath.Join(dir, "l"))
	add(err)
	mode := func(name string) chunker.Stat {
		info, err := os.Stat(filepath.Join(dir, name))
		add(err)
		return chunker.Stat{Mode: info.Mode(), ModTime: when}
	}
	add(tree.AddDir("", mode("")))
	add(tree.AddDir("d", mode("d")))
	add(tree.AddFile("a", bytesSource("A"), mode("a")))
	add(tree.AddFile("d/b", bytesSource("B"), mode("d/b")))
	add(tree.AddSymlink("l", "a", chunker.Stat{ModTime: info.ModTime()}))
	want, err := tree.Build(t.Context(), chunker.Options{})
	add(err)
	d, err := chunker.BuildTree(t.Context(), dir, chunker.Options{Mode: true, ModTime: true})
	add(err)
	if !d.Root().Equals(want.Root()) {
		t.Errorf("root %s from disk, %s from memory", d.Root(), want.Root())
	}
	checkList(t, d)
}

// TestTreeFileChanges: reading again yields what was described, or an error.
func TestTreeFileChanges(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(name string) error{
		"truncated": func(name string) error { return os.Truncate(name, 3) },
		"grown":     func(name string) error { return os.Truncate(name, 300) },
		"gone":      os.Remove,
		"a FIFO":    func(name string) error { return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600)) },
		"a directory": func(name string) error {
			return errors.Join(os.Remove(name), os.Mkdir(name, 0o700))
		},
		"edited": func(name string) error { return os.WriteFile(name, []byte("CONTENT"), 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := onDisk(t, map[string]string{"sub/f": "content"})
			d, err := chunker.BuildTree(t.Context(), dir, chunker.Options{})
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(dir, "sub", "f")
			if err := change(name); err != nil {
				t.Fatal(err)
			}
			var p car.Packer
			s := p.Open(t.Context(), car.NewArchive(d.Root(), d))
			defer s.Close()
			_, err = s.WriteTo(discard{})
			if !errors.Is(err, car.ErrSourceChanged) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want that %s changed", err, name)
			}
		})
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestTreeCancelled(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range 500 {
		files[fmt.Sprintf("d%d/f%d", i%50, i)] = "x"
	}
	dir := onDisk(t, files)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := chunker.BuildTree(ctx, dir, chunker.Options{}); !errors.Is(err, stop) {
		t.Errorf("%v, want %v", err, stop)
	}
	// Cancel halfway, when a source is opened.
	ctx, cancel = context.WithCancelCause(t.Context())
	tree := chunker.NewTree()
	if err := errors.Join(tree.AddDisk("disk", dir), tree.AddFile("f", cancels{bytesSource("x"), func() { cancel(stop) }}, chunker.Stat{})); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Build(ctx, chunker.Options{}); !errors.Is(err, stop) {
		t.Errorf("%v, want %v", err, stop)
	}
}

// cancels calls a function when it is opened.
type cancels struct {
	bytesSource
	do func()
}

func (c cancels) Open() (car.SourceFile, error) {
	c.do()
	return c.bytesSource.Open()
}

// Files that the system generates when they are read have no size.
func TestFilesWithoutSize(t *testing.T) {
	t.Parallel()
	const dir = "/proc/sys/kernel/random"
	if _, err := os.Stat(dir); err != nil {
		t.Skip(err)
	}
	trickle := chunker.UnixFSv1()
	trickle.Name, trickle.Layout = "trickle", chunker.Trickle
	byContent := chunker.UnixFSv1()
	byContent.Name, byContent.ChunkBytes, byContent.Chunker = "by content", 0, "buzhash"
	for _, p := range []chunker.Profile{chunker.UnixFSv1(), trickle, byContent} {
		opts := chunker.Options{Profile: p}
		if d, err := chunker.BuildTree(t.Context(), dir, opts); err == nil || !strings.Contains(err.Error(), "no size") {
			t.Errorf("%s, tree: %v, %v", p.Name, d, err)
		}
		src, err := chunker.OpenFile(filepath.Join(dir, "boot_id"))
		if err != nil {
			t.Fatal(err)
		}
		if d, err := chunker.Build(t.Context(), src, opts); err == nil || !strings.Contains(err.Error(), "no size") {
			t.Errorf("%s, file: %v, %v", p.Name, d, err)
		}
	}
}
