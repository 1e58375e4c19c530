package unpack_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

var someTree = tree{
	"a.txt":          "hello world",
	"empty":          "",
	"big":            mod251(70_000),
	"dir/b":          mod251(1025),
	"dir/deep/c":     mod251(1024),
	"dir/deep/again": mod251(70_000),
	"zeros":          string(make([]byte, 20_000)),
	"nothing/":       "",
	"link":           "-> ../outside",
	"good link":      "-> dir/b",
	"-dash":          "1",
	"new\nline":      "2",
	"ünï ☃":          "3",
}

func recipes() []recipe {
	var out []recipe
	for _, fanout := range []int{0, 8, 256} {
		for _, tr := range []bool{false, true} {
			out = append(
				out,
				recipe{cidVersion: 0, chunk: 1024, width: 4, trickle: tr, fanout: fanout},
				recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 3, trickle: tr, fanout: fanout},
				recipe{cidVersion: 0, rawLeaves: true, chunk: 1000, width: 174, trickle: tr, fanout: fanout},
				recipe{cidVersion: 1, chunk: 262144, width: 2, trickle: tr, fanout: fanout},
			)
		}
	}
	return out
}

func TestRestore(t *testing.T) {
	t.Parallel()
	for _, r := range recipes() {
		t.Run(r.String(), func(t *testing.T) {
			t.Parallel()
			blocks := r.build(t, someTree)
			limit := int64(8000)
			if r.chunk > limit {
				limit = 80_000
			}
			if r.width > 100 {
				limit = 14_000
			}
			x := index(t, shards(t, blocks, limit)...)
			dir := filepath.Join(t.TempDir(), "made", "on the way")
			done, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(someTree.full(), readTree(t, dir)); diff != "" {
				t.Error(diff)
			}
			want := unpack.Restored{Files: 10, Dirs: 3, Symlinks: 2}
			for _, c := range someTree {
				if !strings.HasPrefix(c, "-> ") {
					want.Bytes += int64(len(c))
				}
			}
			if done != want {
				t.Errorf("%+v, want %+v", done, want)
			}
		})
	}
}

// What is packed and unpacked stays the same.
func TestRestoreProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := recipe{
			cidVersion: rapid.IntRange(0, 1).Draw(t, "version"),
			rawLeaves:  rapid.Bool().Draw(t, "raw"),
			chunk:      rapid.Int64Range(1, 300).Draw(t, "chunk"),
			width:      rapid.IntRange(2, 6).Draw(t, "width"),
			trickle:    rapid.Bool().Draw(t, "trickle"),
			fanout:     rapid.SampledFrom([]int{0, 8, 16, 256, 1024}).Draw(t, "fanout"),
		}
		tr := drawTree(t)
		blocks := r.build(t, tr)
		largest := int64(0)
		for _, b := range blocks {
			largest = max(largest, b.SectionSize())
		}
		limit := 200 + largest*rapid.Int64Range(12, 40).Draw(t, "limit")
		x := index(t, shards(t, blocks, limit)...)

		dir := scratch(t)
		if _, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tr.full(), readTree(t, dir)); diff != "" {
			t.Fatal(diff)
		}

		listed := tree{}
		for e, err := range unpack.List(ctx, x, blocks[0].Cid) {
			if err != nil {
				t.Fatal(err)
			}
			switch e.Type {
			case unixfs.Directory:
				if e.Path != "" {
					listed[e.Path+"/"] = ""
				}
			case unixfs.Symlink:
				listed[e.Path] = "-> " + e.Target
			default:
				listed[e.Path] = fmt.Sprint(e.Size)
			}
		}
		want := tree{}
		for p, c := range tr.full() {
			if !strings.HasSuffix(p, "/") && !strings.HasPrefix(c, "-> ") {
				c = fmt.Sprint(len(c))
			}
			want[p] = c
		}
		if diff := cmp.Diff(want, listed); diff != "" {
			t.Fatal(diff)
		}
		v, err := unpack.VerifyIndex(ctx, x, blocks[0].Cid, unpack.VerifyOptions{Workers: 2})
		if err != nil || v.Count != 0 || v.Blocks != int64(len(blocks)) {
			t.Fatalf("verified %+v, %v, want %d blocks", v, err, len(blocks))
		}
	})
}

// scratch is a directory for one run of a property.
func scratch(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "carload-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func drawTree(t *rapid.T) tree {
	name := rapid.StringMatching(`[a-c]{1,2}|[^/\x00]{1,8}`).Filter(func(s string) bool { return s != "." && s != ".." && len(s) < 200 })
	tr := tree{}
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		path := strings.Join(rapid.SliceOfN(name, 1, 3).Draw(t, "path"), "/")
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			path += "/"
		case 1:
			tr[path] = "-> " + rapid.StringMatching(`(\.\./)?[a-c]{1,2}(/[a-c])?`).Draw(t, "target")
			continue
		}
		tr[path] = mod251(rapid.IntRange(0, 2000).Draw(t, "size"))
	}
	return tr.proper()
}

// proper removes impossible entries: those below something that is not a
// directory.
func (tr tree) proper() tree {
	out := tree{}
	for _, p := range sortedKeys(tr) {
		ok := true
		clean := strings.TrimSuffix(p, "/")
		for q := range tr {
			if q == clean && q != p || strings.HasPrefix(clean, q+"/") {
				ok = false
			}
		}
		if strings.HasSuffix(p, "/") {
			out[p] = ""
			if ok {
				continue
			}
			delete(out, p)
		} else if ok {
			out[p] = tr[p]
		}
	}
	return out
}

func TestRestoreSingle(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	for _, size := range []int{0, 1, 1024, 5000} {
		blocks := r.build(t, tree{"f": mod251(size)})
		file := blocks[1].Cid
		x := indexOf(t, blocks)
		dir := t.TempDir()
		if _, err := unpack.Restore(ctx, x, file, dir, unpack.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := unpack.Restore(ctx, x, file, dir, unpack.Options{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		want := tree{file.String(): mod251(size), "x": mod251(size)}
		if diff := cmp.Diff(want, readTree(t, dir)); diff != "" {
			t.Error(diff)
		}
		for _, name := range []string{"..", "a/b", "/x", "."} {
			if _, err := unpack.Restore(ctx, x, file, dir, unpack.Options{Name: name}); err == nil {
				t.Errorf("name %q is taken", name)
			}
		}
		var w strings.Builder
		if n, err := unpack.WriteFile(ctx, x, file, &w, unpack.Options{}); err != nil || n != int64(size) || w.String() != mod251(size) {
			t.Errorf("%d bytes written, %v", n, err)
		}
	}
}

func TestRestoreAttributes(t *testing.T) {
	t.Parallel()
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	r := recipe{cidVersion: 1, chunk: 1024, width: 4, mode: 0o750 | fs.ModeSetuid, mtime: when}
	for _, fanout := range []int{0, 16} {
		r.fanout = fanout
		blocks := r.build(t, tree{"d/f": mod251(5000), "d/g": "x"})
		dir := t.TempDir()
		if _, err := unpack.Restore(ctx, indexOf(t, blocks), blocks[0].Cid, dir, unpack.Options{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"d", "d/f", "d/g", "."} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode()&^fs.ModeDir != 0o750 || !info.ModTime().Equal(when) {
				t.Errorf("%s has mode %v and time %v", name, info.Mode(), info.ModTime())
			}
		}
	}
}

func TestRestoreOverExisting(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	tr := tree{"d/f": "new", "d/l": "-> f", "other": "new"}
	blocks := r.build(t, tr)
	x := indexOf(t, blocks)
	setUp := func(t *testing.T, do func(dir string) error) string {
		dir := t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o777), do(dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	outside := t.TempDir()
	for name, row := range map[string]struct {
		do    func(dir string) error
		force bool
		fails bool
	}{
		"file":              {func(d string) error { return os.WriteFile(d+"/d/f", []byte("old"), 0o600) }, false, true},
		"file, force":       {func(d string) error { return os.WriteFile(d+"/d/f", []byte("old"), 0o600) }, true, false},
		"symlink":           {func(d string) error { return os.Symlink(outside+"/x", d+"/d/f") }, false, true},
		"symlink, force":    {func(d string) error { return os.Symlink(outside+"/x", d+"/d/f") }, true, false},
		"old link":          {func(d string) error { return os.Symlink("g", d+"/d/l") }, false, true},
		"old link, force":   {func(d string) error { return os.Symlink("g", d+"/d/l") }, true, false},
		"directory":         {func(d string) error { return os.Mkdir(d+"/d/f", 0o777) }, false, true},
		"directory, force":  {func(d string) error { return os.Mkdir(d+"/d/f", 0o777) }, true, true},
		"dir behind a link": {func(d string) error { return errors.Join(os.Remove(d+"/d"), os.Symlink(outside, d+"/d")) }, true, true},
		"dir within":        {func(d string) error { return errors.Join(os.Rename(d+"/d", d+"/e"), os.Symlink("e", d+"/d")) }, true, true},
		"nothing":           {func(string) error { return nil }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := setUp(t, row.do)
			before := readTree(t, dir)
			_, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{Force: row.force})
			if (err != nil) != row.fails {
				t.Fatalf("error %v", err)
			}
			after := readTree(t, dir)
			if !row.fails {
				if diff := cmp.Diff(tr.full(), after); diff != "" {
					t.Error(diff)
				}
				return
			}
			for p, c := range before {
				if after[p] != c {
					t.Errorf("%q was %q and is %q", p, c, after[p])
				}
			}
			for p := range after {
				if strings.Contains(p, ".carload-") {
					t.Errorf("%q is left behind", p)
				}
			}
		})
	}
	t.Cleanup(func() {
		if left := readTree(t, outside); len(left) > 0 {
			t.Errorf("written outside: %v", left)
		}
	})
}

// without makes an index that lacks some blocks.
func without(t *testing.T, blocks car.Blocks, gone ...cid.Cid) *car.Index {
	t.Helper()
	var left car.Blocks
	for _, b := range blocks {
		keep := true
		for _, c := range gone {
			keep = keep && b.Cid != c
		}
		if keep {
			left = append(left, b)
		}
	}
	a := car.NewArchive(blocks[0].Cid, left)
	var p car.Packer
	s := p.Open(ctx, a)
	defer s.Close()
	var data strings.Builder
	if _, err := s.WriteTo(&data); err != nil {
		t.Fatal(err)
	}
	return index(t, &memory{"x.car", []byte(data.String())})
}

func TestRestoreNamesMissingBlocks(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	content := mod251(20_000)
	blocks := r.build(t, tree{"d/f": content, "d/g": "good", "h": "good too"})
	// Blocks: root, d, f, four levels of inner nodes, and leaves.
	var leaves []cid.Cid
	var inner cid.Cid
	for _, b := range blocks {
		if b.Cid.Prefix().Codec == cid.Raw && b.Size() == 1024 {
			leaves = append(leaves, b.Cid)
		} else if b.Depth == 3 && !inner.Defined() {
			inner = b.Cid
		}
	}
	for name, row := range map[string]struct {
		gone     cid.Cid
		from, to int64
	}{
		"first leaf":  {leaves[0], 0, 1024},
		"sixth leaf":  {leaves[5], 5 * 1024, 6 * 1024},
		"inner node":  {inner, 0, 16 * 1024},
		"second in 4": {leaves[17], 17 * 1024, 18 * 1024},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := without(t, blocks, row.gone)
			dir := t.TempDir()
			_, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{KeepGoing: true})
			var bad *unpack.BlockError
			if !errors.Is(err, unpack.ErrMissing) || !errors.As(err, &bad) {
				t.Fatalf("error %v", err)
			}
			if bad.Path != "d/f" || bad.Cid != row.gone || bad.From != row.from || bad.To != row.to {
				t.Errorf("%+v, want bytes %d to %d", bad, row.from, row.to)
			}
			want := tree{"d/": "", "d/g": "good", "h": "good too"}
			if diff := cmp.Diff(want, readTree(t, dir)); diff != "" {
				t.Error(diff)
			}
			if _, err := unpack.Restore(ctx, x, blocks[0].Cid, t.TempDir(), unpack.Options{}); !errors.Is(err, unpack.ErrMissing) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestRestoreCorruptBlock(t *testing.T) {
	t.Parallel()
	for _, v := range []int{0, 1} {
		r := recipe{cidVersion: v, rawLeaves: v == 1, chunk: 1024, width: 20}
		blocks := r.build(t, tree{"f": mod251(10_500)})
		data := shards(t, blocks, 100_000)[0].(*memory).data
		data[len(data)-3000] ^= 1
		x := index(t, &memory{"x.car", data})
		dir := t.TempDir()
		_, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{})
		var bad *unpack.BlockError
		if !errors.Is(err, car.ErrCorrupt) || !errors.As(err, &bad) || bad.Path != "f" || bad.From != 7*1024 || bad.To != 8*1024 {
			t.Errorf("error %v", err)
		}
		if left := readTree(t, dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		v, err := unpack.VerifyIndex(ctx, x, blocks[0].Cid, unpack.VerifyOptions{})
		if err != nil || v.Count != 1 || len(v.Faults) != 1 || v.Faults[0].Cid != bad.Cid || !errors.Is(v.Faults[0], car.ErrCorrupt) || v.Blocks != int64(len(blocks)-1) {
			t.Errorf("verified %+v, %v", v, err)
		}
	}
}

// A taken name concerns one entry only: the others are restored, and all taken
// names are reported.
func TestRestoreKeepsGoingPastWhatExists(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 300)
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 20}
	blocks := r.build(t, tree{"a": "new", "b": "new", "d/c": "new", "d/e": "new", "f/g": "new", "l": "-> new", long: "new", "z": "new"})
	x := index(t, shards(t, blocks, 100_000)...)
	dir := t.TempDir()
	for _, name := range []string{"a", "d/c", "f", "l"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{KeepGoing: true})
	if !errors.Is(err, fs.ErrExist) {
		t.Fatalf("error %v", err)
	}
	for _, path := range []string{"a", "d/c", "f", "l", long} {
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) {
			t.Errorf("the error does not tell of %q: %v", path, err)
		}
	}
	want := tree{"a": "old", "b": "new", "d/": "", "d/c": "old", "d/e": "new", "f": "old", "l": "old", "z": "new"}
	if diff := cmp.Diff(want, readTree(t, dir)); diff != "" {
		t.Error(diff)
	}
	if done.Failed != 5 || done.Files != 3 {
		t.Errorf("%+v, want 5 failures and 3 files", done)
	}
	if _, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("without KeepGoing: %v", err)
	}
}
