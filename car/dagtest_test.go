package car_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	boxochunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a source that holds its bytes.
type memory struct {
	name string
	data []byte
}

func (m *memory) Name() string                  { return m.name }
func (m *memory) Size() int64                   { return int64(len(m.data)) }
func (m *memory) Open() (car.SourceFile, error) { return memoryFile{bytes.NewReader(m.data)}, nil }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// boxoFile is the DAG that boxo builds for a file: parents before children,
// each CID once.
func boxoFile(t testing.TB, data []byte, chunk int64, width int, cidVersion int) car.Blocks {
	t.Helper()
	prefix, err := merkledag.PrefixForCidVersion(cidVersion)
	if err != nil {
		t.Fatal(err)
	}
	dag := mdtest.Mock()
	params := helpers.DagBuilderParams{Maxlinks: width, RawLeaves: cidVersion == 1, CidBuilder: prefix, Dagserv: dag}
	b, err := params.New(boxochunk.NewSizeSplitter(bytes.NewReader(data), chunk))
	if err != nil {
		t.Fatal(err)
	}
	root, err := balanced.Layout(b)
	if err != nil {
		t.Fatal(err)
	}
	return preOrder(t, dag, root)
}

func preOrder(t testing.TB, dag ipld.NodeGetter, root ipld.Node) car.Blocks {
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
			child, err := l.GetNode(context.Background(), dag)
			if err != nil {
				t.Fatal(err)
			}
			visit(child, depth+1)
		}
	}
	visit(root, 0)
	return out
}

// pack returns the bytes of an archive.
func pack(t testing.TB, root cid.Cid, blocks car.List) []byte {
	t.Helper()
	var p car.Packer
	a := car.NewArchive(root, blocks)
	s := p.Open(context.Background(), a)
	defer s.Close()
	data, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != a.Size {
		t.Fatalf("%d bytes, %d were announced", len(data), a.Size)
	}
	return data
}

func mod251(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return p
}
