// Package copying makes inputs from DAGs that are held elsewhere: on gateways,
// which need not be trusted, and at targets that return blocks.
//
// Pass 1 learns what is under a root from its inner nodes. It does not fetch
// leaves, but takes their sizes from the nodes above them. Pass 2 streams the
// blocks of a shard in order; they are fetched ahead and checked. A small DAG
// is fetched only once, and kept in memory.
//
// Nodes may state wrong sizes. That is found when the block arrives, before it
// is sent, and reported as a [*SizeError]. [Options.Exact] relies only on the
// blocks themselves.
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

// smallBytes is the largest payload of a DAG that is kept in memory between the
// passes.
const smallBytes = 4 << 20

// Options configure [NewInput]. The zero value is a good default.
type Options struct {
	// MaxShardBytes is the shard limit of the uploader, or 0 for the default.
	// It bounds what is fetched ahead.
	MaxShardBytes int64
	// Name is the name of the upload at targets. It may be empty.
	Name string
	// Exact fetches all blocks in pass 1 and trusts no sizes.
	Exact bool
}

// Input is the DAG under a root in a pool. It implements [uploader.Input].
type Input struct {
	ctx  context.Context //nolint:containedctx // sources are opened without one
	pool *gateway.Pool
	root cid.Cid
	opts Options
}

// NewInput makes an input. Cancelling ctx also ends what it fetches in pass 2.
func NewInput(ctx context.Context, pool *gateway.Pool, root cid.Cid, opts Options) *Input {
	if opts.MaxShardBytes == 0 {
		opts.MaxShardBytes = splitter.DefaultMaxShardBytes
	}
	return &Input{ctx, pool, root, opts}
}

// Name implements [uploader.Input]. It returns the root.
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

// CacheKey implements [uploader.Cacheable]. A DAG never changes.
func (in *Input) CacheKey() string { return "copy of " + in.root.String() }

// Restore implements [uploader.Cacheable].
func (in *Input) Restore(plan []byte) (uploader.DAG, error) {
	if in.opts.Exact {
		return nil, errors.New("the description may be wrong")
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

// SizeError reports a block that contradicts the nodes above it: its size
// differs, or it has links although it should be a leaf. It matches
// [car.ErrSourceChanged], so that a description based on it is dropped.
type SizeError struct {
	Block cid.Cid
	Said  int // size according to the nodes above
	Size  int // actual size
}

func (e *SizeError) Error() string {
	if e.Said == e.Size {
		return fmt.Sprintf("block %s has links, but is a leaf according to the nodes above it", e.Block)
	}
	return fmt.Sprintf("block %s has %d bytes, but should have %d according to the nodes above it", e.Block, e.Size, e.Said)
}

// Is reports whether target is [car.ErrSourceChanged].
func (e *SizeError) Is(target error) bool { return target == car.ErrSourceChanged }
