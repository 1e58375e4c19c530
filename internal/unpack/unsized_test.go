package unpack_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

// If the nodes of a file state no sizes, or sizes that don't match the links in
// number, the file has the bytes that `ipfs cat` (Kubo 0.43) returns.
func TestSizesThatDontPair(t *testing.T) {
	t.Parallel()
	const kubo = "e83835331f9b903cb728137f30b1bb1d83d3751ed561801e79555cfaca4eeb45" // of 1,500 bytes
	for _, name := range []string{"no-blocksizes", "bs-fewer", "bs-none-nosize", "no-filesize"} {
		report, x, err := unpack.Inspect(ctx, awkward(t, name))
		if err != nil {
			t.Fatal(err)
		}
		root := report.Roots[0].Cid
		h := sha256.New()
		n, err := unpack.WriteFile(ctx, x, root, h, unpack.Options{})
		if sum := hex.EncodeToString(h.Sum(nil)); err != nil || n != 1500 || sum != kubo {
			t.Errorf("%s: %d bytes, %v, SHA-256 %s", name, n, err, sum)
		}
		for e, err := range unpack.List(ctx, x, root) {
			if err != nil || e.Size != 1500 {
				t.Errorf("%s is listed with %d bytes, %v", name, e.Size, err)
			}
		}
		done, err := unpack.Restore(ctx, x, root, t.TempDir(), unpack.Options{MaxBytes: 1500})
		if err != nil || done.Bytes != 1500 {
			t.Errorf("%s: restored %d bytes, %v", name, done.Bytes, err)
		}
		if _, err := unpack.Restore(ctx, x, root, t.TempDir(), unpack.Options{MaxBytes: 1499}); !errors.Is(err, unpack.ErrTooLarge) {
			t.Errorf("%s passes the limit by a byte: %v", name, err)
		}
	}
}

// awkward is an archive that once failed.
func awkward(t fataler, name string) car.Source {
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "awkward", name+".car"))
	if err != nil {
		t.Fatal(err)
	}
	return &memory{name: name, data: data}
}

// A file read by its links has the content that the links lead to, at all
// levels. A size that is stated but wrong is still an error.
func TestReadByTheLinks(t *testing.T) {
	t.Parallel()
	repeat := func(b car.Block, n int) []link { return unnamed(slices.Repeat([]car.Block{b}, n)) }
	for name, row := range map[string]struct {
		build func(d *dag)
		want  string // either the content
		is    string // or the text of the error
	}{
		"below a node with sizes": {func(d *dag) {
			d.file([]uint64{10, 5}, d.node(crafted{typ: 2, links: repeat(d.raw("hello"), 2)}), d.raw("world"))
		}, "hellohelloworld", ""},
		"above a node with sizes": {func(d *dag) {
			d.node(crafted{typ: 2, sizes: []uint64{1}, links: repeat(d.file([]uint64{5, 5}, d.raw("hello"), d.raw("world")), 2)})
		}, "helloworldhelloworld", ""},
		"more sizes than links": {func(d *dag) { d.file([]uint64{5, 5, 5}, d.raw("hello"), d.raw("world")) }, "helloworld", ""},
		"sizes and no links":    {func(d *dag) { d.node(crafted{typ: 2, data: "hello", sizes: []uint64{5}}) }, "hello", ""},
		"data and links":        {func(d *dag) { d.node(crafted{typ: 2, data: "well ", size: ptr(10), links: repeat(d.raw("hello"), 1)}) }, "well hello", ""},
		"empty parts": {func(d *dag) {
			d.node(crafted{typ: 2, links: repeat(d.node(crafted{typ: 2, links: repeat(d.raw(""), 3)}), 3)})
		}, "", ""},

		"file size":            {func(d *dag) { d.node(crafted{typ: 2, size: ptr(9), links: repeat(d.raw("hello"), 2)}) }, "", "a file size of 9, but the parts add up to 10"},
		"size of a parent":     {func(d *dag) { d.file([]uint64{9}, d.node(crafted{typ: 2, links: repeat(d.raw("hello"), 2)})) }, "", "stands for 10 bytes, but its parent says 9"},
		"of a child, by links": {func(d *dag) { d.node(crafted{typ: 2, links: repeat(d.file([]uint64{4}, d.raw("hello")), 2)}) }, "", "stands for 5 bytes, but its parent says 4"},
		"a directory":          {func(d *dag) { d.node(crafted{typ: 2, links: repeat(d.dir(), 1)}) }, "", "a dir as part of a file"},
		"a missing block": {func(d *dag) {
			gone := d.raw("hello")
			d.blocks = nil
			d.node(crafted{typ: 2, links: repeat(gone, 1)})
		}, "", "missing"},
		"deep": {func(d *dag) {
			b := d.raw("x")
			for range 600 {
				b = d.node(crafted{typ: 2, links: repeat(b, 1)})
			}
		}, "", "nested too deep"},
	} {
		d := &dag{}
		row.build(d)
		var b strings.Builder
		_, err := unpack.WriteFile(ctx, indexOf(t, d.blocks), d.root(), &b, unpack.Options{})
		switch {
		case row.is == "" && (err != nil || b.String() != row.want):
			t.Errorf("%s: %q, %v", name, b.String(), err)
		case row.is != "" && (err == nil || !strings.Contains(err.Error(), row.is)):
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Each node without sizes is walked once, however often it is linked to.
func TestSizesOfManyPaths(t *testing.T) {
	t.Parallel()
	d := &dag{}
	b := d.raw("x")
	for range 50 {
		b = d.node(crafted{typ: 2, links: unnamed([]car.Block{b, b})})
	}
	for e, err := range unpack.List(ctx, indexOf(t, d.blocks), b.Cid) {
		if err != nil || e.Size != 1<<50 {
			t.Errorf("%d bytes, %v", e.Size, err)
		}
	}
	for range 20 {
		b = d.node(crafted{typ: 2, links: unnamed([]car.Block{b, b})})
	}
	_, err := unpack.WriteFile(ctx, indexOf(t, d.blocks), b.Cid, io.Discard, unpack.Options{})
	if !errors.Is(err, unixfs.ErrInvalid) || !strings.Contains(err.Error(), "more than a file can have") {
		t.Errorf("a file of 2⁷⁰ bytes: %v", err)
	}
}

func (d *dag) root() cid.Cid { return d.blocks[len(d.blocks)-1].Cid }
