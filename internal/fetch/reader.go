package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// How much a [Reader] fetches ahead.
const (
	unitBytes  = 4 << 20 // bytes hashed at once: four leaves of 1 MiB fill a core's lanes
	longUnits  = 8       // units in one request, at most
	aheadUnits = 256
)

// Reader supplies the blocks of DAGs to one goroutine that walks them. The walk
// tells it where it is. The reader then fetches the blocks that come next, a
// few MiB ahead and in parallel. If it is told nothing, or something wrong, it
// is only slower. The caller closes the reader.
type Reader struct {
	pool   *Pool
	ctx    context.Context //nolint:containedctx // for fetching ahead, which outlives calls
	cancel context.CancelFunc
	units  sync.WaitGroup

	frames   []*frame // from the root of the walk to the current node
	file     *window  // the file that is being read, if any
	unit     *unit    // the unit that the walk is in, below an entry of a frame; nil if none
	spent    []*unit  // not needed any more after the next call of Load
	paused   bool
	reserved int64 // bytes of units that are not spent
	pending  int   // number of those units
	fetching atomic.Int64
	out      [][]byte
	lone     car.Section // the last block that was fetched by itself
}

// frame is a node whose children are being walked.
type frame struct {
	kids  []cid.Cid
	sizes []int64 // of everything below each, as the node claims
	units []*unit // for each kid, nil if it was not asked for
	at    int     // index of the current kid
	next  int     // index of the first kid that was not asked for
	file  bool    // the kids are parts of a file
	from  int64   // offset of the first kid in the file; negative if unknown
	inert bool    // ask for nothing
	whole bool    // the kid comes together with everything below it, however much that is
}

// window is a file that is read from some offset to its end.
type window struct {
	cid        cid.Cid
	next, size int64
	units      []*unit // in order; the walk is in the first one
	vain       int     // times in a row that the rest was asked for again in vain
}

// unit is what one request fetches.
type unit struct {
	size  int64
	from  int64 // offset in the file
	block bool  // a single block: there is no other way to get it
	all   bool  // everything below a node, which may be much
	end   context.CancelFunc

	member *member // the source; nil for none

	done chan struct{} // closed when the first part has arrived
	part *part         // the part that the walk is in; nil if none arrived
	err  error
	on   func()               // starts reading the parts after the first
	more chan *part           // the parts after this one
	over bool                 // there are no more parts
	past map[cid.Cid]struct{} // blocks in earlier parts
}

// lacks reports whether the unit will not bring a block that it should have.
func (u *unit) lacks(c cid.Cid) bool {
	_, past := u.past[c]
	return u.over && !past
}

// next moves on to the next part. It returns false if there is none.
func (u *unit) next(ctx context.Context, bufs *buffers) (bool, error) {
	if u.over {
		return false, nil
	}
	select {
	case p, ok := <-u.more:
		if !ok {
			u.over = true
			return false, nil
		}
		if u.past == nil {
			u.past = map[cid.Cid]struct{}{}
		}
		for _, s := range u.part.sections {
			u.past[s.Cid] = struct{}{}
		}
		bufs.put(u.part.buf)
		u.part = p
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// NewReader makes a reader. It stops fetching when ctx ends.
func (p *Pool) NewReader(ctx context.Context) *Reader {
	r := &Reader{pool: p}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// Close stops fetching.
func (r *Reader) Close() error {
	r.cancel()
	r.units.Wait()
	return nil
}

// Pause stops or resumes fetching ahead. While paused, only blocks that may
// have links are fetched ahead. It is for a walk that finds much of the content
// elsewhere.
func (r *Reader) Pause(paused bool) { r.paused = paused }

// Enter says that the walk will visit the children of a node, in this order.
// The sizes are those that the node claims for them. The node is one of a file,
// or else a directory or part of one.
func (r *Reader) Enter(kids []cid.Cid, sizes []int64, file bool) {
	f := &frame{kids: kids, sizes: sizes, file: file, from: r.begins(sizes)}
	// If the kids are in the current unit, they have been asked for already.
	f.inert = len(kids) == 0 || r.has(kids[0])
	if !f.inert {
		f.units = make([]*unit, len(kids))
	}
	r.frames = append(r.frames, f)
}

// begins returns the offset in the file of the nodes that are walked next.
func (r *Reader) begins(sizes []int64) int64 {
	if n := len(r.frames); n > 0 && r.frames[n-1].file {
		return r.frames[n-1].offset(r.frames[n-1].at)
	}
	if r.file == nil || sum(sizes) != r.file.size {
		return -1 // they are not the whole file
	}
	return 0
}

// offset returns the offset of the i-th kid in the file.
func (f *frame) offset(i int) int64 {
	if f.from < 0 {
		return -1
	}
	return f.from + sum(f.sizes[:i])
}

func sum(sizes []int64) (n int64) {
	for _, size := range sizes {
		n += size
	}
	return n
}

// has reports whether a block is in the unit that the walk is in, as far as is
// known.
func (r *Reader) has(c cid.Cid) bool {
	return r.unit != nil && (!r.unit.over || r.unit.part.has(c))
}

// At says that the walk has reached child i of the node entered last.
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

// enterWhole is Enter for a node that is fetched again, in one archive with
// everything below it, however many parts that takes. It returns false, and
// enters nothing, if no archive comes.
func (r *Reader) enterWhole(ctx context.Context, c cid.Cid, size int64) bool {
	f := &frame{kids: []cid.Cid{c}, sizes: []int64{size}, units: make([]*unit, 1), whole: true}
	r.frames = append(r.frames, f)
	r.recycle()
	r.fill() //nolint:contextcheck // what is fetched ahead outlives the call
	if u := f.units[0]; u != nil {
		if p, _ := r.wait(ctx, u); p != nil {
			r.unit = u
			return true
		}
	}
	r.Leave()
	return false
}

// Leave ends the visit that Enter began.
func (r *Reader) Leave() {
	f := r.frames[len(r.frames)-1]
	r.At(len(f.kids))
	r.frames = r.frames[:len(r.frames)-1]
}

// OpenFile says that the content of a file will be read, from an offset to its
// end.
func (r *Reader) OpenFile(c cid.Cid, from, size int64) {
	if r.has(c) && (size <= r.pool.unit || r.unit.all && !r.unit.over) {
		return
	}
	r.file = &window{cid: c, next: from, size: size}
}

// CloseFile ends the reading that OpenFile began.
func (r *Reader) CloseFile() {
	if r.file == nil {
		return
	}
	for _, u := range r.file.units {
		r.spend(u)
	}
	r.file = nil
}

// spend releases a unit at the next call of Load. Until then, blocks from it
// are still in use.
func (r *Reader) spend(u *unit) {
	r.reserved -= u.size
	r.pending--
	r.spent = append(r.spent, u)
	u.end()
	if u == r.unit && !u.over {
		r.unit = nil
	}
}

// Peek returns a block, wherever the walk is.
func (r *Reader) Peek(ctx context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := links.Identity(c); ok {
		return data, nil
	}
	if r.unit != nil {
		if data, ok := r.unit.part.find(c); ok {
			return data, nil
		}
	}
	data, err := r.pool.Block(ctx, c)
	return data, missing(err)
}

// Len returns the length of a block.
func (r *Reader) Len(ctx context.Context, c cid.Cid) (int64, error) {
	data, err := r.Peek(ctx, c)
	return int64(len(data)), err
}

// Load returns the payloads of the first of these blocks: of one or more. They
// are valid until the next call of Load.
func (r *Reader) Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error) {
	r.recycle()
	r.fill() //nolint:contextcheck // as in enterWhole
	clear(r.out)
	r.out = r.out[:0]
	for i, c := range cids {
		data, ok, err := r.find(ctx, c, i == 0)
		if err == nil && !ok && i == 0 {
			data, err = r.block(ctx, c)
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

// block fetches a single block. It keeps the last one, because a block that
// comes twice in a row often comes many times: a block of zeros, for example,
// which an archive contains only once.
func (r *Reader) block(ctx context.Context, c cid.Cid) ([]byte, error) {
	if c == r.lone.Cid {
		return r.lone.Data, nil
	}
	data, err := r.pool.Block(ctx, c)
	if err == nil {
		r.lone = car.Section{Cid: c, Data: data}
	}
	return data, err
}

// recycle releases the buffers of what was handed out before.
func (r *Reader) recycle() {
	for i, u := range r.spent {
		if u == r.unit {
			continue // the walk is still in it
		}
		select {
		case <-u.done:
			if u.part != nil {
				r.pool.bufs.put(u.part.buf)
				u.part = nil
			}
		default: // it will not be used when it arrives
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

// find looks for a block in what was fetched ahead. If the block is on its way,
// find waits. The first block of a call may be in another unit than the block
// before it. For the others, it is better to return what there is.
func (r *Reader) find(ctx context.Context, c cid.Cid, first bool) (data []byte, ok bool, err error) {
	if data, ok := links.Identity(c); ok {
		return data, true, nil
	}
	if r.file != nil {
		if data, ok, err := r.findInFile(ctx, c, first); ok || err != nil {
			return data, ok, err
		}
	}
	if r.unit != nil {
		if data, ok, err := r.seek(ctx, r.unit, c, first); ok || err != nil {
			return data, ok, err
		}
		if first && r.unit.all && r.unit.lacks(c) {
			r.reopen()
		}
	}
	return r.findKid(ctx, c)
}

// findInFile looks for a block in what was requested of the file.
func (r *Reader) findInFile(ctx context.Context, c cid.Cid, first bool) (data []byte, ok bool, err error) {
	w := r.file
	for i := 0; i < len(w.units) && i < 2 && (first || i == 0); i++ {
		data, ok, err := r.seek(ctx, w.units[i], c, first && i == 0)
		if err != nil {
			return nil, false, err
		}
		if !ok {
			continue
		}
		for _, u := range w.units[:i] {
			r.spend(u)
		}
		if i > 0 && w.units[0].member != nil {
			r.pool.lacked(w.units[0].member, false)
		}
		w.units, w.vain = w.units[i:], 0
		return data, true, nil
	}
	if first && len(w.units) > 0 && w.units[0].lacks(c) {
		r.askAgain(c)
	}
	return nil, false, nil
}

// mostAgain is how often in a row the rest of a file is requested again
// although nothing of it arrives.
const mostAgain = 2

// askAgain discards the requests for a file, because the current one broke off
// or lacks a block. It requests the file again from that block on. It skips the
// block itself if it is a leaf, as an archive would probably break off there
// again.
func (r *Reader) askAgain(c cid.Cid) {
	w := r.file
	u := w.units[0]
	w.next = u.from
	if f := r.frames[len(r.frames)-1]; f.at < len(f.kids) && f.kids[f.at] == c {
		at := f.at
		if !links.Possible(c.Prefix().Codec) {
			at++
		}
		w.next = max(w.next, f.offset(at))
	}
	if u.member != nil {
		r.pool.lacked(u.member, true)
	}
	for _, u := range w.units {
		r.spend(u)
	}
	w.units = nil
	if w.vain++; w.vain > mostAgain {
		w.next = w.size // continue block by block
	}
}

// reopen makes the reader request the blocks around the walk one by one,
// because the archive that should have brought them broke off.
func (r *Reader) reopen() {
	r.unit = nil
	for _, f := range slices.Backward(r.frames) {
		if f.whole {
			return
		}
		if f.inert {
			f.inert, f.units, f.next = false, make([]*unit, len(f.kids)), f.at+1
		}
	}
}

// seek looks for a block in a unit. If on is set, the walk may have reached the
// unit's next parts, so it looks there too.
func (r *Reader) seek(ctx context.Context, u *unit, c cid.Cid, on bool) (data []byte, ok bool, err error) {
	p, err := r.wait(ctx, u)
	if p == nil {
		return nil, false, err
	}
	if on {
		u.on()
	}
	for {
		if data, ok := u.part.find(c); ok {
			return data, true, nil
		}
		if _, past := u.past[c]; past || !on {
			return nil, false, nil
		}
		if ok, err := u.next(ctx, &r.pool.bufs); !ok {
			return nil, false, err
		}
	}
}

// findKid looks for a block among the children of the current node.
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
		p, err := r.wait(ctx, u)
		if p == nil {
			return nil, false, err
		}
		r.unit = u
		data, ok := p.find(c)
		return data, ok, nil
	}
	return nil, false, nil
}

// wait waits for a unit. It returns no part if the unit's blocks must be
// fetched one by one. It returns an error only if fetching them would fail in
// the same way.
func (r *Reader) wait(ctx context.Context, u *unit) (*part, error) {
	select {
	case <-u.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	switch {
	case u.err == nil:
		return u.part, nil
	case u.block, r.ctx.Err() != nil:
		return nil, u.err
	}
	return nil, nil //nolint:nilnil // see the comment of the function
}

// missing makes the error for a block that no source has also match the error
// that package unpack looks for.
func missing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", links.ErrMissing, err)
	}
	return err
}

// fill requests what comes next, as far as there is room.
func (r *Reader) fill() {
	archives, ranges := r.pool.canAny()
	if w := r.file; w != nil && ranges {
		for w.next < w.size {
			from, step := w.next, r.pool.spanBytes()
			to := min(w.size, (from/step+1)*step)
			reserve, room := int64(framed(min(to-from, r.pool.unit))), int64(0)
			if to-from > r.pool.unit {
				room = reserve // for the walk's part and the one arriving
			}
			if !r.room(reserve + room) {
				return
			}
			w.next = to
			w.units = append(w.units, r.request(&unit{size: reserve, from: from}, func(ctx context.Context) (*part, *archive, error) {
				return begun(r.pool.span(ctx, w.cid, from, to))
			}))
		}
		ranges = w.vain <= mostAgain
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
			whole := !leaf && !f.file && archives && !r.paused && size > 0 && (size <= r.pool.unit || f.whole)
			reserve := int64(framed(min(size, r.pool.unit)))
			if !whole {
				reserve = min(max(size, 0), car.MaxBlockBytes)
			}
			if !r.room(reserve) && !f.whole { // the walk waits for a whole one
				return
			}
			_, inline := links.Identity(c)
			if !inline && (!leaf || !r.paused) {
				u := &unit{size: reserve, block: !whole, all: f.whole}
				f.units[f.next] = r.request(u, func(ctx context.Context) (*part, *archive, error) {
					if whole {
						return begun(r.pool.whole(ctx, c, size))
					}
					data, err := r.pool.Block(ctx, c)
					return &part{sections: []car.Section{{Cid: c, Data: data}}}, nil, err
				})
			}
			f.next++
		}
	}
}

// begun returns an archive and its first part.
func begun(a *archive, err error) (*part, *archive, error) {
	if err != nil {
		return nil, nil, err
	}
	return a.first, a, nil
}

// room reports whether size more bytes may be requested.
func (r *Reader) room(size int64) bool {
	return r.pending == 0 || r.reserved+size <= r.pool.opts.AheadBytes && r.pending < aheadUnits && r.fetching.Load() < int64(r.pool.opts.Fetches)
}

// request fetches a unit in the background.
func (r *Reader) request(u *unit, fetch func(context.Context) (*part, *archive, error)) *unit {
	u.done, u.more = make(chan struct{}), make(chan *part)
	on := make(chan struct{})
	u.on = sync.OnceFunc(func() { close(on) })
	var ctx context.Context
	ctx, u.end = context.WithCancel(r.ctx)
	r.reserved += u.size
	r.pending++
	r.fetching.Add(1)
	r.units.Go(func() {
		defer r.fetching.Add(-1)
		p, a, err := fetch(ctx)
		if err == nil {
			u.part = p
		}
		u.err, u.over = err, a == nil || a.ended()
		if a != nil {
			u.member = a.m
		}
		close(u.done)
		if a != nil {
			a.rest(ctx, on, u.more)
		}
	})
	return u
}
