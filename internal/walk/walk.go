// Package walk reads DAGs for consumers that need their blocks in order: the
// bytes of files, or the blocks of archives.
//
// A walk reads ahead. It knows which blocks come next before the consumer has
// used the first ones, so it looks up and reads many at once. Buffers for
// leaves are reused. Limits in bytes apply to what all walks together hold, and
// to how much a walk may read without yielding anything. A walk yields only
// blocks that it has checked, in order. It ends with an error at the first
// block that it can't read.
package walk

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
)

var (
	// ErrMissing is wrapped by errors about a block that is not held.
	ErrMissing = errors.New("block is not held")

	// ErrBusy is wrapped by errors that say that there is currently no memory
	// or no place for a walk.
	ErrBusy = errors.New("too much is being read at the moment")

	// ErrFruitless is wrapped by errors about a DAG that takes far too much
	// work for the bytes that it yields.
	ErrFruitless = errors.New("too much work for too few bytes")
)

// Blocks is a source of blocks. It must be safe for concurrent use.
type Blocks interface {
	// Find looks up blocks. The result has one place per CID. No CID is an
	// identity CID.
	Find(ctx context.Context, cids []cid.Cid) (Places, error)
}

// Places says where some blocks are. It need not be safe for concurrent use.
type Places interface {
	// Size returns the length of block i, or -1 if it is not held.
	Size(i int) int

	// Read reads the blocks from i up to j, all of which are held, into buf one
	// after the other, and checks them against their CIDs. It returns how many
	// blocks were right before the first that can't be read, and the error for
	// that one. If a block was lost, the error matches [ErrMissing].
	Read(ctx context.Context, i, j int, buf []byte) (int, error)
}

// Options are the limits of a [Reader]. Zero means a default.
type Options struct {
	// Memory is how many bytes all walks together may hold for reading ahead,
	// including what they must remember. When it is used up, a walk can still
	// hold two blocks.
	Memory int64

	// Walks is how many walks may be active at a time. Others wait. If the
	// consumer of an active walk is stalled, the walk is suspended ("set
	// aside") until the consumer goes on.
	Walks int

	// Aside is how many bytes all suspended walks may hold. If they hold more,
	// the longest stalled one ends.
	Aside int64

	// HangUp is called with the context of a walk that must end while its
	// writer is stalled. It should make the writer give up. If nil, nothing is
	// done.
	HangUp func(context.Context)
}

const (
	defaultMemory = 64 << 20
	defaultWalks  = 64
	defaultAside  = 64 << 20
)

// Reader starts walks and divides the memory between them. It is safe for
// concurrent use.
type Reader struct {
	blocks Blocks
	memory *memory
	room   *room
}

// NewReader returns a Reader for these blocks.
func NewReader(b Blocks, opts Options) *Reader {
	if opts.Memory == 0 {
		opts.Memory = defaultMemory
	}
	if opts.Walks == 0 {
		opts.Walks = defaultWalks
	}
	if opts.Aside == 0 {
		opts.Aside = defaultAside
	}
	r := &Reader{blocks: b, memory: newMemory(opts.Memory)}
	r.room = newRoom(r.memory, opts)
	return r
}

// Block returns a block in its own memory. It is meant for the few blocks that
// decide where a walk goes.
func (r *Reader) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if inline, ok := links.Identity(c); ok {
		return inline, nil
	}
	found, err := r.blocks.Find(ctx, []cid.Cid{c})
	if err != nil {
		return nil, err
	}
	if found.Size(0) < 0 {
		return nil, missing(c)
	}
	buf := make([]byte, found.Size(0))
	if _, err := found.Read(ctx, 0, 1, buf); err != nil {
		return nil, err
	}
	return buf, nil
}

// Size returns the length of a block without reading it.
func (r *Reader) Size(ctx context.Context, c cid.Cid) (int64, error) {
	if inline, ok := links.Identity(c); ok {
		return int64(len(inline)), nil
	}
	found, err := r.blocks.Find(ctx, []cid.Cid{c})
	if err != nil {
		return 0, err
	}
	if found.Size(0) < 0 {
		return 0, missing(c)
	}
	return int64(found.Size(0)), nil
}

func missing(c cid.Cid) error { return fmt.Errorf("block %s: %w", c, ErrMissing) }
