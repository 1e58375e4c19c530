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

// walk fetches blocks back from a target and looks at each.
type walk struct {
	u      *Uploader
	name   string
	blocks BlockFetcher
	known  car.List      // blocks of the DAG; nil if they are not known
	full   *fetch.Walker // of all blocks; nil before it begins

	mu     sync.Mutex
	bad    *VerifyError         // nil as long as all is well
	noted  map[cid.Cid]struct{} // blocks in it
	good   cid.Cid              // a block that was had; undefined before the first
	failed int                  // blocks that failed though others could be had
}

// mostFailed bounds how many blocks are tried to the end while others can be
// had: each takes all its retries.
const mostFailed = 16

// mostSuspects bounds the list of what is wrong. What is beyond it shows the
// next time.
const mostSuspects = 100_000

func newWalk(u *Uploader, name string, known car.List) *walk {
	w := &walk{u: u, name: name, known: known}
	w.blocks, _ = u.target.(BlockFetcher)
	return w
}

// aheadBytes is how much a full walk fetches ahead: three requests.
const aheadBytes = 14 << 20

// all fetches everything below these blocks, but for what it met before.
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
			return nil // others are noted
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
		Retryable: func(error) (bool, time.Duration) { return false, 0 }, // the source has tried
		Retrying:  func(cid.Cid, int, time.Duration, error) {},
		Logger:    w.u.opts.Logger, Clock: w.u.opts.Clock,
	}, w.source()).NewWalker(visits)
}

// source is the target, each request tried as often as all of the uploader's.
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
			err = fmt.Errorf("block %s: %w", c, ErrNotFound) // it was noted why
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
		var mu sync.Mutex // of all and met
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

// undecodable: the hash is right, so these are the bytes that were sent, a leaf of
// a kind that was not known to have links.
func (w *walk) undecodable(err error) {
	w.u.opts.Logger.Warn("a block can't be decoded; what it links to is not verified", "upload", w.name, "err", err)
}

// sample fetches blocks at random positions out of n.
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

// positions returns k different numbers below n.
func positions(n, k int) []int {
	// Floyd's way: it needs no memory for the n-k others.
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

// fetch gets a block and checks it. A block that is missing or wrong is noted,
// and its data nil. Only what ends the walk is an error.
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

// had notes a block that was had.
func (w *walk) had(c cid.Cid) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.good = c
}

// suspect notes a block that is wrong, or missing.
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

// alone tells whether it is this block alone that can't be had, for this
// reason: a service that is down is not a service that lacks a block.
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
	w.u.opts.Logger.Warn("a block can't be had, though others can: it counts as missing", "upload", w.name, "block", c, "err", reason)
	return true
}

// answers tells whether the target gives back any block but c.
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
