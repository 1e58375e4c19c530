// Package gateway gets DAGs back from places that need not be trusted: the
// trustless gateways of IPFS, and targets that give blocks back.
//
// A [Pool] has one source of blocks or several. It asks them side by side, and
// whatever one of them does wrong (other bytes, too many, none, or slowly) costs
// a try at another one. What it hands out is what was asked for: each block is
// hashed before. A [Reader] fetches ahead of a walk through a DAG, in parallel
// and bounded in bytes.
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

// Source is where blocks come from. It may be an [uploader.ArchiveFetcher] and
// an [uploader.RangeFetcher] as well, which is quicker.
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

// fetches is how many requests a [Reader] has at a time.
const fetches = 16

// Options are the knobs of [NewPool]. The zero value is good.
type Options struct {
	// Retries is how often all sources are asked again after all have failed; 0
	// means DefaultRetries, negative none.
	Retries int
	// AheadBytes is how much each [Reader] fetches ahead, by two requests or
	// more; 0 means DefaultAheadBytes.
	AheadBytes int64
	// Hedge is how long one request may take before another source is asked as
	// well; 0 means DefaultHedge.
	Hedge    time.Duration
	Observer uploader.Observer // is told of retries; nil for none
	Logger   *slog.Logger      // nil for none
	Clock    uploader.Clock    // for waits between tries; nil means that of the machine
}

// Pool is sources of the same blocks. It is safe for concurrent use.
type Pool struct{ pool *fetch.Pool }

// NewPool makes a pool of one source or more.
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

// Block returns the payload of a block. An error matches
// [uploader.ErrNotFound] if no source has the block, [car.ErrCorrupt] if those
// that say so have other bytes, [uploader.ErrUnavailable] if retries were used
// up.
func (p *Pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) { return p.pool.Block(ctx, c) }

// Reader gives the blocks of DAGs to one goroutine that walks them. It is told
// where the walk is, and what comes next it fetches ahead: a few MiB, in
// parallel. Being told nothing, or wrongly, costs no more than speed. A Reader
// is closed when it is no longer used.
type Reader = fetch.Reader

// NewReader makes a reader. What it fetches ahead ends with ctx.
func (p *Pool) NewReader(ctx context.Context) *Reader { return p.pool.NewReader(ctx) }

// Walk says what is done with the blocks of a DAG.
type Walk struct {
	// Visit is called with each block once, before those that it links to and in
	// the order of its links: the order of an archive. The bytes are lent until it
	// returns. Its error ends the walk.
	Visit func(c cid.Cid, data []byte) error
	// Fault is called with a block that no source has, or none as its CID says,
	// or that can't be decoded. What is below it is left out. It may be nil: then
	// the first such block ends the walk, as does an error that Fault returns.
	Fault func(c cid.Cid, err error) error
	// Total, if it is not nil, is kept at the number of bytes of all blocks, as far
	// as the nodes tell that have links to them.
	Total *atomic.Int64
}

// Walk fetches everything below a block of any kind that has links, ahead and in
// parallel. It remembers the CIDs that it met. An error is that of a block or a
// call, or matches [uploader.ErrUnavailable] if no source answers.
func (p *Pool) Walk(ctx context.Context, root cid.Cid, w Walk) error {
	return p.pool.Walk(ctx, root, fetch.Walk(w))
}
