package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/carload/carload/internal/store"
)

// dag is a random DAG with several roots. Subtrees are shared, within a root
// and between roots. Some links use another codec than the one a block is
// uploaded under.
type dag struct {
	blocks   []block
	children [][]cid.Cid // children of blocks[i] by its links
	roots    []int
}

func drawDAG(t *rapid.T, salt string) dag {
	var d dag
	add := func(b block, children []cid.Cid) {
		d.blocks = append(d.blocks, b)
		d.children = append(d.children, children)
	}
	for i := range rapid.IntRange(1, 8).Draw(t, "leaves") {
		add(raw(fmt.Sprintf("%s leaf %d", salt, i)), nil)
	}
	for i := range rapid.IntRange(1, 10).Draw(t, "nodes") {
		var children []cid.Cid
		for range rapid.IntRange(0, 4).Draw(t, "links") {
			c := d.blocks[rapid.IntRange(0, len(d.blocks)-1).Draw(t, "child")].CID
			if rapid.IntRange(0, 5).Draw(t, "as raw") == 0 {
				c = cid.NewCidV1(cid.Raw, c.Hash()) // the bytes of a node, as a leaf
			}
			if c.Prefix().Codec == cid.DagProtobuf && rapid.Bool().Draw(t, "v0") {
				c = cid.NewCidV0(c.Hash())
			}
			children = append(children, c)
		}
		tag := fmt.Sprintf("%s%d", salt[:min(len(salt), 8)], i)
		if rapid.Bool().Draw(t, "cbor") {
			add(cborNode(tag, children...), children)
		} else {
			add(pbNode(tag, children...), children)
		}
	}
	for range rapid.IntRange(1, 3).Draw(t, "roots") {
		d.roots = append(d.roots, rapid.IntRange(0, len(d.blocks)-1).Draw(t, "root"))
	}
	return d
}

// complete walks from a root over the held blocks. It shares no code with the
// store.
func (d dag) complete(root int, held map[string]bool) bool {
	byHash := make(map[string]int)
	for i, b := range d.blocks {
		byHash[string(b.CID.Hash())] = i
	}
	var walk func(c cid.Cid) bool
	walk = func(c cid.Cid) bool {
		if !held[string(c.Hash())] {
			return false
		}
		if c.Prefix().Codec == cid.Raw {
			return true
		}
		for _, child := range d.children[byHash[string(c.Hash())]] {
			if !walk(child) {
				return false
			}
		}
		return true
	}
	return walk(d.blocks[root].CID)
}

// drawShards distributes the blocks over shards of the roots. Some come twice,
// and sometimes one is left out.
func (d dag) drawShards(t *rapid.T) (shards [][]block, roots []int) {
	perm := rapid.Permutation(d.blocks).Draw(t, "order")
	if rapid.IntRange(0, 3).Draw(t, "leave one out") == 0 {
		perm = perm[1:]
	}
	for len(perm) > 0 {
		n := rapid.IntRange(1, min(5, len(perm))).Draw(t, "shard")
		root := d.roots[rapid.IntRange(0, len(d.roots)-1).Draw(t, "of root")]
		shard := []block{d.blocks[root]}
		for _, b := range perm[:n] {
			if rapid.IntRange(0, 4).Draw(t, "sent as raw") == 0 {
				b.CID = cid.NewCidV1(cid.Raw, b.CID.Hash())
			}
			shard = append(shard, b)
		}
		shard = append(shard, d.blocks[rapid.IntRange(0, len(d.blocks)-1).Draw(t, "again")])
		shards, roots = append(shards, shard), append(roots, root)
		perm = perm[n:]
	}
	return shards, roots
}

func TestCompletenessWhateverTheOrder(t *testing.T) {
	s := newShelf(t, store.Options{})
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		d := drawDAG(t, fmt.Sprintf("%d-%d ", n, rand.Uint32()))
		shards, roots := d.drawShards(t)
		held := make(map[string]bool)
		sent := make(map[int]bool)
		for i, shard := range shards {
			if _, err := s.tryPut(carOf(shard...)); err != nil {
				t.Fatalf("shard %d: %v", i, err)
			}
			for _, b := range shard {
				held[string(b.CID.Hash())] = true
			}
			sent[roots[i]] = true
			for root := range sent {
				want := incomplete
				if d.complete(root, held) {
					want = complete
				}
				if got := s.state(d.blocks[root].CID); got != want {
					t.Fatalf("after shard %d, root %d is %d, want %d", i, root, got, want)
				}
			}
		}
	})
}

func TestCompletenessOfConcurrentShards(t *testing.T) {
	s := newShelf(t, store.Options{})
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		d := drawDAG(t, fmt.Sprintf("%d-%d ", n, rand.Uint32()))
		shards, roots := d.drawShards(t)
		held := make(map[string]bool)
		var g errgroup.Group
		for _, shard := range shards {
			for _, b := range shard {
				held[string(b.CID.Hash())] = true
			}
			g.Go(func() error {
				_, err := s.tryPut(carOf(shard...))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, root := range roots {
			want := incomplete
			if d.complete(root, held) {
				want = complete
			}
			if got := s.state(d.blocks[root].CID); got != want {
				t.Fatalf("root %d is %d, want %d", root, got, want)
			}
		}
	})
}
