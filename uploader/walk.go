package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/fetch"
	"github.com/carload/carload/internal/links"
)

// walk fetches blocks from a target and checks them.
type walk struct {
	u      *Uploader
	name   string
	blocks BlockFetcher
	known  car.List      // blocks of the DAG; nil if unknown
	full   *fetch.Walker // walks all blocks; nil until it is needed

	mu     sync.Mutex
	bad    *VerifyError         // nil while all is well
	noted  map[cid.Cid]struct{} // blocks in bad
	good   cid.Cid              // a block that was fetched; undefined before the first
	failed int                  // blocks that failed although others could be fetched
}

// mostFailed limits how many such blocks are tried to the end, since each takes
// all its retries.
const mostFailed = 16

// mostSuspects limits the list of bad blocks. Those beyond it are found next
// time.
const mostSuspects = 100_000

func newWalk(u *Uploader, name string, known car.List) *walk {
	w := &walk{u: u, name: name, known: known}
	w.blocks, _ = u.target.(BlockFetcher)
	return w
}

// aheadBytes is how much a full walk fetches ahead: three requests, or two long ones.
const aheadBytes = 14 << 20

// all fetches everything below these blocks, except what it fetched before.
func (w *walk) all(ctx context.Context, roots ...cid.Cid) error {
	if w.full == nil {
		w.full = w.newFull()
	}
	for _, c := range roots {
		if err := w.full.Below(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) newFull() *fetch.Walker {
	p := &w.u.progress
	visits := fetch.Walk{
		Visit: func(c cid.Cid, data []byte) error {
			w.had(c)
			p.verified.Add(int64(len(data)))
			if w.u.stopping() {
				return ErrStopped
			}
			return nil
		},
		Fault: func(_ cid.Cid, err error) error {
			if errors.Is(err, links.ErrInvalid) {
				w.undecodable(err)
			}
			return nil // other faults have been noted
		},
	}
	if w.known == nil {
		visits.Total = &p.toVerify
	} else {
		for i := range w.known.Len() {
			b := w.known.At(i)
			p.toVerify.Add(int64(b.Size()))
		}
	}
	return fetch.NewPool(fetch.Options{
		AheadBytes: aheadBytes, Fetches: w.u.opts.Transfers, Hedge: math.MaxInt64, // there is no other source
		Retryable: func(error) (bool, time.Duration) { return false, 0 }, // the source has retried already
		Retrying:  func(cid.Cid, int, time.Duration, error) {},
		Logger:    w.u.opts.Logger, Clock: w.u.opts.Clock,
	}, w.source()).NewWalker(visits)
}

// source makes the target a source. It retries requests as the uploader does.
func (w *walk) source() fetch.Source {
	open := func(ctx context.Context, f func() (io.ReadCloser, error)) (body io.ReadCloser, err error) {
		_, err = w.u.retry(ctx, w.name, NoShard, func() (err error) {
			body, err = f()
			return err
		})
		return body, err
	}
	s := fetch.Source{Name: w.u.target.String(), Block: func(ctx context.Context, c cid.Cid, limit int) ([]byte, error) {
		data, err := w.fetch(ctx, c, limit)
		if data == nil && err == nil {
			err = fmt.Errorf("block %s: %w", c, ErrNotFound) // the reason has been noted
		}
		return data, err
	}}
	if t, ok := w.u.target.(ArchiveFetcher); ok {
		s.Archive = func(ctx context.Context, c cid.Cid) (io.ReadCloser, error) {
			return open(ctx, func() (io.ReadCloser, error) { return t.FetchArchive(ctx, c) })
		}
	}
	if t, ok := w.u.target.(RangeFetcher); ok {
		s.Range = func(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error) {
			return open(ctx, func() (io.ReadCloser, error) { return t.FetchRange(ctx, c, from, to) })
		}
	}
	return s
}

// list walks the nodes that may have links, and returns the CIDs of all blocks.
func (w *walk) list(ctx context.Context, root cid.Cid) ([]cid.Cid, error) {
	all := []cid.Cid{root}
	met := map[cid.Cid]struct{}{root: {}}
	for level := all; len(level) > 0; {
		var mu sync.Mutex // guards all and met
		first := len(all)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(w.u.opts.Transfers)
		for _, c := range level {
			if !links.Possible(c.Prefix().Codec) {
				continue
			}
			if gctx.Err() != nil {
				break
			}
			g.Go(func() error {
				data, err := w.fetch(gctx, c, car.MaxBlockBytes)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				err = links.Each(c, data, func(c cid.Cid) error {
					if _, ok := met[c]; !ok {
						met[c] = struct{}{}
						all = append(all, c)
					}
					return nil
				})
				if err != nil && data != nil {
					w.undecodable(err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		level = all[first:]
	}
	return all, nil
}

// undecodable logs a block that cannot be decoded. Its hash is right, so it is
// what was sent: a leaf whose codec was not known to have links.
func (w *walk) undecodable(err error) {
	w.u.opts.Logger.Warn("a block can't be decoded; what it links to is not verified", "upload", w.name, "err", err)
}

// sample fetches blocks at random positions below n.
func (w *walk) sample(ctx context.Context, n int, at func(i int) (c cid.Cid, size int)) (*SampleReport, error) {
	report := &SampleReport{Blocks: n, Sample: min(n, w.u.opts.SampleBlocks)}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(w.u.opts.Transfers)
	for _, i := range positions(n, report.Sample) {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			c, size := at(i)
			_, err := w.fetch(ctx, c, size)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return report, nil
}

// positions returns k distinct random numbers below n.
func positions(n, k int) []int {
	// Floyd's algorithm needs no memory for the other n-k numbers.
	chosen := make(map[int]bool, k)
	list := make([]int, 0, k)
	for i := n - k; i < n; i++ {
		p := rand.IntN(i + 1)
		if chosen[p] {
			p = i
		}
		chosen[p] = true
		list = append(list, p)
	}
	return list
}

// fetch fetches a block and checks it. If the block is missing or wrong, fetch
// notes it and returns nil. Only what ends the walk is an error.
func (w *walk) fetch(ctx context.Context, c cid.Cid, size int) ([]byte, error) {
	var data []byte
	_, err := w.u.retry(ctx, w.name, NoShard, func() (err error) {
		data, err = w.blocks.FetchBlock(ctx, c, size)
		return err
	})
	switch {
	case err == nil:
		bad, err := car.Mismatch([]cid.Cid{c}, [][]byte{data})
		if err != nil {
			return nil, err
		}
		if bad >= 0 {
			w.suspect(c, true)
			return nil, nil
		}
		w.had(c)
		if data == nil {
			data = []byte{}
		}
		return data, nil
	case errors.Is(err, car.ErrCorrupt):
		w.suspect(c, true)
		return nil, nil
	case errors.Is(err, ErrNotFound), w.alone(ctx, c, err):
		w.suspect(c, false)
		return nil, nil
	}
	return nil, fmt.Errorf("fetch block %s: %w", c, err)
}

// had notes a block that was fetched.
func (w *walk) had(c cid.Cid) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.good = c
}

// suspect notes a block that is wrong or missing.
func (w *walk) suspect(c cid.Cid, wrong bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bad == nil {
		w.bad, w.noted = new(VerifyError), map[cid.Cid]struct{}{}
	}
	if _, ok := w.noted[c]; ok {
		return
	}
	w.noted[c] = struct{}{}
	switch {
	case len(w.bad.Missing)+len(w.bad.Wrong) >= mostSuspects:
	case wrong:
		w.bad.Wrong = append(w.bad.Wrong, c)
	default:
		w.bad.Missing = append(w.bad.Missing, c)
	}
}

// alone reports whether only this block is unavailable, for the given reason. A
// service that is down is not a service that lacks a block.
func (w *walk) alone(ctx context.Context, c cid.Cid, reason error) bool {
	if ctx.Err() != nil || errors.Is(reason, ErrStopped) || errors.Is(reason, ErrUnauthorized) || !w.answers(ctx, c) {
		return false
	}
	w.u.breaker.succeeded()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed++; w.failed > mostFailed {
		return false
	}
	w.u.opts.Logger.Warn("can't fetch a block, though others can be fetched: it counts as missing", "upload", w.name, "block", c, "err", reason)
	return true
}

// answers reports whether the target returns any block other than c.
func (w *walk) answers(ctx context.Context, c cid.Cid) bool {
	w.mu.Lock()
	other := w.good
	w.mu.Unlock()
	for range 3 {
		if other.Defined() && !other.Equals(c) {
			if _, err := w.blocks.FetchBlock(ctx, other, car.MaxBlockBytes); err == nil {
				return true
			}
		}
		if w.known != nil {
			other = w.known.At(rand.IntN(w.known.Len())).Cid
		}
	}
	return false
}
