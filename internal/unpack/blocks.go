package unpack

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// Blocks is where the blocks of a DAG come from. It is for one goroutine. A
// block that is nowhere is reported by an error matching [ErrMissing].
type Blocks interface {
	// Load returns the payloads of the first of these blocks, one or more, each
	// of which is that of its CID. They are valid until the next call of Load. An
	// error is that of the first block.
	Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error)
	// Peek returns a block as Load does, and leaves what Load returned as it is.
	// It is valid until the next call of Peek.
	Peek(ctx context.Context, c cid.Cid) ([]byte, error)
	// Len returns how long a block is.
	Len(ctx context.Context, c cid.Cid) (int64, error)
}

// Follower is told where a walk through a DAG is and where it goes. [Blocks]
// that are one can fetch ahead.
type Follower interface {
	// Enter tells that the children of a node are walked next, in this order, and
	// how much the node says there is below each: the children of a file's node,
	// or of a directory or a part of one. Leave ends that.
	Enter(kids []cid.Cid, sizes []int64, file bool)
	Leave()
	// At tells that the walk is at this child of the node that was entered last.
	At(i int)
	// OpenFile tells that the content of a file is read next, from an offset to
	// its end. CloseFile ends that.
	OpenFile(c cid.Cid, from, size int64)
	CloseFile()
	// Pause tells that for now much of the content is found elsewhere, or that
	// this is over.
	Pause(paused bool)
}

// nobody follows.
type nobody struct{}

func (nobody) Enter([]cid.Cid, []int64, bool) {}
func (nobody) Leave()                         {}
func (nobody) At(int)                         {}
func (nobody) OpenFile(cid.Cid, int64, int64) {}
func (nobody) CloseFile()                     {}
func (nobody) Pause(bool)                     {}

// Index is the blocks in indexed archives. It is closed when it is no longer
// used.
func Index(x *car.Index) *IndexBlocks { return &IndexBlocks{index: x} }

// IndexBlocks are [Blocks] in archives.
type IndexBlocks struct {
	index  *car.Index
	loader car.Loader
	peek   car.Loader
	found  []car.Block
}

// Close lets go of the archives.
func (b *IndexBlocks) Close() error {
	_ = b.loader.Close() // archives were only read
	_ = b.peek.Close()
	return nil
}

// find tells where a block is, be it within its CID.
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
		// One of them is bad, perhaps not the first.
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

// store is where blocks come from. It is for one goroutine.
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

// sized is where the sizer has blocks from.
type sized struct{ Blocks }

// Load implements unixfs.Blocks.
func (s sized) Load(ctx context.Context, c cid.Cid) ([]byte, error) { return s.Peek(ctx, c) }

// node loads and decodes a block.
func (s *store) node(ctx context.Context, c cid.Cid) (*unixfs.Node, error) {
	if codec := c.Prefix().Codec; codec != links.Raw && codec != links.DagPB {
		return unixfs.Decode(codec, nil) // which tells, without the block
	}
	data, err := s.Load(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.decode(ctx, c, data[0])
}

// decode decodes a block. If it is of a file, its sizes are known.
func (s *store) decode(ctx context.Context, c cid.Cid, data []byte) (*unixfs.Node, error) {
	n, err := unixfs.Decode(c.Prefix().Codec, data)
	if err != nil {
		return nil, err
	}
	return n, s.sizer.Size(ctx, n)
}
