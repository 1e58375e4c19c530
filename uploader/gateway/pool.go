// Package gateway retrieves DAGs from places that need not be trusted:
// trustless IPFS gateways, and targets that return blocks.
//
// A [Pool] has one or more sources of blocks, and asks them in parallel. If a
// source misbehaves (wrong bytes, too many, none, or too slow), another is
// tried. Every block is hashed before it is handed out. A [Reader] fetches
// ahead of a walk through a DAG, in parallel and with limited memory.
package gateway

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/fetch"
	"github.com/carload/carload/uploader"
)

// Source is where blocks come from. If it is also an [uploader.ArchiveFetcher]
// and an [uploader.RangeFetcher], it is faster.
type Source interface {
	// String names the source in messages.
	String() string
	uploader.BlockFetcher
}

// Defaults of [Options].
const (
	DefaultRetries    = 5
	DefaultHedge      = 3 * time.Second
	DefaultAheadBytes = 14 << 20 // three requests
)

// fetches is how many requests a [Reader] makes at a time.
const fetches = 16

// Options configure [NewPool]. The zero value is a good default.
type Options struct {
	// Retries is how often all sources are asked again after all have failed; 0
	// means DefaultRetries, negative none.
	Retries int
	// AheadBytes is how much each [Reader] fetches ahead, in at least two
	// requests; 0 means DefaultAheadBytes.
	AheadBytes int64
	// Hedge is how long a request may take before another source is asked too;
	// 0 means DefaultHedge.
	Hedge    time.Duration
	Observer uploader.Observer // receives [uploader.Retrying] events; nil means none
	Logger   *slog.Logger      // nil means none
	Clock    uploader.Clock    // for waits between attempts; nil means the system clock
}

// Pool is one or more sources of the same blocks. It is safe for concurrent
// use.
type Pool struct{ pool *fetch.Pool }

// NewPool makes a pool of one or more sources.
func NewPool(opts Options, sources ...Source) *Pool {
	to := fetch.Options{
		Retries: opts.Retries, AheadBytes: opts.AheadBytes, Fetches: fetches, Hedge: opts.Hedge,
		Retryable: uploader.Retryable, Retrying: func(cid.Cid, int, time.Duration, error) {},
		Logger: opts.Logger, Clock: opts.Clock,
	}
	switch {
	case to.Retries == 0:
		to.Retries = DefaultRetries
	case to.Retries < 0:
		to.Retries = 0
	}
	if to.Hedge == 0 {
		to.Hedge = DefaultHedge
	}
	if to.AheadBytes == 0 {
		to.AheadBytes = DefaultAheadBytes
	}
	if to.Logger == nil {
		to.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		to.Clock = uploader.MachineClock{}
	}
	if o := opts.Observer; o != nil {
		to.Retrying = func(c cid.Cid, attempt int, wait time.Duration, err error) {
			o.Observe(uploader.Retrying{Name: c.String(), Index: uploader.NoShard, Attempt: attempt, Wait: wait, Err: err})
		}
	}
	all := make([]fetch.Source, len(sources))
	for i, s := range sources {
		all[i] = fetch.Source{Name: s.String(), Block: s.FetchBlock}
		if a, ok := s.(uploader.ArchiveFetcher); ok {
			all[i].Archive = a.FetchArchive
		}
		if r, ok := s.(uploader.RangeFetcher); ok {
			all[i].Range = r.FetchRange
		}
	}
	return &Pool{fetch.NewPool(to, all...)}
}

// Block returns the payload of a block. The error matches
// [uploader.ErrNotFound] if no source has the block, [car.ErrCorrupt] if the
// sources that claim to have it return wrong bytes, and
// [uploader.ErrUnavailable] if all attempts failed.
func (p *Pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) { return p.pool.Block(ctx, c) }

// Reader returns the blocks of DAGs to a goroutine that walks them. It is told
// where the walk is, and fetches a few MiB of what comes next, in parallel.
// Missing or wrong hints cost only speed. A Reader is not safe for concurrent
// use. The caller closes it.
type Reader = fetch.Reader

// NewReader makes a reader. Cancelling ctx ends its fetching ahead.
func (p *Pool) NewReader(ctx context.Context) *Reader { return p.pool.NewReader(ctx) }

// Walk says what to do with the blocks of a DAG.
type Walk struct {
	// Visit is called once for each block, before the blocks that it links to,
	// and in the order of links: the order of an archive. data is valid until
	// Visit returns. An error ends the walk.
	Visit func(c cid.Cid, data []byte) error
	// Fault is called for a block that no source has with the right bytes, or
	// that cannot be decoded. Everything below the block is left out. If Fault
	// is nil, the first such block ends the walk, as does an error from Fault.
	Fault func(c cid.Cid, err error) error
	// Total, if not nil, is kept at the total size of all blocks, as far as
	// known from the nodes that link to them.
	Total *atomic.Int64
}

// Walk fetches everything below a block of any codec with links, ahead and in
// parallel. It remembers the CIDs that it has visited. It returns the error of
// a block or of a callback, or one that matches [uploader.ErrUnavailable] if no
// source responds.
func (p *Pool) Walk(ctx context.Context, root cid.Cid, w Walk) error {
	return p.pool.Walk(ctx, root, fetch.Walk(w))
}
