package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// walk fetches blocks back from a target and looks at each.
type walk struct {
	u        *Uploader
	name     string
	blocks   BlockFetcher
	archives ArchiveFetcher // nil if the target has none

	stack []cid.Cid        // linked to, perhaps seen meanwhile
	state map[cid.Cid]bool // linked to: whether the block was seen
	waste int64            // what archives brought beyond that, less what they brought of it

	known car.List // blocks of the DAG; nil if they are not known

	mu     sync.Mutex
	bad    *VerifyError // nil as long as all is well
	good   cid.Cid      // a block that was had; undefined before the first
	failed int          // blocks that failed though others could be had
}

// mostWaste bounds what archives may bring that is no part of the DAG, or was
// seen, beyond as much as they bring of it: one that goes on and on is no
// archive of this DAG. A block counts as its bytes and blockWaste.
const (
	mostWaste  = 64 << 20
	blockWaste = 1 << 10
)

// mostFailed bounds how many blocks are tried to the end while others can be
// had: each takes all its retries.
const mostFailed = 16

// mostSuspects bounds the list of what is wrong. What is beyond it shows the
// next time.
const mostSuspects = 100_000

func newWalk(u *Uploader, name string, known car.List) *walk {
	w := &walk{u: u, name: name, known: known, state: map[cid.Cid]bool{}}
	w.blocks, _ = u.target.(BlockFetcher)
	w.archives, _ = u.target.(ArchiveFetcher)
	return w
}

// all fetches everything below roots. It streams archives, and what an archive
// did not bring is asked for by itself: a DAG below a node as an archive again,
// a leaf as a block. So an archive that breaks off costs only what it lacks.
func (w *walk) all(ctx context.Context, roots ...cid.Cid) error {
	for _, c := range roots {
		w.state[c] = false
		w.stack = append(w.stack, c)
	}
	for len(w.stack) > 0 {
		c := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if w.archives != nil && !w.state[c] && links.Possible(c.Prefix().Codec) {
			if err := w.stream(ctx, c); err != nil {
				return err
			}
		}
		if w.state[c] {
			continue
		}
		data, err := w.fetch(ctx, c, car.MaxBlockBytes)
		if err != nil {
			return err
		}
		w.visit(c, data)
	}
	return nil
}

// list walks the nodes that may have links, and returns the CIDs of all blocks.
func (w *walk) list(ctx context.Context, root cid.Cid) ([]cid.Cid, error) {
	w.link(root)
	var list []cid.Cid
	for len(w.stack) > 0 {
		c := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		list = append(list, c)
		if !links.Possible(c.Prefix().Codec) {
			continue
		}
		data, err := w.fetch(ctx, c, car.MaxBlockBytes)
		if err != nil {
			return nil, err
		}
		w.visit(c, data)
	}
	return list, nil
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

// link notes a link to c.
func (w *walk) link(c cid.Cid) {
	if _, ok := w.state[c]; !ok {
		w.state[c] = false
		w.stack = append(w.stack, c)
	}
}

// visit notes that a block was seen, and what it links to. Data is nil for a
// block that could not be had.
func (w *walk) visit(c cid.Cid, data []byte) {
	w.state[c] = true
	err := links.Each(c, data, func(c cid.Cid) error { w.link(c); return nil })
	if err != nil && data != nil {
		// The hash is right, so these are the bytes that were sent: a leaf of a
		// kind that was not known to have links.
		w.u.opts.Logger.Warn("a block can't be decoded; what it links to is not verified", "upload", w.name, "err", err)
	}
}

// stream reads the archive of the DAG below c for as long as it is good. Only
// what ends the walk is an error.
func (w *walk) stream(ctx context.Context, c cid.Cid) error {
	var body io.ReadCloser
	_, err := w.u.retry(ctx, w.name, NoShard, func() (err error) {
		body, err = w.archives.FetchArchive(ctx, c)
		return err
	})
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrStopped) || errors.Is(err, ErrUnauthorized) {
			return err
		}
		return nil // the block itself will tell
	}
	defer body.Close()
	r, err := car.NewReader(body, car.ReaderOptions{})
	for err == nil {
		var s car.Section
		if s, err = r.Next(); err != nil {
			break
		}
		// A block that nothing links to so far proves nothing.
		if seen, linked := w.state[s.Cid]; linked && !seen {
			w.visit(s.Cid, s.Data)
			w.had(s.Cid)
			w.waste -= int64(len(s.Data))
		} else if w.waste += int64(len(s.Data)) + blockWaste; w.waste > mostWaste {
			w.u.opts.Logger.Warn("the archives have too much that was not asked for; the rest is fetched block by block", "upload", w.name, "root", c)
			w.archives = nil
			return nil
		}
		if w.u.stopping() {
			return ErrStopped
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !errors.Is(err, io.EOF) {
		w.u.opts.Logger.Warn("the archive broke off; the rest is fetched by itself", "upload", w.name, "root", c, "err", err)
	}
	return nil
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
		w.bad = new(VerifyError)
	}
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
