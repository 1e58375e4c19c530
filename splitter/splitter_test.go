package splitter_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// block makes a block whose bytes are never read.
func block(number, depth, size int) car.Block {
	return car.Block{Cid: cidOf(cid.Raw, binary.BigEndian.AppendUint64(nil, uint64(number))), Depth: depth, Length: size}
}

func cidOf(codec uint64, data []byte) cid.Cid {
	sum := sha256.Sum256(data)
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // a 32-byte digest always encodes
	}
	return cid.NewCidV1(codec, mh)
}

func split(t *testing.T, blocks car.List, limit int64) *splitter.Plan {
	t.Helper()
	p, err := splitter.Split(blocks, splitter.Options{MaxShardBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Sizes of sections, computed by hand: a CID of 36 bytes, and a length prefix
// of 1, 2 or 3 bytes.
const (
	header  = 59
	root    = 2 + 36 + 100
	inner   = 2 + 36 + 200
	leaf    = 3 + 36 + 20_000
	twoDeep = header + root + inner
)

// nested is a root with two nodes of three leaves each.
func nested() car.Blocks {
	var b car.Blocks
	add := func(depth, size int) { b = append(b, block(len(b), depth, size)) }
	add(0, 100)
	for range 2 {
		add(1, 200)
		for range 3 {
			add(2, 20_000)
		}
	}
	return b
}

func TestSplit(t *testing.T) {
	t.Parallel()
	all := int64(header + root + 2*inner + 6*leaf)
	for name, row := range map[string]struct {
		limit int64
		want  []splitter.Shard
	}{
		"all in one":    {all, []splitter.Shard{{First: 0, End: 9, Size: all}}},
		"a byte less":   {all - 1, []splitter.Shard{{First: 0, End: 8, Size: all - leaf}, {Path: []int{0, 5}, First: 8, End: 9, Size: twoDeep + leaf}}},
		"by the parent": {twoDeep + 3*leaf, []splitter.Shard{{First: 0, End: 5, Size: twoDeep + 3*leaf}, {Path: []int{0}, First: 5, End: 9, Size: twoDeep + 3*leaf}}},
		"a parent ends a shard": {twoDeep + 3*leaf + inner, []splitter.Shard{
			{First: 0, End: 6, Size: twoDeep + 3*leaf + inner}, {Path: []int{0, 5}, First: 6, End: 9, Size: twoDeep + 3*leaf},
		}},
		"two leaves each": {twoDeep + 2*leaf, []splitter.Shard{
			{First: 0, End: 4, Size: twoDeep + 2*leaf},
			{Path: []int{0, 1}, First: 4, End: 6, Size: twoDeep + leaf + inner},
			{Path: []int{0, 5}, First: 6, End: 8, Size: twoDeep + 2*leaf},
			{Path: []int{0, 5}, First: 8, End: 9, Size: twoDeep + leaf},
		}},
		"one leaf each": {twoDeep + leaf, []splitter.Shard{
			{First: 0, End: 3, Size: twoDeep + leaf},
			{Path: []int{0, 1}, First: 3, End: 4, Size: twoDeep + leaf},
			{Path: []int{0, 1}, First: 4, End: 5, Size: twoDeep + leaf},
			{Path: []int{0}, First: 5, End: 7, Size: twoDeep + leaf},
			{Path: []int{0, 5}, First: 7, End: 8, Size: twoDeep + leaf},
			{Path: []int{0, 5}, First: 8, End: 9, Size: twoDeep + leaf},
		}},
	} {
		p := split(t, nested(), row.limit)
		if diff := cmp.Diff(row.want, p.Shards); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var total int64
		for _, s := range row.want {
			total += s.Size
		}
		if p.Size() != total || p.MaxShardBytes != row.limit {
			t.Errorf("%s: %d bytes under a limit of %d", name, p.Size(), p.MaxShardBytes)
		}
	}
}

// The layout of 31 GiB in leaves of 1 MiB, for both readings of 100 MB.
func TestSplit31GiB(t *testing.T) {
	t.Parallel()
	b := car.Blocks{block(0, 0, 1685)}
	for range 31 {
		b = append(b, block(len(b), 1, 51_211))
		for range 1024 {
			b = append(b, block(len(b), 2, 1<<20))
		}
	}
	for limit, perShard := range map[int64]int{splitter.DefaultMaxShardBytes: 95, 100 << 20: 99} {
		p := split(t, b, limit)
		want := (31*1024 + perShard - 1) / perShard
		if len(p.Shards) != want {
			t.Errorf("%d shards under %d bytes, want %d", len(p.Shards), limit, want)
		}
		for i, s := range p.Shards[:len(p.Shards)-1] {
			if s.Size > limit || s.Size+1_048_615 <= limit {
				t.Errorf("shard %d has %d bytes of %d", i, s.Size, limit)
			}
		}
	}
	if p := split(t, b, 0); p.MaxShardBytes != 100_000_000 {
		t.Errorf("the default is %d bytes", p.MaxShardBytes)
	}
}

func TestSplitEdges(t *testing.T) {
	t.Parallel()
	if p := split(t, car.Blocks{}, 1); len(p.Shards) != 0 || p.Size() != 0 {
		t.Errorf("of nothing come %d shards", len(p.Shards))
	}
	alone := car.Blocks{block(0, 0, 100)}
	if p := split(t, alone, header+root); len(p.Shards) != 1 || p.Shards[0].Size != header+root || p.Shards[0].Path != nil {
		t.Errorf("a root alone: %+v", p.Shards)
	}
	for name, row := range map[string]struct {
		blocks car.Blocks
		limit  int64
		block  int   // index of the block that does not fit
		need   int64 // limit that would be enough
	}{
		"root":                 {alone, header + root - 1, 0, header + root},
		"one byte":             {alone, 1, 0, header + root},
		"second block":         {nested()[:2], twoDeep - 1, 1, twoDeep},
		"third block":          {nested(), twoDeep + leaf - 1, 2, twoDeep + leaf},
		"a large one later":    {append(nested(), block(99, 2, 20_001)), twoDeep + leaf, 9, twoDeep + leaf + 1},
		"one with a long path": {append(nested(), block(98, 2, 100), block(99, 3, 20_000)), twoDeep + leaf, 10, twoDeep + leaf + 138},
	} {
		_, err := splitter.Split(row.blocks, splitter.Options{MaxShardBytes: row.limit})
		if !errors.Is(err, splitter.ErrBlockTooLarge) || !strings.Contains(err.Error(), row.blocks[row.block].Cid.String()) {
			t.Errorf("%s: %v", name, err)
		}
		p, err := splitter.Split(row.blocks, splitter.Options{MaxShardBytes: row.need})
		if err != nil {
			t.Errorf("%s: with %d bytes: %v", name, row.need, err)
			continue
		}
		if _, err := splitter.Split(row.blocks, splitter.Options{MaxShardBytes: row.need - 1}); !errors.Is(err, splitter.ErrBlockTooLarge) {
			t.Errorf("%s: with %d bytes it takes %d shards, %v", name, row.need-1, len(p.Shards), err)
		}
	}
}

func TestErrorMessage(t *testing.T) {
	t.Parallel()
	_, err := splitter.Split(nested(), splitter.Options{MaxShardBytes: 20_000})
	want := "block does not fit into a shard: " + nested()[2].Cid.String() +
		" of 20000 bytes needs a shard of 20474 bytes with the root and its path, but the limit is 20000: raise the limit or use smaller chunks"
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for limit, ok := range map[int64]bool{0: true, 1: true, 100 << 20: true, 32 << 30: true, -1: false} {
		o := splitter.Options{MaxShardBytes: limit}
		if err := o.Validate(); (err == nil) != ok {
			t.Errorf("%d: %v", limit, err)
		}
		if _, err := splitter.Split(car.Blocks{}, o); (err == nil) != ok {
			t.Errorf("%d: %v", limit, err)
		}
	}
}

// drawDAG draws a random DAG: its list, and the ancestors of each block.
func drawDAG(t *rapid.T) (car.Blocks, [][]int) {
	var blocks car.Blocks
	var ancestors [][]int
	var path []int
	for i := range rapid.IntRange(1, 60).Draw(t, "blocks") {
		depth := 0
		if i > 0 {
			depth = rapid.IntRange(1, len(path)).Draw(t, "depth")
		}
		path = path[:depth]
		size := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(80, 300), rapid.IntRange(16_300, 16_400)).Draw(t, "size")
		data := bytes.Repeat([]byte{byte(i)}, size+1)
		c := cidOf(rapid.SampledFrom([]uint64{cid.Raw, cid.DagProtobuf, 0x0129}).Draw(t, "codec"), data)
		if rapid.IntRange(0, 3).Draw(t, "version") == 0 {
			c = cid.NewCidV0(c.Hash())
		}
		blocks = append(blocks, car.Block{Cid: c, Depth: depth, Head: data})
		ancestors = append(ancestors, slices.Clone(path))
		path = append(path, i)
	}
	return blocks, ancestors
}

func TestSplitProperties(t *testing.T) {
	t.Parallel()
	var packer car.Packer
	rapid.Check(t, func(t *rapid.T) {
		blocks, ancestors := drawDAG(t)
		head := car.HeaderSize(blocks[0].Cid)
		var least int64 // below this limit, some block fits into no shard
		for i, b := range blocks {
			need := head + b.SectionSize()
			for _, a := range ancestors[i] {
				need += blocks[a].SectionSize()
			}
			least = max(least, need)
		}
		limit := least + rapid.OneOf(rapid.Int64Range(-3, 3), rapid.Int64Range(0, 100_000)).Draw(t, "room")
		opts := splitter.Options{MaxShardBytes: limit}
		plan, err := splitter.Split(blocks, opts)
		if (err == nil) != (limit >= least) || err != nil && !errors.Is(err, splitter.ErrBlockTooLarge) {
			t.Fatalf("with %d bytes, where %d are needed: %v", limit, least, err)
		}
		if err != nil {
			return
		}
		again, err := splitter.Split(blocks, opts)
		if err != nil || !cmp.Equal(plan.Shards, again.Shards) {
			t.Fatal("another plan of the same blocks")
		}
		next := 0
		for i, s := range plan.Shards {
			if s.First != next || s.End <= s.First {
				t.Fatalf("shard %d has the blocks from %d to %d, after %d", i, s.First, s.End, next)
			}
			next = s.End
			if !slices.Equal(s.Path, ancestors[s.First]) {
				t.Fatalf("shard %d has the path %v, want %v", i, s.Path, ancestors[s.First])
			}
			a := plan.Archive(i)
			if a.Root != blocks[0].Cid || a.Blocks.At(0).Cid != a.Root {
				t.Fatalf("shard %d does not begin with the root", i)
			}
			if a.Blocks.Len() == 1 && len(blocks) > 1 {
				t.Fatalf("shard %d is the root alone", i)
			}
			if s.Size > limit {
				t.Fatalf("shard %d has %d bytes of %d", i, s.Size, limit)
			}
			if next < len(blocks) && s.Size+blocks[next].SectionSize() <= limit {
				t.Fatalf("shard %d has room for one more block", i)
			}
			checkBytes(t, &packer, a)
		}
		if next != len(blocks) {
			t.Fatalf("%d blocks are in shards, of %d", next, len(blocks))
		}
	})
}

// checkBytes reads a shard with go-car.
func checkBytes(t *rapid.T, packer *car.Packer, a car.Archive) {
	s := packer.Open(context.Background(), a)
	defer s.Close()
	data, err := io.ReadAll(s)
	if err != nil || int64(len(data)) != a.Size {
		t.Fatalf("%d bytes, want %d, %v", len(data), a.Size, err)
	}
	r, err := carv2.NewBlockReader(bytes.NewReader(data))
	if err != nil || r.Version != 1 || len(r.Roots) != 1 || r.Roots[0] != a.Root {
		t.Fatalf("go-car reads %+v, %v", r, err)
	}
	for i := range a.Blocks.Len() {
		want := a.Blocks.At(i)
		got, err := r.Next()
		if err != nil || got.Cid() != want.Cid || !bytes.Equal(got.RawData(), want.Head) {
			t.Fatalf("go-car reads block %d as %v, %v", i, got, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("go-car finds more: %v", err)
	}
}
