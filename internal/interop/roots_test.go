package interop_test

import (
	"fmt"
	"testing"
)

// packCase is one thing to pack, by one packer.
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
		wide = append(wide, 1023*mib+1, 1024*mib, 1024*mib+1, 1025*mib, 1025*mib+1)
	}
	p := newPool(t, 48*mib+12_347) // no multiple of a chunk, so that leaves don't repeat
	var cases []packCase
	add := func(packer string, sizes []int64) {
		for i, size := range sizes {
			f := p.file("", int64(i)*1001, size)
			cases = append(cases, packCase{Packer: packer, File: &f, name: fmt.Sprint(packer, "/", size)})
		}
	}
	add("nft.storage", narrow) // refuses an empty file
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
