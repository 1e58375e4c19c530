package unpack

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// Blocks supplies the blocks of a DAG. It need not be safe for concurrent use.
// If a block cannot be found anywhere, the error matches [ErrMissing].
type Blocks interface {
	// Load returns the payloads of the first of these blocks: of one or more.
	// It has checked each against its CID. The payloads are valid until the
	// next call of Load. An error is about the first block.
	Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error)
	// Peek returns a block, as Load does, but does not overwrite what Load
	// returned. The payload is valid until the next call of Peek.
	Peek(ctx context.Context, c cid.Cid) ([]byte, error)
	// Len returns the length of a block.
	Len(ctx context.Context, c cid.Cid) (int64, error)
}

// Follower is told where a walk through a DAG is and where it will go. [Blocks]
// that implement it can fetch ahead.
type Follower interface {
	// Enter says that the walk will visit the children of a node, in this
	// order. The sizes are those that the node claims for them. The node is one
	// of a file, or else a directory or part of one. Leave ends the visit.
	Enter(kids []cid.Cid, sizes []int64, file bool)
	Leave()
	// At says that the walk has reached child i of the node entered last.
	At(i int)
	// OpenFile says that the content of a file will be read, from an offset to
	// its end. CloseFile ends the reading.
	OpenFile(c cid.Cid, from, size int64)
	CloseFile()
	// Pause says that much of the content will not be needed for now, as it is
	// there already, or that this phase is over.
	Pause(paused bool)
}

// nobody is a Follower that does nothing.
type nobody struct{}

func (nobody) Enter([]cid.Cid, []int64, bool) {}
func (nobody) Leave()                         {}
func (nobody) At(int)                         {}
func (nobody) OpenFile(cid.Cid, int64, int64) {}
func (nobody) CloseFile()                     {}
func (nobody) Pause(bool)                     {}

// Index returns the blocks of indexed archives. The caller closes it.
func Index(x *car.Index) *IndexBlocks { return &IndexBlocks{index: x} }

// IndexBlocks are [Blocks] from archives.
type IndexBlocks struct {
	index  *car.Index
	loader car.Loader
	peek   car.Loader
	found  []car.Block
}

// Close closes the archives.
func (b *IndexBlocks) Close() error {
	_ = b.loader.Close() // files were only read
	_ = b.peek.Close()
	return nil
}

// find returns where a block is, which may be within its CID.
func (b *IndexBlocks) find(c cid.Cid) (car.Block, error) {
	if data, ok := links.Identity(c); ok {
		return car.Block{Cid: c, Head: data}, nil
	}
	blk, ok := b.index.Find(c)
	if !ok {
		return blk, ErrMissing
	}
	return blk, nil
}

// Load implements [Blocks].
func (b *IndexBlocks) Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error) {
	b.found = b.found[:0]
	size := 0
	for i, c := range cids {
		blk, err := b.find(c)
		if i > 0 && (err != nil || size+blk.Size() > groupBytes) {
			break
		}
		if err != nil {
			return nil, err
		}
		size += blk.Size()
		b.found = append(b.found, blk)
	}
	out, err := b.loader.LoadAll(ctx, b.found)
	if err != nil && len(b.found) > 1 && ctx.Err() == nil {
		// One of them is bad, but perhaps not the first.
		return b.loader.LoadAll(ctx, b.found[:1])
	}
	return out, err
}

// Peek implements [Blocks].
func (b *IndexBlocks) Peek(ctx context.Context, c cid.Cid) ([]byte, error) {
	blk, err := b.find(c)
	if err != nil {
		return nil, err
	}
	return b.peek.Load(ctx, blk)
}

// Len implements [Blocks].
func (b *IndexBlocks) Len(_ context.Context, c cid.Cid) (int64, error) {
	blk, err := b.find(c)
	return int64(blk.Size()), err
}

// store reads and decodes blocks. It is not safe for concurrent use.
type store struct {
	Blocks
	Follower
	sizer unixfs.Sizer
}

func newStore(b Blocks) *store {
	s := &store{Blocks: b, Follower: nobody{}}
	if f, ok := b.(Follower); ok {
		s.Follower = f
	}
	s.sizer.Blocks = sized{b}
	return s
}

// sized gives blocks to the sizer without overwriting what Load returned.
type sized struct{ Blocks }

// Load implements unixfs.Blocks.
func (s sized) Load(ctx context.Context, c cid.Cid) ([]byte, error) { return s.Peek(ctx, c) }

// node loads and decodes a block.
func (s *store) node(ctx context.Context, c cid.Cid) (*unixfs.Node, error) {
	if codec := c.Prefix().Codec; codec != links.Raw && codec != links.DagPB {
		return unixfs.Decode(codec, nil) // reports the codec, without loading the block
	}
	data, err := s.Load(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.decode(ctx, c, data[0])
}

// decode decodes a block. The node of a file gets its sizes.
func (s *store) decode(ctx context.Context, c cid.Cid, data []byte) (*unixfs.Node, error) {
	n, err := unixfs.Decode(c.Prefix().Codec, data)
	if err != nil {
		return nil, err
	}
	return n, s.sizer.Size(ctx, n)
}
