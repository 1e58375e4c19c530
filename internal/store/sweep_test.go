package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// estate holds the uploads of a test. Some links lead to blocks of other
// uploads.
type estate struct {
	r      *rand.Rand
	blocks []block
	below  map[cid.Cid][]block // each block, and everything below it
	shards map[cid.Cid][][]byte
	n      int
}

// grow makes an upload of one or two shards. Some links lead to existing blocks
// of other uploads, not all of which the upload includes.
func (e *estate) grow() (root cid.Cid) {
	e.n++
	own := []block{raw(fmt.Sprint("leaf of ", e.n))}
	e.below[own[0].CID] = slices.Clone(own)
	for i := range 1 + e.r.IntN(40) {
		var links []cid.Cid
		var below []block
		for range 1 + e.r.IntN(3) {
			to := own[len(own)-1-e.r.IntN(min(len(own), 3))]
			if len(e.blocks) > 0 && e.r.IntN(4) == 0 {
				to = e.blocks[e.r.IntN(len(e.blocks))]
			}
			links = append(links, to.CID)
			below = append(below, e.below[to.CID]...)
		}
		node := pbNode
		if i%3 == 0 {
			node = cborNode
		}
		b := node(fmt.Sprint(e.n, " ", i), links...)
		e.below[b.CID] = append(below, b)
		leaf := raw(fmt.Sprint(e.n, " leaf ", i))
		e.below[leaf.CID] = []block{leaf}
		own = append(own, b, leaf)
	}
	anchor := raw(fmt.Sprint(e.n, " anchor")) // each shard has a block that its root links to
	inner := own[len(own)-2]
	top := pbNode(fmt.Sprint(e.n), anchor.CID, inner.CID)
	e.below[top.CID] = append(slices.Clone(e.below[inner.CID]), anchor, top)
	e.blocks = append(e.blocks, own...)
	if e.r.IntN(2) == 0 {
		slices.Reverse(own)
	}
	cut := e.r.IntN(len(own))
	for _, part := range [][]block{own[:cut], own[cut:]} {
		e.shards[top.CID] = append(e.shards[top.CID], carFile([]cid.Cid{top.CID}, append([]block{top, anchor}, part...)...))
	}
	return top.CID
}

// Others get their turn while an upload of many blocks is being removed.
func TestOthersWriteWhileCollected(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	blocks := make([]block, 2000)
	links := make([]cid.Cid, len(blocks))
	for i := range blocks {
		blocks[i] = raw(fmt.Sprint(i))
		links[i] = blocks[i].CID
	}
	root := pbNode("root", links...)
	s.put(carOf(append([]block{root}, blocks...)...))
	s.drop(root.CID)
	partly := 0
	s.Between(func() {
		held := 0
		for _, b := range blocks {
			if s.has(b) {
				held++
			}
		}
		if held > 0 && held < len(blocks) {
			partly++
		}
	})
	if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 || s.has(root) || s.has(blocks[0]) {
		t.Errorf("%+v, %v", r, err)
	}
	if partly < 5 {
		t.Errorf("%d slices end when a part of it is gone", partly)
	}
}

// A collection removes things bit by bit. If somebody uploads in between and is
// told that everything is held, it must be held. This must be so even if the
// process ends at that moment and the collection starts again. In the end,
// everything else must be gone.
func TestCollectInSlices(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for seed := range rounds {
		dir := t.TempDir()
		s := newShelf(t, store.Options{Dir: dir})
		e := &estate{r: rand.New(rand.NewPCG(uint64(seed), 1)), below: make(map[cid.Cid][]block), shards: make(map[cid.Cid][][]byte)}
		whole := make(map[cid.Cid]bool) // existing uploads, and whether each is complete
		all := func(s *shelf, whole map[cid.Cid]bool) {
			t.Helper()
			if r := fsck(t, s); len(r.Problems) > 0 {
				t.Fatalf("round %d: %+v", seed, r)
			}
			for root, is := range whole {
				if !is {
					continue
				}
				if got := s.state(root); got != complete {
					t.Fatalf("round %d: an upload that was complete: %d", seed, got)
				}
				for _, b := range e.below[root] {
					if !s.has(b) {
						t.Fatalf("round %d: a block of a complete upload is gone", seed)
					}
				}
			}
		}
		put := func(root cid.Cid) {
			for _, shard := range e.shards[root][e.r.IntN(2):] {
				u := s.put(shard)
				whole[root] = u.State == complete
			}
			for root := range whole {
				whole[root] = whole[root] || s.state(root) == complete
			}
		}
		drop := func(root cid.Cid) {
			s.drop(root)
			delete(whole, root)
		}
		var roots []cid.Cid
		for range 12 {
			roots = append(roots, e.grow())
			put(roots[len(roots)-1])
		}
		for _, root := range roots[:9] {
			drop(root)
		}
		var images []string
		var then []map[cid.Cid]bool
		inside := false
		s.Between(func() {
			if inside {
				return
			}
			inside = true
			defer func() { inside = false }()
			for root, is := range whole {
				if is && s.state(root) != complete {
					t.Fatalf("round %d: an upload is not complete while others are removed", seed)
				}
			}
			if e.r.IntN(4) > 0 {
				return
			}
			switch root := roots[e.r.IntN(len(roots))]; e.r.IntN(4) {
			case 0:
				roots = append(roots, e.grow())
				put(roots[len(roots)-1])
			case 1, 2:
				put(root)
			case 3:
				if _, is := whole[root]; is {
					drop(root)
				}
			}
			if len(images) < 12 && e.r.IntN(4) == 0 {
				image := t.TempDir()
				if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
					t.Error(err)
				}
				kept := make(map[cid.Cid]bool)
				for root, is := range whole {
					kept[root] = is
				}
				images, then = append(images, image), append(then, kept)
			}
		})
		if _, err := s.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Between(nil)
		all(s, whole)
		finish := func(s *shelf, who *store.Caller, whole map[cid.Cid]bool) {
			if _, err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			all(s, whole)
			for root := range whole {
				if err := s.Forget(t.Context(), who.UserID, root.String()); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Fatal(err)
				}
			}
			if _, err := s.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			all(s, nil)
			for _, b := range e.blocks {
				if s.has(b) {
					t.Fatalf("round %d: a block is left when nobody has anything", seed)
				}
			}
		}
		finish(s, s.who, whole)
		for i, image := range images {
			again := newShelf(t, store.Options{Dir: image})
			all(again, then[i])
			finish(again, s.who, then[i])
			again.close()
		}
	}
}
