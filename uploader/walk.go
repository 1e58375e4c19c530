package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// walk fetches blocks back from a target and looks at each.
type walk struct {
	u      *Uploader
	name   string
	blocks BlockFetcher

	known car.List // blocks of the DAG; nil if they are not known

	mu       sync.Mutex
	archives ArchiveFetcher   // nil if the target has none, or none that serve
	ranges   RangeFetcher     // as archives
	state    map[cid.Cid]bool // linked to: whether the block was seen
	waste    int64            // what archives brought beyond that, less what they brought of it
	bad      *VerifyError     // nil as long as all is well
	good     cid.Cid          // a block that was had; undefined before the first
	failed   int              // blocks that failed though others could be had

	changed sync.Cond // of mu: there is more to do, or nothing will come
	todo    []portion // the next one last
	active  int       // workers that may find more
	stopped bool
}

// portion is what one request is to bring: all below a block, or some neighbours
// among the children of a file's node.
type portion struct {
	cid  cid.Cid
	size int64 // of the content, as far as it is known; else -1
	kids []kid // of a file's node: those that are wanted; nil for all below it
	from int64 // where in the content of the node the first of them begins
}

// kid is a block that a file's node links to.
type kid struct {
	cid  cid.Cid
	size int64 // of the content that it stands for
}

// partBytes is how much one request brings, roughly. It is enough for a slow
// start of each to cost little, and little enough to have several at a time.
const partBytes = 32 << 20

// rangeWaste is what an archive of a range may bring beyond the range: nodes on
// the way to it, framing, and leaves at its ends.
const rangeWaste = 8 << 20

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
	w.changed.L = &w.mu
	w.blocks, _ = u.target.(BlockFetcher)
	w.archives, _ = u.target.(ArchiveFetcher)
	w.ranges, _ = u.target.(RangeFetcher)
	return w
}

// all fetches everything below root, several parts at a time. It streams
// archives: of a small DAG as a whole, of a large one in parts. What an archive
// did not bring is asked for by itself, so one that breaks off costs only what
// it lacks.
func (w *walk) all(ctx context.Context, roots ...cid.Cid) error {
	for _, c := range roots {
		w.state[c] = false
		w.todo = append(w.todo, portion{cid: c, size: -1})
	}
	w.stopped = false
	g, gctx := errgroup.WithContext(ctx)
	defer w.stopWith(gctx)()
	for range w.u.opts.Transfers {
		g.Go(func() error {
			for {
				p, ok := w.take()
				if !ok {
					return nil
				}
				more, err := w.bring(gctx, p)
				w.done(more)
				if err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	if err == nil && ctx.Err() != nil && len(w.todo) > 0 {
		err = context.Cause(ctx)
	}
	return err
}

// stopWith has workers end when ctx is done. The caller calls wait when they
// have: a group's context is done as well when all of it went well, and the walk
// may go on after that.
func (w *walk) stopWith(ctx context.Context) (wait func()) {
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stopped = true
		w.changed.Broadcast()
	})
	return func() {
		if !stop() {
			<-told
		}
	}
}

// take waits for something to do. There is nothing if ok is false.
func (w *walk) take() (p portion, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.todo) == 0 && w.active > 0 && !w.stopped {
		w.changed.Wait()
	}
	if len(w.todo) == 0 || w.stopped {
		return portion{}, false
	}
	n := len(w.todo) - 1
	p, w.todo = w.todo[n], w.todo[:n]
	w.active++
	return p, true
}

// done hands in what a worker found to do.
func (w *walk) done(more []portion) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active--
	for _, p := range slices.Backward(more) {
		w.todo = append(w.todo, p)
	}
	w.changed.Broadcast()
}

// bring fetches a portion, and returns what is left to do below it.
func (w *walk) bring(ctx context.Context, p portion) ([]portion, error) {
	if p.kids != nil {
		return w.bringRange(ctx, p)
	}
	if w.seen(p.cid) {
		return nil, nil
	}
	var more []portion
	if p.size <= partBytes && links.Possible(p.cid.Prefix().Codec) {
		var err error
		if more, err = w.stream(ctx, p); err != nil {
			return nil, err
		}
		if w.seen(p.cid) {
			return more, nil
		}
	}
	data, err := w.fetch(ctx, p.cid, car.MaxBlockBytes)
	if err != nil {
		return nil, err
	}
	return append(more, w.visit(p.cid, data)...), nil
}

// bringRange fetches neighbours under a file's node.
func (w *walk) bringRange(ctx context.Context, p portion) ([]portion, error) {
	more, err := w.stream(ctx, p)
	if err != nil {
		return nil, err
	}
	left := w.unseen(p)
	if left == nil {
		return more, nil
	}
	if len(left.kids) == len(p.kids) {
		w.mu.Lock()
		w.ranges = nil // they bring nothing
		w.mu.Unlock()
	}
	// What stopped the archive is most likely the first one that it lacks.
	more = append(more, portion{cid: left.kids[0].cid, size: left.kids[0].size})
	rest := portion{cid: p.cid, from: left.from + left.kids[0].size, kids: left.kids[1:]}
	if w.hasRanges() && len(rest.kids) > 1 {
		return append(more, rest), nil
	}
	for _, k := range rest.kids {
		more = append(more, portion{cid: k.cid, size: k.size})
	}
	return more, nil
}

// unseen is what is left of a part: its kids from the first to the last one
// that was not seen.
func (w *walk) unseen(p portion) *portion {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p.kids) > 0 && w.state[p.kids[0].cid] {
		p.from += p.kids[0].size
		p.kids = p.kids[1:]
	}
	for len(p.kids) > 0 && w.state[p.kids[len(p.kids)-1].cid] {
		p.kids = p.kids[:len(p.kids)-1]
	}
	if len(p.kids) == 0 {
		return nil
	}
	return &p
}

func (w *walk) seen(c cid.Cid) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state[c]
}

func (w *walk) hasRanges() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ranges != nil && w.archives != nil
}

// list walks the nodes that may have links, and returns the CIDs of all blocks.
func (w *walk) list(ctx context.Context, root cid.Cid) ([]cid.Cid, error) {
	var list []cid.Cid
	w.state[root] = false
	for stack := []cid.Cid{root}; len(stack) > 0; {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		list = append(list, c)
		if !links.Possible(c.Prefix().Codec) {
			continue
		}
		data, err := w.fetch(ctx, c, car.MaxBlockBytes)
		if err != nil {
			return nil, err
		}
		for _, p := range w.visit(c, data) {
			if p.kids == nil {
				stack = append(stack, p.cid)
			}
			for _, k := range p.kids {
				stack = append(stack, k.cid)
			}
		}
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

// visit notes that a block was seen, and returns what it links to, in parts,
// without what was linked to before. Data is nil for a block that could not be
// had.
func (w *walk) visit(c cid.Cid, data []byte) []portion {
	var all []cid.Cid
	err := links.Each(c, data, func(c cid.Cid) error { all = append(all, c); return nil })
	if err != nil && data != nil {
		// The hash is right, so these are the bytes that were sent: a leaf of a
		// kind that was not known to have links.
		w.u.opts.Logger.Warn("a block can't be decoded; what it links to is not verified", "upload", w.name, "err", err)
	}
	sizes, file := sizesOf(c, data, len(all))

	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.state[c] {
		w.state[c] = true
		w.count(data, sizes)
	}
	var parts []portion
	var run *portion // that the next kid of a file may join
	var off, sum int64
	for i, k := range all {
		size, at := int64(-1), off
		if sizes != nil {
			size = sizes[i].here
			off += size
		}
		if _, ok := w.state[k]; ok {
			if run = nil; w.known == nil && sizes != nil {
				w.u.progress.toVerify.Add(-sizes[i].total)
			}
			continue
		}
		w.state[k] = false
		switch {
		case !file || w.ranges == nil || size > partBytes:
			run = nil
			parts = append(parts, portion{cid: k, size: size})
		case run != nil && sum+size <= partBytes:
			sum += size
			run.kids = append(run.kids, kid{k, size})
		default:
			parts = append(parts, portion{cid: c, from: at, kids: []kid{{k, size}}})
			run, sum = &parts[len(parts)-1], size
		}
	}
	return parts
}

// count adds a block to the progress, and the root to what is to be done. The
// lock is held.
func (w *walk) count(data []byte, sizes []linkSize) {
	p := &w.u.progress
	if p.verified.Add(int64(len(data))); len(w.state) > 1 {
		return
	}
	if w.known != nil {
		for i := range w.known.Len() {
			b := w.known.At(i)
			p.toVerify.Add(int64(b.Size()))
		}
		return
	}
	p.toVerify.Add(int64(len(data)))
	for _, n := range sizes {
		p.toVerify.Add(n.total)
	}
}

// linkSize is how much there is under a link, as the node says that has it.
type linkSize struct {
	here  int64 // the content of a file, where the node is of one
	total int64 // of all blocks
}

// sizesOf tells how much there is under each of the n links of a block, if it
// says so, and whether it is a file whose content lies under its links.
func sizesOf(c cid.Cid, data []byte, n int) (sizes []linkSize, file bool) {
	if c.Prefix().Codec != links.DagPB || n == 0 {
		return nil, false
	}
	node, err := unixfs.Decode(links.DagPB, data)
	if err != nil || len(node.Links) != n {
		return nil, false
	}
	sizes = make([]linkSize, n)
	file = node.IsFile() && node.Sized && len(node.Data) == 0
	for i, l := range node.Links {
		total := int64(min(l.Tsize, mostTotal))
		sizes[i] = linkSize{total, total}
		if file {
			sizes[i].here = int64(node.Sizes[i]) // that they add up was checked
		}
	}
	return sizes, file
}

// mostTotal is more than any DAG has, and not so much that sums overflow.
const mostTotal = 1 << 50

// stream reads an archive of a part for as long as it is good, and returns what
// it links to and lacks. Only what ends the walk is an error.
func (w *walk) stream(ctx context.Context, p portion) ([]portion, error) {
	body, err := w.open(ctx, p)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrStopped) || errors.Is(err, ErrUnauthorized) {
			return nil, err
		}
		return nil, nil // the blocks themselves will tell
	}
	if body == nil {
		return nil, nil
	}
	defer body.Close()
	var found []portion
	limit := int64(math.MaxInt64)
	if p.kids != nil {
		limit = rangeWaste
		for _, k := range p.kids {
			limit += k.size
		}
	}
	r, err := w.reader(body)
	if r != nil {
		defer w.u.readers.Put(r)
	}
	for err == nil {
		var s car.Section
		if s, err = r.Next(); err != nil {
			break
		}
		if limit -= int64(len(s.Data)); limit < 0 {
			w.u.opts.Logger.Warn("the gateway sends more than the range that was asked for; the rest is fetched without ranges", "upload", w.name, "block", p.cid)
			w.mu.Lock()
			w.ranges = nil
			w.mu.Unlock()
			break
		}
		useful, parts := w.met(s)
		found = append(found, parts...)
		if !useful && w.wasted(s, p.cid) {
			break
		}
		if w.u.stopping() {
			return nil, ErrStopped
		}
		if s.Cid.Equals(p.cid) && p.kids == nil && p.size < 0 && sizeOf(parts) > partBytes {
			return found, nil // in parts it is quicker
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		w.u.opts.Logger.Warn("the archive broke off; the rest is fetched by itself", "upload", w.name, "root", p.cid, "err", err)
	}
	return w.lacking(found), nil
}

// open asks for the archive of a part. There is none if nothing was asked.
func (w *walk) open(ctx context.Context, p portion) (body io.ReadCloser, err error) {
	w.mu.Lock()
	archives, ranges := w.archives, w.ranges
	w.mu.Unlock()
	if archives == nil || p.kids != nil && ranges == nil {
		return nil, nil
	}
	_, err = w.u.retry(ctx, w.name, NoShard, func() (err error) {
		if p.kids == nil {
			body, err = archives.FetchArchive(ctx, p.cid)
			return err
		}
		size := int64(0)
		for _, k := range p.kids {
			size += k.size
		}
		body, err = ranges.FetchRange(ctx, p.cid, p.from, p.from+size)
		return err
	})
	return body, err
}

// reader is one that was used before, if there is one: they have large buffers.
func (w *walk) reader(body io.Reader) (*car.Reader, error) {
	if r, ok := w.u.readers.Get().(*car.Reader); ok {
		return r, r.Reset(body)
	}
	return car.NewReader(body, car.ReaderOptions{})
}

// met visits a block of an archive, if it is one that was waited for. A block
// that nothing links to so far proves nothing.
func (w *walk) met(s car.Section) (useful bool, found []portion) {
	w.mu.Lock()
	seen, linked := w.state[s.Cid]
	w.mu.Unlock()
	if !linked || seen {
		return false, nil
	}
	found = w.visit(s.Cid, s.Data)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.good = s.Cid
	w.waste -= int64(len(s.Data))
	return true, found
}

// wasted counts a block that was of no use, and tells whether there were too
// many.
func (w *walk) wasted(s car.Section, root cid.Cid) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waste += int64(len(s.Data)) + blockWaste; w.waste <= mostWaste {
		return false
	}
	w.u.opts.Logger.Warn("the archives have too much that was not asked for; the rest is fetched block by block", "upload", w.name, "root", root)
	w.archives, w.ranges = nil, nil
	return true
}

// lacking is what is left of parts.
func (w *walk) lacking(parts []portion) []portion {
	left := parts[:0]
	for _, p := range parts {
		if p.kids == nil {
			if !w.seen(p.cid) {
				left = append(left, p)
			}
		} else if p := w.unseen(p); p != nil {
			left = append(left, *p)
		}
	}
	return left
}

func sizeOf(parts []portion) int64 {
	var sum int64
	for _, p := range parts {
		sum += max(p.size, 0)
		for _, k := range p.kids {
			sum += k.size
		}
	}
	return sum
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
