package unpack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/unpack"
)

// write writes a tree to disk.
func write(t fataler, dir string, tr tree) {
	t.Helper()
	for _, p := range sortedKeys(tr) {
		name := filepath.Join(dir, filepath.FromSlash(p))
		parent := filepath.Dir(name)
		if strings.HasSuffix(p, "/") {
			parent = name
		}
		if err := os.MkdirAll(parent, 0o777); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(p, "/") {
			continue
		}
		var err error
		if target, ok := strings.CutPrefix(tr[p], "-> "); ok {
			err = os.Symlink(target, name)
		} else {
			err = os.WriteFile(name, []byte(tr[p]), 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The whole way: a tree on disk becomes a DAG and the DAG becomes shards. The
// shards become the tree again, and that becomes the same shards.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		profile := rapid.SampledFrom(chunker.Profiles()).Draw(t, "profile")
		profile.Name = "" // some named profiles change file names
		profile.ChunkBytes = rapid.IntRange(16, 600).Draw(t, "chunk")
		profile.Width = rapid.IntRange(2, 6).Draw(t, "width")
		profile.HAMT.Limit = rapid.IntRange(1, 300).Draw(t, "HAMT")
		tr := drawTree(t)
		work := scratch(t)
		in, out := filepath.Join(work, "in"), filepath.Join(work, "out")
		if err := os.Mkdir(in, 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, in, tr)
		tree := chunker.NewTree()
		if err := tree.AddDisk("", in); err != nil {
			t.Fatal(err)
		}
		d, err := tree.Build(ctx, chunker.Options{Profile: profile, Hidden: true, RawNames: true})
		if err != nil {
			t.Fatal(err)
		}
		largest := int64(0)
		for b := range d.Blocks() {
			largest = max(largest, b.SectionSize())
		}
		limit := 200 + largest*rapid.Int64Range(15, 40).Draw(t, "limit")
		archives := shards(t, d, limit)
		x := index(t, archives...)
		if _, err := unpack.Restore(ctx, x, d.Root(), out, unpack.Options{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tr.full(), readTree(t, out)); diff != "" {
			t.Fatal(diff)
		}

		again, err := x.DAG(ctx, d.Root())
		if err != nil {
			t.Fatal(err)
		}
		sameArchives(t, shards(t, again, limit), archives)
		whole := shards(t, d, 100<<20)
		if len(whole) != 1 {
			t.Fatalf("%d shards", len(whole))
		}
		imported, err := car.Import(ctx, whole[0])
		if err != nil || imported.Root() != d.Root() {
			t.Fatalf("imported %v, %v", imported, err)
		}
		sameArchives(t, shards(t, imported, limit), archives)
	})
}

func sameArchives(t fataler, got, want []car.Source) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d shards, want %d", len(got), len(want))
	}
	for i := range got {
		if string(got[i].(*memory).data) != string(want[i].(*memory).data) {
			t.Fatalf("shard %d is another", i)
		}
	}
}
