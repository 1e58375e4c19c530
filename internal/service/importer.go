package service

import (
	"context"
	"errors"
	"fmt"
	"io"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
)

// The parameters with which the original's server imported files.
const (
	importChunkBytes = 256 << 10
	importWidth      = 174
)

func importPrefix() cid.Prefix {
	return cid.Prefix{Version: 1, Codec: links.DagPB, MhType: multihash.SHA2_256, MhLength: -1}
}

// importer writes the DAGs that the service makes into a shard. boxo's importer
// uses it as its DAG service.
type importer struct {
	ipld.DAGService // nil: only adding and getting are used
	*store.Builder
	entries int // in all directories together
	listed  int // bytes of the names and types of the files
}

func newImporter(st *store.Store) (*importer, error) {
	root, err := importPrefix().Sum(nil) // a placeholder: all roots made here have the same length
	if err != nil {
		return nil, err
	}
	b, err := st.NewBuilder(root)
	return &importer{Builder: b}, err
}

// Add writes a node, unless it was written before.
func (b *importer) Add(_ context.Context, nd ipld.Node) error {
	if _, is := nd.(written); is {
		return nil
	}
	return b.Builder.Add(nd.Cid(), nd.RawData())
}

// AddMany writes nodes, unless they were written before.
func (b *importer) AddMany(ctx context.Context, nds []ipld.Node) error {
	for _, nd := range nds {
		if err := b.Add(ctx, nd); err != nil {
			return err
		}
	}
	return nil
}

// Get returns a node that was added.
func (b *importer) Get(_ context.Context, c cid.Cid) (ipld.Node, error) {
	p, err := b.Builder.Get(c)
	if errors.Is(err, store.ErrNotHeld) {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	if err != nil {
		return nil, err
	}
	blk, err := blocks.NewBlockWithCid(p, c)
	if err != nil {
		return nil, err
	}
	if c.Prefix().Codec == links.Raw {
		return merkledag.DecodeRawBlock(blk)
	}
	return merkledag.DecodeProtobufBlock(blk)
}

// written is a node that was written. It has what a directory needs to know
// about the node, but not its bytes.
type written struct {
	ipld.Node // nil: only the methods below are used
	cid       cid.Cid
	size      uint64 // of the DAG
}

// Cid implements ipld.Node.
func (w written) Cid() cid.Cid { return w.cid }

// Size implements ipld.Node.
func (w written) Size() (uint64, error) { return w.size, nil }

func asWritten(nd ipld.Node) (written, error) {
	size, err := nd.Size()
	if err != nil {
		return written{}, fmt.Errorf("size of %s: %w", nd.Cid(), err)
	}
	return written{cid: nd.Cid(), size: size}, nil
}

// addFile imports a file and returns its root.
func (b *importer) addFile(r io.Reader) (written, error) {
	params := helpers.DagBuilderParams{
		Maxlinks: importWidth, RawLeaves: true, CidBuilder: importPrefix(), Dagserv: b,
	}
	db, err := params.New(chunker.NewSizeSplitter(r, importChunkBytes))
	if err != nil {
		return written{}, fmt.Errorf("import file: %w", err)
	}
	root, err := balanced.Layout(db)
	if err != nil {
		return written{}, fmt.Errorf("import file: %w", err)
	}
	return asWritten(root)
}

// finish completes the shard. The root is UnixFS, and its size is that of its
// DAG.
func (b *importer) finish(ctx context.Context, root written) (*store.Incoming, error) {
	return b.Finish(ctx, root.cid, int64(root.size))
}
