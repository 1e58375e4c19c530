// Package copying makes inputs of DAGs that are held elsewhere: on gateways that
// need not be trusted, and at targets that give blocks back.
//
// Pass 1 learns what there is under a root from its inner nodes. Leaves are not
// fetched: their sizes are what the nodes above them say. Pass 2 streams the
// blocks of a shard in order, fetched ahead and checked. A small DAG is fetched
// once, and kept in memory.
//
// Nodes may say what is not so. That is found when the block arrives, which is
// before it is sent, and reported by a [*SizeError]; [Options.Exact] goes by what
// the blocks are.
package copying

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
)

// smallBytes is the most payload of a DAG that is kept in memory between the
// passes.
const smallBytes = 4 << 20

// Options are the knobs of [NewInput]. The zero value is good.
type Options struct {
	// MaxShardBytes is that of the uploader, or 0. What is fetched ahead ends
	// where a shard of that size does.
	MaxShardBytes int64
	// Name is what targets call the upload; it may be empty.
	Name string
	// Exact fetches all blocks in pass 1 and believes no sizes.
	Exact bool
}

// Input is the DAG under a root, fetched from a pool. It is an [uploader.Input].
type Input struct {
	ctx  context.Context //nolint:containedctx // sources are opened without one
	pool *gateway.Pool
	root cid.Cid
	opts Options
}

// NewInput makes an input. What it fetches in pass 2 ends with ctx.
func NewInput(ctx context.Context, pool *gateway.Pool, root cid.Cid, opts Options) *Input {
	if opts.MaxShardBytes == 0 {
		opts.MaxShardBytes = splitter.DefaultMaxShardBytes
	}
	return &Input{ctx, pool, root, opts}
}

// Name implements [uploader.Input]. It is the root.
func (in *Input) Name() string { return in.root.String() }

// UploadName implements [uploader.Input].
func (in *Input) UploadName() string { return in.opts.Name }

// Close implements [uploader.Input].
func (in *Input) Close() error { return nil }

// Describe implements [uploader.Input].
func (in *Input) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	w := &walk{reader: in.pool.NewReader(ctx), exact: in.opts.Exact, out: newDAG(in), seen: make(map[string]struct{}), read: read}
	defer w.reader.Close()
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	if w.kept != nil {
		return &held{w.kept, w.out.Size()}, nil
	}
	return w.out, nil
}

// CacheKey implements [uploader.Cacheable]: a DAG never changes.
func (in *Input) CacheKey() string { return "copy of " + in.root.String() }

// Restore implements [uploader.Cacheable].
func (in *Input) Restore(plan []byte) (uploader.DAG, error) {
	if in.opts.Exact {
		return nil, errors.New("the plan may be what was wrong")
	}
	d := newDAG(in)
	if err := d.unmarshal(plan); err != nil {
		return nil, err
	}
	return d, nil
}

// held is a DAG in memory.
type held struct {
	car.Blocks
	bytes int64
}

func (h *held) Root() cid.Cid { return h.Blocks[0].Cid }
func (h *held) Size() int64   { return h.bytes }

// SizeError names a block that is not what the nodes above it say: that has
// another size, or links although it was to be a leaf. It matches
// [car.ErrSourceChanged], so that no plan is kept that goes by it.
type SizeError struct {
	Block cid.Cid
	Said  int // what its size was to be
	Size  int // what it is
}

func (e *SizeError) Error() string {
	if e.Said == e.Size {
		return fmt.Sprintf("block %s has links, and is a leaf by what is said above it", e.Block)
	}
	return fmt.Sprintf("block %s has %d bytes, and %d by what is said above it", e.Block, e.Size, e.Said)
}

// Is reports whether target is [car.ErrSourceChanged].
func (e *SizeError) Is(target error) bool { return target == car.ErrSourceChanged }
