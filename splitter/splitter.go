// Package splitter decides which block goes into which shard.
//
// A shard is an archive that a service accepts in one request. Every shard
// stands on its own: it starts with the root block and the path from the root
// to its first new block, followed by new blocks, depth first. Each block is
// new in exactly one shard. The size limit counts the bytes that are sent:
// header, length prefixes, CIDs and payloads.
//
// Splitting does no I/O and is deterministic: the same blocks and the same
// limit give the same plan.
package splitter

import (
	"errors"
	"fmt"

	"github.com/carload/carload/car"
)

// DefaultMaxShardBytes is safe for services with a limit of "100 MB", whether
// that means 10^8 bytes or 100 MiB.
const DefaultMaxShardBytes = 100_000_000

// ErrBlockTooLarge is wrapped by the error for a block that does not fit into a
// shard together with the root and its path.
var ErrBlockTooLarge = errors.New("block does not fit into a shard")

// Options configure [Split].
type Options struct {
	MaxShardBytes int64 // 0 means DefaultMaxShardBytes
}

// Validate reports what is wrong with the options.
func (o Options) Validate() error {
	if o.MaxShardBytes < 0 {
		return fmt.Errorf("shard limit of %d bytes: must be positive, or 0 for the default", o.MaxShardBytes)
	}
	return nil
}

// Plan says how the blocks of a DAG are distributed over shards. It refers to
// the list it was made from. It is safe for concurrent use if the list is.
type Plan struct {
	Blocks        car.List
	Shards        []Shard
	MaxShardBytes int64
}

// Shard is one archive of a plan: the blocks in Path, then the blocks First to
// End-1. These are indexes of the plan's list.
type Shard struct {
	Path       []int // ancestors of block First, root first; empty if First is the root
	First, End int
	Size       int64 // in bytes, exactly as sent
}

// Archive returns the recipe of shard i.
func (p *Plan) Archive(i int) car.Archive {
	s := &p.Shards[i]
	return car.Archive{Root: p.Blocks.At(0).Cid, Blocks: shardBlocks{p.Blocks, s}, Size: s.Size}
}

// Size is the total size of all shards in bytes.
func (p *Plan) Size() int64 {
	var n int64
	for i := range p.Shards {
		n += p.Shards[i].Size
	}
	return n
}

// shardBlocks is the list of one shard's blocks.
type shardBlocks struct {
	all car.List
	*Shard
}

func (s shardBlocks) Len() int { return len(s.Path) + s.End - s.First }

func (s shardBlocks) At(i int) car.Block {
	if i < len(s.Path) {
		return s.all.At(s.Path[i])
	}
	return s.all.At(s.First + i - len(s.Path))
}

// Split distributes blocks over shards. The list must be depth first, with
// parents before children and each CID once. Besides invalid options, the only
// error is one that matches [ErrBlockTooLarge].
func Split(blocks car.List, opts Options) (*Plan, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.MaxShardBytes == 0 {
		opts.MaxShardBytes = DefaultMaxShardBytes
	}
	p := &Plan{Blocks: blocks, MaxShardBytes: opts.MaxShardBytes}
	var (
		path   []ancestor // of the current block
		header int64
		cur    = Shard{}
	)
	for i := range blocks.Len() {
		b := blocks.At(i)
		size := b.SectionSize()
		if i == 0 {
			header = car.HeaderSize(b.Cid)
			cur.Size = header
		}
		path = path[:min(b.Depth, len(path))]
		if cur.Size+size > opts.MaxShardBytes {
			// Services refuse a shard that holds only the root, so the second
			// block has to go into the first shard.
			if cur.End-cur.First > 0 && i > 1 {
				p.Shards = append(p.Shards, cur)
				cur = Shard{First: i, End: i, Size: header, Path: make([]int, len(path))}
				for k, a := range path {
					cur.Path[k] = a.index
					cur.Size += a.size
				}
			}
			if need := cur.Size + size; need > opts.MaxShardBytes {
				return nil, fmt.Errorf("%w: %s of %d bytes needs a shard of %d bytes with the root and its path, but the limit is %d: raise the limit or use smaller chunks",
					ErrBlockTooLarge, b.Cid, b.Size(), need, opts.MaxShardBytes)
			}
		}
		cur.Size += size
		cur.End = i + 1
		path = append(path, ancestor{i, size})
	}
	if cur.End > cur.First {
		p.Shards = append(p.Shards, cur)
	}
	return p, nil
}

type ancestor struct {
	index int
	size  int64
}
