package fetch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// How much a [Reader] fetches ahead.
const (
	unitBytes  = 4 << 20 // what one request is for at most: four leaves of 1 MiB fill the lanes of a core
	aheadUnits = 256
)

// Reader gives the blocks of DAGs to one goroutine that walks them. It is told
// where the walk is, and what comes next it fetches ahead: a few MiB, in
// parallel. Being told nothing, or wrongly, costs no more than speed. A Reader
// is closed when it is no longer used.
type Reader struct {
	pool   *Pool
	ctx    context.Context //nolint:containedctx // of what is fetched ahead, which outlives calls
	cancel context.CancelFunc
	units  sync.WaitGroup

	frames   []*frame // from the root of the walk to where it is
	file     *window  // of the file that is read; nil for none
	unit     *unit    // what the walk is in, below an entry of a frame; nil for none
	spent    []*unit  // no longer needed once the next blocks are asked for
	paused   bool
	reserved int64 // bytes of units that are not spent
	pending  int   // those units
	fetching atomic.Int64
	out      [][]byte
}

// frame is a node whose children are walked.
type frame struct {
	kids  []cid.Cid
	sizes []int64 // of all below each, as the node says
	units []*unit // of kids, nil for those that were not asked for
	at    int     // where the walk is
	next  int     // the first child that was not asked for
	file  bool    // they are parts of a file
	inert bool    // nothing is to be asked for
}

// window is a file that is read from somewhere to its end.
type window struct {
	cid        cid.Cid
	next, size int64
	units      []*unit // in order; the walk is in the first one
}

// unit is what one request is for.
type unit struct {
	size    int64
	block   bool // it is one block: there is no other way to it
	done    chan struct{}
	archive *archive
	err     error
}

// NewReader makes a reader. What it fetches ahead ends with ctx.
func (p *Pool) NewReader(ctx context.Context) *Reader {
	r := &Reader{pool: p}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// Close ends what is fetched ahead.
func (r *Reader) Close() error {
	r.cancel()
	r.units.Wait()
	return nil
}

// Pause stops fetching ahead, but for blocks that may have links, or goes on
// with it. It is for a walk that finds much of the content elsewhere.
func (r *Reader) Pause(paused bool) { r.paused = paused }

// Enter tells that the children of a node are walked next, in this order, and
// how much the node says there is below each of them: the children of a file's
// node, or of a directory or a part of one.
func (r *Reader) Enter(kids []cid.Cid, sizes []int64, file bool) {
	f := &frame{kids: kids, sizes: sizes, file: file}
	// What lies within a unit that is here was asked for with it.
	f.inert = len(kids) == 0 || r.has(kids[0])
	if !f.inert {
		f.units = make([]*unit, len(kids))
	}
	r.frames = append(r.frames, f)
}

// has tells whether a block lies within the unit that the walk is in.
func (r *Reader) has(c cid.Cid) bool {
	return r.unit != nil && r.unit.archive != nil && r.unit.archive.has(c)
}

// At tells that the walk is at this child of the node that was entered last.
func (r *Reader) At(i int) {
	f := r.frames[len(r.frames)-1]
	for ; f.at < i; f.at++ {
		if !f.inert && f.units[f.at] != nil {
			r.spend(f.units[f.at])
			f.units[f.at] = nil
		}
	}
	f.next = max(f.next, f.at)
}

// Leave ends what Enter began.
func (r *Reader) Leave() {
	f := r.frames[len(r.frames)-1]
	r.At(len(f.kids))
	r.frames = r.frames[:len(r.frames)-1]
}

// OpenFile tells that the content of a file is read next, from an offset to its
// end.
func (r *Reader) OpenFile(c cid.Cid, from, size int64) {
	if size <= r.pool.unit && r.has(c) {
		return
	}
	r.file = &window{cid: c, next: from, size: size}
}

// CloseFile ends what OpenFile began.
func (r *Reader) CloseFile() {
	if r.file == nil {
		return
	}
	for _, u := range r.file.units {
		r.spend(u)
	}
	r.file = nil
}

// spend lets go of a unit when the next blocks are asked for: what was handed
// out of it is still in use.
func (r *Reader) spend(u *unit) {
	r.reserved -= u.size
	r.pending--
	r.spent = append(r.spent, u)
}

// Peek returns a block without regard to the walk.
func (r *Reader) Peek(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := links.Identity(c); ok {
		return data, nil
	}
	if r.unit != nil && r.unit.archive != nil {
		if data, ok := r.unit.archive.find(c); ok {
			return data, nil
		}
	}
	data, err := r.pool.Block(ctx, c)
	return data, missing(err)
}

// Len returns how long a block is.
func (r *Reader) Len(ctx context.Context, c cid.Cid) (int64, error) {
	data, err := r.Peek(ctx, c)
	return int64(len(data)), err
}

// Load returns the payloads of the first of these blocks, one or more, which
// are valid until the next call of Load.
func (r *Reader) Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error) {
	r.recycle()
	r.fill()
	clear(r.out)
	r.out = r.out[:0]
	for i, c := range cids {
		data, ok, err := r.find(ctx, c, i == 0)
		if err == nil && !ok && i == 0 {
			data, err = r.pool.Block(ctx, c)
		}
		switch {
		case err != nil && i == 0:
			return nil, missing(err)
		case err != nil || !ok && i > 0:
			return r.out, nil
		}
		r.out = append(r.out, data)
	}
	return r.out, nil
}

// recycle makes room of what was handed out before.
func (r *Reader) recycle() {
	for i, u := range r.spent {
		if u == r.unit {
			continue // the walk is still in it
		}
		select {
		case <-u.done:
			if u.archive != nil {
				r.pool.bufs.put(u.archive.buf)
				u.archive = nil
			}
		default: // it is of no use when it comes
		}
		r.spent[i] = nil
	}
	kept := r.spent[:0]
	for _, u := range r.spent {
		if u != nil {
			kept = append(kept, u)
		}
	}
	r.spent = kept
}

// find looks for a block in what was fetched ahead, and waits for it if it is
// under way. The first block of a call may be in another unit than the one
// before it; for others it is better to hand out what there is.
func (r *Reader) find(ctx context.Context, c cid.Cid, first bool) (data []byte, ok bool, err error) {
	if data, ok := links.Identity(c); ok {
		return data, true, nil
	}
	if w := r.file; w != nil {
		for i := 0; i < len(w.units) && i < 2 && (first || i == 0); i++ {
			a, err := r.wait(ctx, w.units[i])
			if err != nil {
				return nil, false, err
			}
			if a == nil {
				continue
			}
			if data, ok := a.find(c); ok {
				for _, u := range w.units[:i] {
					r.spend(u)
				}
				w.units = w.units[i:]
				return data, true, nil
			}
		}
	}
	if r.unit != nil && r.unit.archive != nil {
		if data, ok := r.unit.archive.find(c); ok {
			return data, true, nil
		}
	}
	return r.findKid(ctx, c)
}

// findKid looks for a block among the children of where the walk is.
func (r *Reader) findKid(ctx context.Context, c cid.Cid) (data []byte, ok bool, err error) {
	if len(r.frames) == 0 {
		return nil, false, nil
	}
	f := r.frames[len(r.frames)-1]
	if f.inert {
		return nil, false, nil
	}
	for i := f.at; i < f.next; i++ {
		if f.kids[i] != c {
			continue
		}
		r.At(i)
		u := f.units[i]
		if u == nil {
			return nil, false, nil
		}
		a, err := r.wait(ctx, u)
		if a == nil {
			return nil, false, err
		}
		r.unit = u
		data, ok := a.find(c)
		return data, ok, nil
	}
	return nil, false, nil
}

// wait waits for a unit. It has no archive if its blocks have to be asked for
// by themselves. The error is one that they would have, too.
func (r *Reader) wait(ctx context.Context, u *unit) (*archive, error) {
	select {
	case <-u.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case u.err == nil:
		return u.archive, nil
	case u.block, r.ctx.Err() != nil:
		return nil, u.err
	}
	return nil, nil //nolint:nilnil // that is what it says
}

// missing has an error of a block that no source has match what those who unpack
// DAGs look for, too.
func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", links.ErrMissing, err)
	}
	return err
}

// fill asks for what comes next, as far as there is room for it.
func (r *Reader) fill() {
	archives, ranges := r.pool.canAny()
	if w := r.file; w != nil && ranges {
		for w.next < w.size && r.room(int64(framed(min(r.pool.unit, w.size-w.next)))) {
			from := w.next
			w.next = min(w.size, (from/r.pool.unit+1)*r.pool.unit)
			to := w.next
			w.units = append(w.units, r.request(int64(framed(to-from)), false, func(ctx context.Context) (*archive, error) {
				return r.pool.span(ctx, w.cid, from, to)
			}))
		}
		if w.next < w.size {
			return
		}
	}
	for i := len(r.frames) - 1; i >= 0; i-- {
		f := r.frames[i]
		if f.inert || f.file && ranges {
			continue
		}
		if i < len(r.frames)-1 {
			f.next = max(f.next, f.at+1)
		}
		for f.next < len(f.kids) {
			c, size := f.kids[f.next], f.sizes[f.next]
			leaf := !links.Possible(c.Prefix().Codec)
			whole := !leaf && !f.file && archives && !r.paused && size > 0 && size <= r.pool.unit
			reserve := int64(framed(size))
			if !whole {
				reserve = min(max(size, 0), car.MaxBlockBytes)
			}
			if !r.room(reserve) {
				return
			}
			_, inline := links.Identity(c)
			if !inline && (!leaf || !r.paused) {
				f.units[f.next] = r.request(reserve, !whole, func(ctx context.Context) (*archive, error) {
					if whole {
						return r.pool.whole(ctx, c, size)
					}
					data, err := r.pool.Block(ctx, c)
					return &archive{sections: []car.Section{{Cid: c, Data: data}}}, err
				})
			}
			f.next++
		}
	}
}

// room tells whether so much more may be asked for.
func (r *Reader) room(size int64) bool {
	return r.pending == 0 || r.reserved+size <= r.pool.opts.AheadBytes && r.pending < aheadUnits && r.fetching.Load() < int64(r.pool.opts.Fetches)
}

// request fetches a unit in the background.
func (r *Reader) request(size int64, block bool, fetch func(context.Context) (*archive, error)) *unit {
	u := &unit{size: size, block: block, done: make(chan struct{})}
	r.reserved += size
	r.pending++
	r.fetching.Add(1)
	r.units.Go(func() {
		defer close(u.done)
		defer r.fetching.Add(-1)
		u.archive, u.err = fetch(r.ctx)
		if u.err != nil {
			u.archive = nil
		}
	})
	return u
}
