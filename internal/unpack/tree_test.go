package unpack_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	boxochunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/boxo/ipld/unixfs/importer/trickle"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
)

var ctx = context.Background()

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree is the contents of a directory, by path. A path that ends in a slash is
// a directory. The content of a symlink begins with "-> ".
type tree map[string]string

// recipe says how boxo makes a DAG from a tree.
type recipe struct {
	cidVersion int
	rawLeaves  bool
	chunk      int64
	width      int
	trickle    bool
	fanout     int // of directories, all of which are sharded; 0 means plain ones
	mode       os.FileMode
	mtime      time.Time
}

func (r recipe) String() string {
	return fmt.Sprintf("v%d raw=%t chunk=%d width=%d trickle=%t fanout=%d", r.cidVersion, r.rawLeaves, r.chunk, r.width, r.trickle, r.fanout)
}

// fataler is what tests, fuzz targets and rapid have in common.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must[T any](t fataler) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (r recipe) file(t fataler, dag ipld.DAGService, data string) ipld.Node {
	t.Helper()
	params := helpers.DagBuilderParams{
		Maxlinks: r.width, RawLeaves: r.rawLeaves, Dagserv: dag, FileMode: r.mode, FileModTime: r.mtime,
		CidBuilder: must[cid.Prefix](t)(merkledag.PrefixForCidVersion(r.cidVersion)),
	}
	b := must[*helpers.DagBuilderHelper](t)(params.New(boxochunk.NewSizeSplitter(strings.NewReader(data), r.chunk)))
	if r.trickle {
		return must[ipld.Node](t)(trickle.Layout(b))
	}
	return must[ipld.Node](t)(balanced.Layout(b))
}

// build makes the DAG of a tree, and returns its blocks in order.
func (r recipe) build(t fataler, tr tree) car.Blocks {
	t.Helper()
	dag := mdtest.Mock()
	return preOrder(t, dag, r.dir(t, dag, tr))
}

func (r recipe) dir(t fataler, dag ipld.DAGService, tr tree) ipld.Node {
	t.Helper()
	prefix := must[cid.Prefix](t)(merkledag.PrefixForCidVersion(r.cidVersion))
	opts := []uio.DirectoryOption{uio.WithCidBuilder(prefix), uio.WithStat(r.mode, r.mtime)}
	var d uio.Directory
	if r.fanout > 0 {
		d = must[*uio.HAMTDirectory](t)(uio.NewHAMTDirectory(dag, 0, append(opts, uio.WithMaxHAMTFanout(r.fanout))...))
	} else {
		d = must[*uio.BasicDirectory](t)(uio.NewBasicDirectory(dag, opts...))
	}
	subs := map[string]tree{}
	for path, content := range tr {
		name, rest, nested := strings.Cut(path, "/")
		if nested {
			if subs[name] == nil {
				subs[name] = tree{}
			}
			if rest != "" {
				subs[name][rest] = content
			}
			continue
		}
		var n ipld.Node
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			n = merkledag.NodeWithData(must[[]byte](t)(unixfs.SymlinkData(target)))
		} else {
			n = r.file(t, dag, content)
		}
		add(t, dag, d, name, n)
	}
	for name, sub := range subs {
		add(t, dag, d, name, r.dir(t, dag, sub))
	}
	n := must[ipld.Node](t)(d.GetNode())
	if err := dag.Add(ctx, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func add(t fataler, dag ipld.DAGService, d uio.Directory, name string, n ipld.Node) {
	t.Helper()
	if err := dag.Add(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := d.AddChild(ctx, name, n); err != nil {
		t.Fatal(err)
	}
}

func preOrder(t fataler, dag ipld.NodeGetter, root ipld.Node) car.Blocks {
	t.Helper()
	var out car.Blocks
	seen := cid.NewSet()
	var visit func(n ipld.Node, depth int)
	visit = func(n ipld.Node, depth int) {
		if !seen.Visit(n.Cid()) {
			return
		}
		out = append(out, car.Block{Cid: n.Cid(), Depth: depth, Head: n.RawData()})
		for _, l := range n.Links() {
			visit(must[ipld.Node](t)(l.GetNode(ctx, dag)), depth+1)
		}
	}
	visit(root, 0)
	return out
}

// memory is a source whose bytes are in memory.
type memory struct {
	name string
	data []byte
}

func (m *memory) Name() string                  { return m.name }
func (m *memory) Size() int64                   { return int64(len(m.data)) }
func (m *memory) Open() (car.SourceFile, error) { return memoryFile{bytes.NewReader(m.data)}, nil }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// shards makes the shards of a DAG.
func shards(t fataler, blocks car.List, limit int64) []car.Source {
	t.Helper()
	plan := must[*splitter.Plan](t)(splitter.Split(blocks, splitter.Options{MaxShardBytes: limit}))
	var p car.Packer
	var out []car.Source
	for i := range plan.Shards {
		s := p.Open(ctx, plan.Archive(i))
		out = append(out, &memory{fmt.Sprintf("%d.car", i), must[[]byte](t)(io.ReadAll(s))})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func index(t fataler, archives ...car.Source) *car.Index {
	t.Helper()
	x := new(car.Index)
	for _, a := range archives {
		must[car.Contents](t)(x.Add(ctx, a))
	}
	return x
}

// indexOf makes an index of one archive with all the blocks.
func indexOf(t fataler, blocks car.Blocks) *car.Index {
	t.Helper()
	return index(t, shards(t, blocks, 100<<20)...)
}

// readTree reads a tree from disk.
func readTree(t fataler, dir string) tree {
	t.Helper()
	tr := tree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, dir+string(filepath.Separator)))
		switch {
		case d.IsDir():
			tr[name+"/"] = ""
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			tr[name] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(path)
			tr[name] = string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// full adds the parent directories of all paths to the tree.
func (tr tree) full() tree {
	out := tree{}
	for p, c := range tr {
		out[p] = c
		for i, r := range p {
			if r == '/' {
				out[p[:i+1]] = ""
			}
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func mod251(n int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return string(p)
}
