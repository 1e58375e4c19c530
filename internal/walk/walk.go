// Package walk reads DAGs in the order in which their blocks are wanted, ahead
// of whoever wants them: the bytes of files, and the blocks of archives.
//
// It knows where to go on before the blocks that come first are used up, so it
// asks for many at once. Leaves are read into buffers that are used again; what
// all walks hold together is bounded in bytes, and so is what a walk may read
// that yields nothing. A walk gives only what was checked, in order, and the
// first block that can't be had ends it with an error.
package walk

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
)

var (
	// ErrMissing is wrapped by errors that report a block which is not held.
	ErrMissing = errors.New("block is not held")

	// ErrBusy is wrapped by errors that report that there is no memory or no
	// place for a walk at this time.
	ErrBusy = errors.New("too much is being read at this time")

	// ErrFruitless is wrapped by errors that report a DAG which takes far more
	// work than it yields bytes.
	ErrFruitless = errors.New("too much work for too few bytes")
)

// Blocks is where blocks come from. It is safe for concurrent use.
type Blocks interface {
	// Find tells where blocks are. What it returns has as many places as there
	// are CIDs, none of which is an identity CID.
	Find(ctx context.Context, cids []cid.Cid) (Places, error)
}

// Places is where some blocks are. It is for one goroutine.
type Places interface {
	// Size returns the length of block i, or -1 if it is not held.
	Size(i int) int

	// Read reads the blocks from i up to j, all of which are held, into buf, one
	// after the other, and checks that they are what their CIDs say. It returns
	// how many are right before the first that can't be had, and why that is so.
	// An error that matches [ErrMissing] says that the block was lost.
	Read(ctx context.Context, i, j int, buf []byte) (int, error)
}

// Options are the bounds of a [Reader]. Zero means a default.
type Options struct {
	// Memory is how many bytes all walks together may hold to be ahead, for
	// what they have to remember included. Beyond it a walk has two blocks.
	Memory int64

	// Walks is how many walks there may be at a time. Others wait, unless there
	// is one whose reader doesn't read: that is set aside until it does.
	Walks int

	// Aside is how many bytes all walks that are set aside may hold. The one
	// that stands still for longest ends when there are more.
	Aside int64

	// HangUp is called with the context of a walk that is to end although its
	// writer stands still, to have that give up. Nil means that none can be had
	// to.
	HangUp func(context.Context)
}

const (
	defaultMemory = 64 << 20
	defaultWalks  = 64
	defaultAside  = 64 << 20
)

// Reader starts walks, and shares out the memory between them. It is safe for
// concurrent use.
type Reader struct {
	blocks Blocks
	memory *memory
	room   *room
}

// NewReader returns a Reader of these blocks.
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

// Block returns a block in memory of its own. It is for the few that decide
// where to go.
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

// Size returns the length of a block, unread.
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
