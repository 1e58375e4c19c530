package chunker_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

func TestTreeRefusals(t *testing.T) {
	t.Parallel()
	none := chunker.Stat{}
	for _, path := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "nul\x00"} {
		tree := chunker.NewTree()
		if err := tree.AddFile(path, bytesSource("x"), none); err == nil {
			t.Errorf("%q was taken as a path", path)
		}
	}
	file := func(path string) func(*chunker.Tree) error {
		return func(tree *chunker.Tree) error { return tree.AddFile(path, bytesSource("x"), none) }
	}
	dir := func(path string) func(*chunker.Tree) error {
		return func(tree *chunker.Tree) error { return tree.AddDir(path, none) }
	}
	many := func(more ...func(*chunker.Tree) error) []func(*chunker.Tree) error {
		for i := range 2000 {
			more = append(more, file("d/"+strconv.Itoa(i)))
		}
		return more
	}
	for name, tt := range map[string]struct {
		add  []func(*chunker.Tree) error
		want string
	}{
		"two files":            {[]func(*chunker.Tree) error{file("d/x"), file("d/x")}, `two entries of directory "d" are called "x"`},
		"file and directory":   {[]func(*chunker.Tree) error{file("d"), file("d/x")}, `two entries of directory "" are called "d"`},
		"directory and file":   {[]func(*chunker.Tree) error{dir("d"), file("d")}, `two entries of directory "" are called "d"`},
		"two in a HAMT":        {many(file("d/7")), `two entries of directory "d" are called "7"`},
		"not UTF-8":            {[]func(*chunker.Tree) error{file("d/\xff")}, `the name "\xff" in directory "d"`},
		"collision in a HAMT":  {many(file("d/ipfs-hamt-collision-name-0000001"), file("d/ipfs-00006562330ZZx-7-'FZd4YEQ];")), `"ipfs-00006562330ZZx-7-'FZd4YEQ];" and "ipfs-hamt-collision-name-0000001" have the same hash`},
		"collision, other way": {many(file("d/ipfs-00006562330ZZx-7-'FZd4YEQ];"), file("d/ipfs-hamt-collision-name-0000001")), `"ipfs-00006562330ZZx-7-'FZd4YEQ];" and "ipfs-hamt-collision-name-0000001" have the same hash`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := chunker.NewTree()
			for _, add := range tt.add {
				if err := add(tree); err != nil {
					t.Fatal(err)
				}
			}
			p := with(t, "storacha", "fanout-1024")
			if _, err := tree.Build(t.Context(), chunker.Options{Profile: p}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want an error with %s", err, tt.want)
			}
		})
	}
}

// AllEntries yields everything by name, a directory after what is in it, even
// if the links have another order.
func TestAllEntries(t *testing.T) {
	t.Parallel()
	for _, hamt := range []string{"hamt-never", "hamt-links-count:1"} {
		tree := chunker.NewTree()
		for _, path := range []string{"b/y", "b/x", "c", "a", "b/é/deep"} {
			if err := tree.AddFile(path, bytesSource(path), chunker.Stat{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.AddSymlink("b/link", "../c", chunker.Stat{}); err != nil {
			t.Fatal(err)
		}
		dag, err := tree.Build(t.Context(), chunker.Options{Profile: with(t, "unixfs-v1-2025", hamt)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range dag.AllEntries() {
			got = append(got, fmt.Sprint(e.Path, " ", e.Type, " ", e.Size, " ", e.Target))
			if e.Type == 0 {
				file, err := chunker.Build(t.Context(), bytesSource(e.Path), chunker.Options{})
				if err != nil || file.Root() != e.Cid {
					t.Errorf("%s is %s, by itself %v, %v", e.Path, e.Cid, file.Root(), err)
				}
			}
		}
		want := []string{
			"a ---------- 1 ", "b/link L--------- 0 ../c", "b/x ---------- 3 ", "b/y ---------- 3 ",
			"b/é/deep ---------- 9 ", "b/é d--------- 9 ", "b d--------- 15 ", "c ---------- 1 ",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", hamt, got, want)
		}
		for range dag.AllEntries() {
			break // the caller may stop
		}
	}
}

func TestFlatDirectoryTooBig(t *testing.T) {
	t.Parallel()
	tree := chunker.NewTree()
	for i := range 10_000 {
		if err := tree.AddFile(strings.Repeat("x", 200)+strconv.Itoa(i), bytesSource("x"), chunker.Stat{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := tree.Build(t.Context(), chunker.Options{Profile: with(t, "storacha", "hamt-never")})
	if err == nil || !strings.Contains(err.Error(), "10000 entries") {
		t.Error(err)
	}
}

// TestMemoryPerFile: describing a tree keeps at most 512 bytes for each file,
// including the list of blocks. CARLOAD_FILES sets the number of files.
func TestMemoryPerFile(t *testing.T) {
	n := 200_000
	if s := os.Getenv("CARLOAD_FILES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	d, err := chunker.BuildMadeUp(t.Context(), n, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	described := heap() - before
	blocks := d.Len()
	listed := heap() - before
	t.Logf("%d files, %d blocks: %d bytes a file described, %d with the list", n, blocks, described/int64(n), listed/int64(n))
	if listed > 512*int64(n) {
		t.Errorf("%d bytes a file", listed/int64(n))
	}
	if d.Size() < int64(n) {
		t.Errorf("%d bytes described", d.Size())
	}
	runtime.KeepAlive(d)
}

// changing is a file that changes when half of it has been read.
type changing struct {
	*chunker.FileSource
	at     int64
	change func() error
}

func (c *changing) Open() (car.SourceFile, error) {
	f, err := c.FileSource.Open()
	if err != nil {
		return nil, err
	}
	return changingFile{f.(*os.File), c}, nil
}

type changingFile struct {
	*os.File
	c *changing
}

func (f changingFile) ReadAt(p []byte, off int64) (int, error) {
	if off <= f.c.at && f.c.at < off+int64(len(p)) {
		if err := f.c.change(); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(p, off)
}

func TestSourceChangesWhileDescribed(t *testing.T) {
	t.Parallel()
	for _, p := range []chunker.Profile{chunker.UnixFSv1(), chunker.UnixFSv0(), with(t, "unixfs-v1-2025", "buzhash")} {
		for what, change := range map[string]func(name string) error{
			"truncated": func(name string) error { return os.Truncate(name, 2<<20) },
			"grown":     func(name string) error { return os.Truncate(name, 20<<20) },
			"edited": func(name string) error {
				f, err := os.OpenFile(name, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteAt([]byte("x"), 100)
				return errors.Join(err, f.Close())
			},
		} {
			t.Run(p.Name+"/"+what, func(t *testing.T) {
				t.Parallel()
				name := filepath.Join(t.TempDir(), "f")
				if err := os.WriteFile(name, random(10<<20, 1), 0o600); err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				// File systems have a coarse clock: the next change must be
				// later.
				old := info.ModTime().Add(-1e9)
				if err := os.Chtimes(name, old, old); err != nil {
					t.Fatal(err)
				}
				src, err := chunker.OpenFile(name)
				if err != nil {
					t.Fatal(err)
				}
				_, err = chunker.Build(t.Context(), &changing{src, 5 << 20, func() error { return change(name) }}, chunker.Options{Profile: p})
				if !errors.Is(err, car.ErrSourceChanged) || !strings.Contains(err.Error(), name) {
					t.Errorf("%v, want that %s changed", err, name)
				}
			})
		}
	}
}

// short is a source that reads at most a few bytes at a time.
type short struct {
	bytesSource
	step int
}

func (s short) Open() (car.SourceFile, error) { return nopCloser{shortAt(s)}, nil }

type shortAt short

// ReadAt keeps the contract of io.ReaderAt: if it reads fewer bytes than asked
// for, it returns an error.
func (s shortAt) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		if off+int64(n) >= int64(len(s.bytesSource)) {
			return n, io.EOF
		}
		n += copy(p[n:min(n+s.step, len(p))], s.bytesSource[off+int64(n):])
	}
	return n, nil
}

// endsEarly is a source that is one byte shorter than it says.
type endsEarly struct{ bytesSource }

func (s endsEarly) Size() int64 { return s.bytesSource.Size() + 1 }

// TestSmallFilesInTurn: builds of small files use the same memory one after the
// other. What one of them read, or could not read, does not get into the next.
func TestSmallFilesInTurn(t *testing.T) {
	t.Parallel()
	for i, size := range []int{1, 100, 70_000, 262_000, 256 << 10, 1<<20 - 1, 3} {
		for worker := range 4 {
			data := bytesSource(random(size, uint64(4*i+worker)))
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for range 10 {
					if _, err := chunker.Build(t.Context(), endsEarly{data}, chunker.Options{}); !errors.Is(err, car.ErrSourceChanged) {
						t.Fatalf("%d bytes that end early: %v", size, err)
					}
					d, err := chunker.Build(t.Context(), data, chunker.Options{})
					if err != nil {
						t.Fatal(err)
					}
					if want := sha256.Sum256(data); !bytes.Equal(d.Root().Hash()[2:], want[:]) {
						t.Fatalf("%d bytes: root %s, want the digest %x", size, d.Root(), want)
					}
				}
			})
		}
	}
}

func TestReadSteps(t *testing.T) {
	t.Parallel()
	for _, spec := range []string{"size-100", "rabin-16-64-200"} {
		p := with(t, "unixfs-v0-2015", spec, "width-3")
		for _, size := range []int{0, 1, 99, 100, 101, 300, 301, 900, 901, 12345} {
			data := bytesSource(random(size, uint64(size)))
			want, err := chunker.Build(t.Context(), data, chunker.Options{Profile: p, Workers: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range []int{1, 7, 64, 100, 4096} {
				for _, workers := range []int{1, 2, 5} {
					d, err := chunker.Build(t.Context(), short{data, step}, chunker.Options{Profile: p, Workers: workers})
					if err != nil {
						t.Fatal(err)
					}
					if !d.Root().Equals(want.Root()) {
						t.Errorf("%s, %d bytes, %d at a time, %d workers: root %s, want %s", spec, size, step, workers, d.Root(), want.Root())
					}
				}
			}
		}
	}
}
