package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
	"github.com/carload/carload/uploader/uploadertest"
)

// shelf is a source of blocks in memory.
type shelf struct {
	mu     sync.Mutex
	blocks map[cid.Cid][]byte
	nodes  map[cid.Cid]ipld.Node
}

func newShelf() *shelf { return &shelf{blocks: map[cid.Cid][]byte{}, nodes: map[cid.Cid]ipld.Node{}} }

// String implements gateway.Source.
func (*shelf) String() string { return "shelf" }

// FetchBlock implements uploader.BlockFetcher.
func (s *shelf) FetchBlock(_ context.Context, c cid.Cid, _ int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.blocks[c]
	if !ok {
		return nil, fmt.Errorf("block %s: %w", c, uploader.ErrNotFound)
	}
	return data, nil
}

func (s *shelf) add(n ipld.Node) ipld.Node {
	s.blocks[n.Cid()], s.nodes[n.Cid()] = n.RawData(), n
	return n
}

// dir makes a directory as boxo does.
func (s *shelf) dir(t *testing.T, kids ...ipld.Node) ipld.Node {
	t.Helper()
	n := ft.EmptyDirNode()
	for i, k := range kids {
		if err := n.AddNodeLink(fmt.Sprint(i), k); err != nil {
			t.Fatal(err)
		}
	}
	return s.add(n)
}

// order returns the CIDs in the order in which boxo's nodes link to them, each
// once.
func (s *shelf) order(c cid.Cid, met map[cid.Cid]bool) []cid.Cid {
	if met[c] {
		return nil
	}
	met[c] = true
	all := []cid.Cid{c}
	for _, l := range s.nodes[c].Links() {
		all = append(all, s.order(l.Cid, met)...)
	}
	return all
}

// TestWalkOrder: each block is visited once, before those below it, in the
// order of links.
func TestWalkOrder(t *testing.T) {
	t.Parallel()
	s := newShelf()
	var leaves []ipld.Node
	for i := range 40 {
		leaves = append(leaves, s.add(merkledag.NewRawNode([]byte(fmt.Sprint("leaf", i)))))
	}
	twice := s.dir(t, leaves[3], leaves[4])
	root := s.dir(t, append([]ipld.Node{leaves[0], twice, leaves[1], s.dir(t, twice, leaves[5], leaves[0])}, append(leaves, leaves...)...)...)
	want := s.order(root.Cid(), map[cid.Cid]bool{})
	var got []cid.Cid
	var bytes int64
	var total atomic.Int64
	err := gateway.NewPool(gateway.Options{}, s).Walk(t.Context(), root.Cid(), gateway.Walk{
		Total: &total,
		Visit: func(c cid.Cid, data []byte) error {
			if string(data) != string(s.blocks[c]) {
				t.Errorf("block %s has other bytes", c)
			}
			got = append(got, c)
			bytes += int64(len(data))
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d blocks:\n%v\nwant %d:\n%v", len(got), got, len(want), want)
	}
	if total.Load() != bytes {
		t.Errorf("the total is %d at the end, of %d bytes", total.Load(), bytes)
	}
}

// TestWalkFaults: missing or wrong blocks are passed to Fault, and everything
// else is visited. Without Fault, the first one ends the walk.
func TestWalkFaults(t *testing.T) {
	t.Parallel()
	s := newShelf()
	var leaves []ipld.Node
	for i := range 20 {
		leaves = append(leaves, s.add(merkledag.NewRawNode([]byte(fmt.Sprint("leaf", i)))))
	}
	lost := s.dir(t, leaves[18], leaves[19])
	root := s.dir(t, append([]ipld.Node{lost}, leaves[:18]...)...)
	delete(s.blocks, lost.Cid())
	delete(s.blocks, leaves[7].Cid())
	s.blocks[leaves[9].Cid()] = []byte("other")
	p := gateway.NewPool(gateway.Options{Retries: -1}, s)
	faults := map[cid.Cid]error{}
	visited := 0
	err := p.Walk(t.Context(), root.Cid(), gateway.Walk{
		Visit: func(cid.Cid, []byte) error { visited++; return nil },
		Fault: func(c cid.Cid, err error) error { faults[c] = err; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for c, want := range map[cid.Cid]error{lost.Cid(): uploader.ErrNotFound, leaves[7].Cid(): uploader.ErrNotFound, leaves[9].Cid(): car.ErrCorrupt} {
		if !errors.Is(faults[c], want) {
			t.Errorf("block %s: %v, want %v", c, faults[c], want)
		}
	}
	if len(faults) != 3 || visited != 1+16 {
		t.Errorf("%d faults and %d blocks visited", len(faults), visited)
	}
	if err := p.Walk(t.Context(), root.Cid(), gateway.Walk{Visit: func(cid.Cid, []byte) error { return nil }}); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	stop := errors.New("enough")
	if err := p.Walk(t.Context(), root.Cid(), gateway.Walk{Visit: func(cid.Cid, []byte) error { return stop }}); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

// TestWalkRepeats: in a file with many duplicates, each block is visited once,
// fetched by ranges from a lying and an honest gateway.
func TestWalkRepeats(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	part := make([]byte, 11<<20)
	_, _ = rand.NewChaCha8([32]byte{8}).Read(part)
	data := slices.Concat(part, part[:9<<20], part, part[:1<<20])
	h := holdBytes(t, srv, data, chunker.UnixFSv1())
	for name, fault := range map[string]uploadertest.Fault{"honest": nil, "liar": flipped, "endless": endless} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := uploadertest.NewServer(t, uploadertest.Options{Handler: h.store})
			if fault != nil {
				first.Always(uploadertest.Archive, fault)
			}
			second := uploadertest.NewServer(t, uploadertest.Options{Handler: h.store})
			met := map[cid.Cid]bool{}
			var leaves int64
			err := gateway.NewPool(gateway.Options{}, source(t, first), source(t, second)).Walk(t.Context(), h.root, gateway.Walk{
				Visit: func(c cid.Cid, data []byte) error {
					if met[c] {
						t.Errorf("block %s comes twice", c)
					}
					met[c] = true
					if c.Prefix().Codec == cid.Raw {
						leaves += int64(len(data))
					}
					return nil
				},
			})
			if err != nil || leaves != int64(len(part)) {
				t.Errorf("%d bytes of %d, error %v", leaves, len(part), err)
			}
			if fault != nil && first.Count(uploadertest.Archive).Faults == 0 {
				t.Error("the fault did not happen")
			}
		})
	}
}

// TestWalkOfManyFiles: what is below a node is fetched with it, not block by
// block.
func TestWalkOfManyFiles(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "plain"), 0o700); err != nil {
		t.Fatal(err)
	}
	const files = 3300
	for i := range files {
		name := fmt.Sprintf("a file with a name so long that the directory has to be sharded %d", i)
		if i%11 == 0 {
			name = fmt.Sprintf("plain/%d", i)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(fmt.Sprint("content ", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := chunker.NewTree()
	if err := tree.AddDisk("", dir); err != nil {
		t.Fatal(err)
	}
	root := upload(t, srv, uploader.Tree("many", tree, chunker.Options{Profile: chunker.UnixFSv1()}))
	visited := 0
	err := gateway.NewPool(gateway.Options{}, source(t, srv)).Walk(t.Context(), root, gateway.Walk{Visit: func(c cid.Cid, _ []byte) error {
		if c.Prefix().Codec == cid.Raw {
			visited++
		}
		return nil
	}})
	asked := srv.Count(uploadertest.Block).Requests + srv.Count(uploadertest.Archive).Requests
	if err != nil || visited != files || asked > files/5 {
		t.Errorf("%d files by %d requests, %v", visited, asked, err)
	}

	tree = chunker.NewTree()
	if err := tree.AddDisk("", filepath.Join(dir, "plain")); err != nil {
		t.Fatal(err)
	}
	plain := upload(t, srv, uploader.Tree("plain", tree, chunker.Options{Profile: chunker.UnixFSv1()}))
	before := srv.Count(uploadertest.Block).Requests + srv.Count(uploadertest.Archive).Requests
	err = gateway.NewPool(gateway.Options{}, source(t, srv)).Walk(t.Context(), plain, gateway.Walk{Visit: func(cid.Cid, []byte) error { return nil }})
	if n := srv.Count(uploadertest.Block).Requests + srv.Count(uploadertest.Archive).Requests - before; err != nil || n > 2 {
		t.Errorf("a plain directory by %d requests, %v", n, err)
	}
}
