package chunker_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func stats() []chunker.Stat {
	return []chunker.Stat{
		{Mode: 0o640},
		{Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky},
		{ModTime: time.Unix(1604320482, 0)},
		{ModTime: time.Unix(-1, 999_999_999)},
		{Mode: 0o600, ModTime: time.Unix(1, 1)},
	}
}

// payload reads the bytes of a block.
func payload(t tester, b car.Block) []byte {
	t.Helper()
	p := slices.Clone(b.Head)
	if b.Length > 0 {
		f, err := b.Source.Open()
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, b.Length)
		if _, err := f.ReadAt(data, b.Offset); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		p = append(p, data...)
	}
	return append(p, b.Tail...)
}

// tester is the common part of testing.TB and rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// checkList checks what a list promises: each block's bytes match its CID, each
// CID comes once, the order is depth first with parents before children, depths
// are right, and every link leads to a block of the list.
func checkList(t tester, d *chunker.DAG) {
	t.Helper()
	type place struct{ index, depth int }
	at := map[cid.Cid]place{}
	var path []cid.Cid
	linked := map[cid.Cid][]cid.Cid{}
	if !d.At(0).Cid.Equals(d.Root()) {
		t.Fatalf("the list begins with %s, the root is %s", d.At(0).Cid, d.Root())
	}
	for i := range d.Len() {
		b := d.At(i)
		if _, dup := at[b.Cid]; dup {
			t.Fatalf("block %d, %s, is there twice", i, b.Cid)
		}
		at[b.Cid] = place{i, b.Depth}
		data := payload(t, b)
		if len(data) != b.Size() {
			t.Fatalf("block %d has %d bytes and says %d", i, len(data), b.Size())
		}
		sum := sha256.Sum256(data)
		if mh := b.Cid.Hash(); string(mh[2:]) != string(sum[:]) {
			t.Fatalf("block %d: its bytes are not those of %s", i, b.Cid)
		}
		if b.Depth > len(path) || i > 0 && b.Depth == 0 {
			t.Fatalf("block %d has depth %d below a path of %d", i, b.Depth, len(path))
		}
		path = append(path[:b.Depth], b.Cid)
		if b.Depth > 0 && !slices.Contains(linked[path[b.Depth-1]], b.Cid) {
			t.Fatalf("block %d, %s, is not linked from the block above it", i, b.Cid)
		}
		if b.Cid.Type() == cid.DagProtobuf {
			nd, err := merkledag.DecodeProtobuf(data)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range nd.Links() {
				linked[b.Cid] = append(linked[b.Cid], l.Cid)
			}
		}
	}
	for c, links := range linked {
		for _, l := range links {
			if _, ok := at[l]; !ok {
				t.Fatalf("%s links to %s, which is not in the list", c, l)
			}
		}
	}
}

// entry is an entry of a random tree.
type entry struct {
	path, target string
	data         []byte
	kind         int // file, symlink, directory
	stat         chunker.Stat
}

func drawTree(t *rapid.T) []entry {
	n := rapid.IntRange(0, 120).Draw(t, "entries")
	seen := map[string]bool{"": true}
	var es []entry
	dirs := []string{""}
	for i := range n {
		dir := rapid.SampledFrom(dirs).Draw(t, "dir")
		name := rapid.StringMatching(`[a-zé😀 .]{0,3}`).Draw(t, "name") + fmt.Sprint(i%30)
		e := entry{path: strings.TrimPrefix(dir+"/"+name, "/"), kind: rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "kind")}
		if seen[e.path] {
			continue
		}
		seen[e.path] = true
		switch e.kind {
		case 0:
			e.data = random(rapid.SampledFrom([]int{0, 1, 9, 10, 11, 40, 300}).Draw(t, "size"), uint64(rapid.IntRange(0, 2).Draw(t, "content")))
		case 1:
			e.target = rapid.SampledFrom([]string{"x", "../y", "/z"}).Draw(t, "target")
		case 2:
			dirs = append(dirs, e.path)
		}
		if rapid.IntRange(0, 9).Draw(t, "stat") == 0 {
			e.stat = rapid.SampledFrom(stats()).Draw(t, "which stat")
		}
		es = append(es, e)
	}
	return es
}

func drawProfile(t *rapid.T) chunker.Profile {
	name := rapid.SampledFrom([]string{"unixfs-v1-2025", "unixfs-v0-2015", "storacha"}).Draw(t, "profile")
	for _, part := range []string{"size-10", "width-3"} {
		name += "+" + part
	}
	for _, parts := range [][]string{
		{"balanced", "trickle"},
		{"raw-leaves", "dag-pb-leaves"},
		{"hamt-never", "hamt-links-count>3", "hamt-block-bytes>=200", "hamt-links-bytes>150"},
		{"fanout-8", "fanout-256", "fanout-1024"},
	} {
		name += "+" + rapid.SampledFrom(parts).Draw(t, "part")
	}
	p, err := chunker.ProfileNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func build(t *rapid.T, es []entry, p chunker.Profile) *chunker.DAG {
	tree := chunker.NewTree()
	for _, e := range es {
		var err error
		switch e.kind {
		case 0:
			err = tree.AddFile(e.path, bytesSource(e.data), e.stat)
		case 1:
			err = tree.AddSymlink(e.path, e.target, e.stat)
		case 2:
			err = tree.AddDir(e.path, e.stat)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := tree.Build(t.Context(), chunker.Options{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTreeProperties: the order of adding entries does not matter, the list
// keeps its promises, and shards partition the list without exceeding the
// limit.
func TestTreeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		es, p := drawTree(t), drawProfile(t)
		d := build(t, es, p)
		checkList(t, d)

		shuffled := slices.Clone(es)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "order"), 0))
		rng.Shuffle(len(shuffled), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
		other := build(t, shuffled, p)
		if !other.Root().Equals(d.Root()) || other.Len() != d.Len() || other.Size() != d.Size() || other.TotalSize() != d.TotalSize() {
			t.Fatalf("another order of entries gives %s", other.Root())
		}
		for i := range d.Len() {
			if a, b := d.At(i), other.At(i); !a.Cid.Equals(b.Cid) || a.Depth != b.Depth {
				t.Fatalf("another order of entries lists %s at %d, not %s", b.Cid, i, a.Cid)
			}
		}

		limit := rapid.Int64Range(500, 5000).Draw(t, "limit")
		plan, err := splitter.Split(d, splitter.Options{MaxShardBytes: limit})
		if errors.Is(err, splitter.ErrBlockTooLarge) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for i, s := range plan.Shards {
			if s.First != next {
				t.Fatalf("shard %d begins with block %d, want %d", i, s.First, next)
			}
			next = s.End
			if got := car.NewArchive(d.Root(), plan.Archive(i).Blocks).Size; got != s.Size || got > limit {
				t.Fatalf("shard %d has %d bytes, says %d, may have %d", i, got, s.Size, limit)
			}
		}
		if next != d.Len() {
			t.Fatalf("the shards have %d blocks of %d", next, d.Len())
		}
	})
}
