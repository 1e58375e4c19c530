package interop_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/chunker"
)

// packCase is a file or tree to pack, and its packer.
type packCase struct {
	Packer string `json:"packer"` // also the name of our profile
	File   *file  `json:"file,omitempty"`
	Tree   []file `json:"tree,omitempty"`

	name string
}

// packAll packs all cases in one Node process.
func packAll(t *testing.T, p *pool, cases []packCase) []string {
	t.Helper()
	var roots []string
	node(t, &roots, map[string]any{"pool": p.path, "cases": cases}, "pack.mjs")
	if len(roots) != len(cases) {
		t.Fatalf("%d roots of %d cases", len(roots), len(cases))
	}
	return roots
}

func TestFileRoots(t *testing.T) {
	const (
		quarter = 256 << 10
		mib     = 1 << 20
	)
	narrow := []int64{1, 2, quarter - 1, quarter, quarter + 1, 2*quarter - 1, 2 * quarter, 2*quarter + 1, 3*quarter + 7}
	for _, chunks := range []int64{173, 174, 175, 348, 349} {
		narrow = append(narrow, chunks*quarter-1, chunks*quarter, chunks*quarter+1)
	}
	wide := []int64{0, 1, 2, mib - 1, mib, mib + 1, 2*mib - 1, 2 * mib, 2*mib + 1, 17*mib + 5}
	if !testing.Short() {
		wide = append(wide, 1024*mib, 1024*mib+1, 1025*mib+1)
	}
	p := newPool(t, 48*mib+12_347) // not a multiple of a chunk, so that leaves don't repeat
	var cases []packCase
	add := func(packer string, sizes []int64) {
		for i, size := range sizes {
			f := p.file("", int64(i)*1001, size)
			cases = append(cases, packCase{Packer: packer, File: &f, name: fmt.Sprint(packer, "/", size)})
		}
	}
	add("nft.storage", narrow) // it refuses an empty file
	add("ipfs-car-1", append([]int64{0}, narrow...))
	add("ipfs-car", wide)
	want := packAll(t, p, cases)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := build(t, *c.File, c.Packer).Root().String(); got != want[i] {
				t.Errorf("root is %s, the packer says %s", got, want[i])
			}
		})
	}
}

func TestTreeRoots(t *testing.T) {
	p := newPool(t, 1<<20+77)
	small := func(prefix string, n int) (files []file) {
		for i := range n {
			files = append(files, p.file(fmt.Sprintf("%sfile-%05d.txt", prefix, i), int64(i)*13, int64(i%50)))
		}
		return files
	}
	named := func(names ...string) (files []file) {
		for i, name := range names {
			files = append(files, p.file(name, int64(i)*1001, int64(i)*7+1))
		}
		return files
	}
	shapes := []struct {
		name  string
		files []file
	}{
		{"one file", named("a")},
		{"nested", append(small("x/y/", 3), p.file("x/big", 5, 47<<20), p.file("x/y/z/chunk", 9, 256<<10), p.file("x/more", 0, 1<<20+1), p.file("empty", 0, 0))},
		{"sorted by bytes", named("a", "B", "b", "aa", "a.b", "a-b", "a b", "A", "10", "9", "-", "~", "\u00e9", "e\u0301", "z")},
		{"sorted by path or by name", named("a/b", "a!b", "a-b/c", "a.b", "a0")},
		{"unicode", named("\uff5e", "\U0001f600", "größe/日本語.json", "größe/🦊🦊", "Ω", "\u200d", "שלום/עולם", "%41", "#?&", "'\"")},
		{"deep", named(strings.Repeat("d/", 40)+"leaf", "d/d/d/side")},
		{"unicode HAMT", func() (files []file) {
			for i := range 1200 {
				files = append(files, p.file(fmt.Sprintf("лиса %d 🦊", i), int64(i), 9))
			}
			return files
		}()},
		{"two HAMTs", append(append(small("metadata/", 1500), small("images/", 1001)...), named("readme")...)},
	}
	for _, n := range []int{998, 999, 1000, 1001, 5000} {
		shapes = append(shapes, struct {
			name  string
			files []file
		}{fmt.Sprint(n, " entries"), small("", n)})
	}
	packers := []string{"nft.storage", "ipfs-car-1", "ipfs-car"}
	var cases []packCase
	for _, shape := range shapes {
		for _, packer := range packers {
			cases = append(cases, packCase{Packer: packer, Tree: shape.files})
		}
	}
	want := packAll(t, p, cases)
	for i, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range shape.files {
				path := filepath.Join(dir, filepath.FromSlash(f.Path))
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, f.content(t), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for j, packer := range packers {
				opts := chunker.Options{Profile: profileNamed(t, packer)}
				disk := chunker.NewTree()
				if err := disk.AddDisk("", dir); err != nil {
					t.Fatal(err)
				}
				d, err := disk.Build(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := d.Root().String(), want[i*len(packers)+j]; got != want {
					t.Errorf("%s: root is %s, the packer says %s", packer, got, want)
				}
				tree := chunker.NewTree()
				for _, f := range shape.files {
					if err := tree.AddFile(f.Path, f, chunker.Stat{}); err != nil {
						t.Fatal(err)
					}
				}
				put, err := tree.Build(t.Context(), opts)
				if err != nil {
					t.Fatal(err)
				}
				if !put.Root().Equals(d.Root()) {
					t.Errorf("%s: root from disk is %s, put together it is %s", packer, d.Root(), put.Root())
				}
			}
		})
	}
}

// The packers of two profiles change some names, and for these profiles so do
// we. For each directory, either the roots are equal or we refuse files by
// name: those whose name becomes empty or equal to another.
func TestAwkwardNames(t *testing.T) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	p := newPool(t, 1<<20)
	pieces := []string{
		" ", "\t", "\r", "\n", "\v", "\f", "\u00a0", "\u1680", "\u2003", "\u200b", "\u2028", "\u202f", "\u205f", "\u3000", "\ufeff", "\u180e", "\u0085", "\u00ad", "\\", "^", ":", "*",
		"?", "%2F", "%5C", "&", "#", "'", "\"", "..", ".", "~", "é", "e\u0301", "🦊", "\u202e", "a", "b", "c", "x", "-",
	}
	packers := []string{"nft.storage", "ipfs-car-1", "ipfs-car"}
	var trees [][]file
	var cases []packCase
	for range 200 {
		var files []file
		names := map[string]bool{}
		for i := range 1 + rng.IntN(4) {
			name := ""
			for range 1 + rng.IntN(4) {
				name += pieces[rng.IntN(len(pieces))]
			}
			if name == "." || name == ".." || names[name] || strings.HasPrefix(name, ".") {
				continue
			}
			names[name] = true
			if rng.IntN(3) == 0 {
				name = fmt.Sprintf("d%d%s/%s", i, pieces[rng.IntN(18)], name)
			}
			files = append(files, p.file(name, int64(i)*100, int64(i)+1))
		}
		if len(files) == 0 {
			files = append(files, p.file("a", 0, 1))
		}
		trees = append(trees, files)
		for _, packer := range packers {
			cases = append(cases, packCase{Packer: packer, Tree: files})
		}
	}
	want := packAll(t, p, cases)
	agreed, refused := map[string]int{}, map[string]int{}
	for i, files := range trees {
		for j, packer := range packers {
			tree := chunker.NewTree()
			for _, f := range files {
				if err := tree.AddFile(f.Path, f, chunker.Stat{}); err != nil {
					t.Fatal(err)
				}
			}
			d, err := tree.Build(t.Context(), chunker.Options{Profile: profileNamed(t, packer)})
			switch {
			case errors.Is(err, chunker.ErrRenamed):
				refused[packer]++
			case err != nil:
				t.Errorf("%s: %v", packer, err)
			case d.Root().String() != want[i*len(packers)+j]:
				var names []string
				for _, f := range files {
					names = append(names, f.Path)
				}
				t.Errorf("%s: root of %q is %s, the packer says %s", packer, names, d.Root(), want[i*len(packers)+j])
			default:
				agreed[packer]++
			}
		}
	}
	t.Logf("agreed: %v, refused: %v", agreed, refused)
	if agreed["nft.storage"] < 120 || refused["ipfs-car"]+refused["ipfs-car-1"] > 0 {
		t.Errorf("agreed: %v, refused: %v", agreed, refused)
	}
}
