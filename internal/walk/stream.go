package walk

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/links"
)

const (
	batchBytes  = 4 << 20 // bytes read at once: large blocks for several hashing lanes
	batchBlocks = 4096

	// A walk looks up this many blocks at once: few at first, so that it starts
	// fast.
	firstRun = 64
	lastRun  = 2048

	// Starting a walk reads up to this many levels of inner nodes, or down to a
	// leaf.
	firstLevels = 4

	// The blocks below an inner node are known only after it has been read. So
	// its siblings are read together with it, up to this many bytes.
	aheadBytes  = 256 << 10
	aheadBlocks = 64
	heldBytes   = 1 << 20 // limit for all levels together

	// A walk may read freeWork bytes of inner nodes, and workPerByte more for
	// each byte that it yields. Looking up a block counts as workPerBlock
	// bytes, and each part that is yielded counts framing bytes extra.
	freeWork     = 32 << 20
	workPerByte  = 128
	workPerBlock = 4 << 10
	framing      = 36

	// Limits on the links that a walk has yet to follow. No sane DAG has as
	// many on a path from its root. Links beyond the free ones are charged to
	// the memory.
	maxWants  = 1 << 18
	freeWants = 1 << 12
	wantBytes = 128
)

// kind says whether there may be blocks below a block.
type kind uint8

const (
	leaf  kind = iota
	inner      // there are blocks below
	maybe      // small enough to be a leaf
)

// want is a block that a walk is going to visit.
type want struct {
	cid     cid.Cid
	kind    kind
	emit    bool  // an archive needs its bytes
	decided bool  // visit was called
	from    int64 // offset of its content in the file
	size    int64 // of its content
}

// plan decides which blocks a walk visits, and what it yields for them.
type plan interface {
	// visit is called for each block when its turn comes. It reports whether
	// the block must be read, and may change w.
	visit(w *want) bool
	// met reports whether visit would return false, without recording anything.
	met(w *want) bool
	// open takes a block that was read. It returns the part of it that the walk
	// yields, and the blocks to visit below it. The part is valid only until it
	// was used, unless the block is an inner one.
	open(ctx context.Context, w *want, block []byte) (part []byte, below []want, err error)
	// charge returns how many bytes the plan has taken off the memory.
	charge() int64
}

// step is a block whose turn has come.
type step struct {
	want
	frame *frame // the frame that it comes from
	place int    // index in the places found; -1 if part is set already
	part  []byte // set once the block was read
	gone  bool   // part was released
}

// frame holds the blocks below an opened block.
type frame struct {
	wants []want
	pos   int
	ahead map[int][]byte // inner blocks that were read before their turn
	plain bool           // a block that might have been a leaf was an inner node
}

// Stream is a walk. The caller closes it.
type Stream struct {
	r     *Reader
	plan  plan
	stack []*frame
	wants int
	run   int

	steps  []step
	at     int
	free   []step // storage of the previous steps, which are no longer in use
	places Places
	failed error // error to report after the steps
	missed error // why there is no next batch

	held        int // bytes of blocks read before their turn
	work, yield int64
	charged     int64         // for wants
	spare       chan struct{} // holds a token for the uncounted buffer
	closed      bool

	// State for the room.
	state   atomic.Int32 // becomes standing when the walk is suspended, which can only happen while handing
	since   atomic.Int64 // when the writer got the last piece
	hangUp  func()
	first   *batch // the next batch
	current *batch // the batch that is being written
	direct  bool   // the writer has a slice of the batch, not a copy
	reading bool   // guarded by the room's mutex, as are the fields below
	placed  bool
	ended   bool
	line    *list.Element // element of the list of suspended walks
	spent   int64         // bytes charged to the suspended walks
	lent    int64         // part of spent that is normally taken off the memory

	trust   int64 // bytes that the writer took without a pause
	private buffer
}

// The states of a walk.
const (
	working int32 = iota
	handing       // the writer is busy with a piece
	standing
)

// A slow writer gets copies of pieceBytes, so that the batch can be released
// while the writer has one. A writer that took trustBytes without a pause gets
// slices of the batch.
const (
	pieceBytes = 64 << 10
	trustBytes = 4 << 20
)

// batch is a part of the walk that has been read.
type batch struct {
	steps []step
	buf   buffer
	last  bool // the walk ends with this batch
}

// start begins a walk and reads its first blocks, so that the caller learns of
// their errors before it answers anything.
func (r *Reader) start(ctx context.Context, p plan, wants []want) (_ *Stream, err error) {
	s := &Stream{r: r, plan: p, run: firstRun, spare: make(chan struct{}, 1)}
	s.spare <- struct{}{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := r.room.enter(ctx, s); err != nil {
		return nil, err
	}
	if err := s.push(wants); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// begin reads the first blocks, including leaves if there are any close to the
// root.
func (s *Stream) begin(ctx context.Context) error {
	for range firstLevels {
		b, err := s.next(ctx)
		if errors.Is(err, io.EOF) {
			if s.first != nil {
				s.first.last = true
			}
			return nil
		}
		if err != nil {
			return err
		}
		if s.first != nil {
			b.steps = slices.Concat(s.first.steps, b.steps)
		} else {
			b.steps = slices.Clone(b.steps) // the next batch overwrites the slice
		}
		s.first = b
		if s.failed != nil || b.buf.p != nil || b.last {
			break
		}
	}
	return s.failed
}

// Close releases what the walk holds.
func (s *Stream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	s.r.room.leave(s)
	if s.first != nil {
		s.release(s.first)
	}
	s.r.memory.put(s.private)
	if charge := s.charged + s.plan.charge(); charge > 0 {
		s.r.memory.left.give(charge)
	}
}

// sink says what to do with the parts of a walk. The slices that it gets are
// valid only during the call.
type sink struct {
	before func() error                    // called first; may be nil
	head   func(c cid.Cid, size int) error // called before each part; may be nil
	body   func(c cid.Cid, p []byte) error // called with the pieces of a part
	whole  bool                            // call body once per part instead
}

// each passes every part to the sink, in order. Meanwhile it reads the next
// batch.
func (s *Stream) each(ctx context.Context, out sink) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	s.hangUp = func() { s.r.room.hangUp(ctx) }
	g := new(errgroup.Group)
	defer func() {
		cancel()
		_ = g.Wait() // a failure is in err already, or happened after it
	}()
	if out.before != nil {
		if err := s.hand(ctx, out.before); err != nil {
			return err
		}
	}
	for {
		b := s.first
		s.first, s.current = nil, b
		if b == nil {
			return nil
		}
		read := make(chan struct{})
		if !b.last {
			s.ahead(true)
			g.Go(func() error {
				defer close(read)
				next, err := s.next(ctx)
				s.arrive(next, err)
				return nil
			})
		}
		err := s.use(ctx, b, out, read)
		if err != nil || b.last {
			return err
		}
		<-read
		if s.first == nil {
			return s.missed
		}
	}
}

// use passes a batch to the sink. When the channel is closed, the next batch
// has been read.
func (s *Stream) use(ctx context.Context, b *batch, out sink, read <-chan struct{}) error {
	defer func() {
		s.current = nil
		s.release(b)
	}()
	for i := range b.steps {
		st := &b.steps[i]
		if st.part == nil && !st.gone {
			continue
		}
		if st.gone {
			if err := s.reload(ctx, b, i, read); err != nil {
				return err
			}
		}
		size := len(st.part)
		if out.head != nil {
			s.direct = false
			if err := s.hand(ctx, func() error { return out.head(st.cid, size) }); err != nil {
				return err
			}
		}
		for at := 0; at < size; {
			if st.gone {
				if err := s.reload(ctx, b, i, read); err != nil {
					return err
				}
			}
			p := st.part[at:]
			if s.direct = s.trust >= trustBytes; !s.direct {
				if !out.whole {
					p = p[:min(len(p), pieceBytes)]
				}
				p = s.copyOf(p)
			}
			at += len(p)
			start := time.Now()
			if err := s.hand(ctx, func() error { return out.body(st.cid, p) }); err != nil {
				return err
			}
			if s.trust += int64(len(p)); time.Since(start) >= pauseTime {
				s.trust = 0
			}
		}
	}
	return nil
}

// hand calls f, which may take long. If the room suspends the walk meanwhile,
// hand waits for a place afterwards.
func (s *Stream) hand(ctx context.Context, f func() error) error {
	s.since.Store(time.Now().UnixNano())
	s.state.Store(handing)
	err := f()
	if s.state.CompareAndSwap(handing, working) {
		return err
	}
	if err != nil {
		s.r.room.forget(s)
		return err
	}
	return s.resume(ctx)
}

func (s *Stream) copyOf(p []byte) []byte {
	if len(s.private.p) < len(p) {
		s.r.memory.put(s.private)
		s.private = s.r.memory.beyond(max(len(p), pieceBytes))
	}
	return s.private.p[:copy(s.private.p, p)]
}

// ahead records whether the next batch is being read.
func (s *Stream) ahead(reading bool) {
	s.r.room.mu.Lock()
	defer s.r.room.mu.Unlock()
	s.reading = reading
}

// arrive stores the next batch.
func (s *Stream) arrive(b *batch, err error) {
	s.r.room.mu.Lock()
	defer s.r.room.mu.Unlock()
	s.reading = false
	if s.first = b; err != nil && !errors.Is(err, io.EOF) {
		s.missed = err
	}
	if s.line != nil {
		s.settle()
		s.r.room.shed()
	}
}

// reload reads step i of a batch again, and some of the steps after it, because
// the batch's buffer was released.
func (s *Stream) reload(ctx context.Context, b *batch, i int, read <-chan struct{}) error {
	if !b.last {
		<-read // until then, the plan is in use
	}
	s.release(b)
	var again []*step
	var cids []cid.Cid
	for k := i; k < len(b.steps) && len(again) < firstRun; k++ {
		if b.steps[k].gone {
			again = append(again, &b.steps[k])
			cids = append(cids, b.steps[k].cid)
		}
	}
	found, err := s.r.blocks.Find(ctx, cids)
	if err != nil {
		return err
	}
	n, size := 0, 0
	for n < len(again) && found.Size(n) >= 0 && (n == 0 || size+found.Size(n) <= batchBytes/8) {
		size += found.Size(n)
		n++
	}
	if n == 0 {
		return missing(cids[0])
	}
	b.buf = s.r.memory.beyond(size)
	n, err = found.Read(ctx, 0, n, b.buf.p)
	if n == 0 {
		return err
	}
	buf := b.buf.p
	for k, st := range again[:n] {
		if st.part, _, err = s.plan.open(ctx, &st.want, buf[:found.Size(k)]); err != nil {
			return err
		}
		st.gone = false
		buf = buf[found.Size(k):]
	}
	return nil
}

func (s *Stream) release(b *batch) {
	spare := b.buf.spare
	s.r.memory.put(b.buf)
	b.buf = buffer{}
	if spare {
		s.spare <- struct{}{}
	}
}

// next reads the next batch. It returns io.EOF at the end.
func (s *Stream) next(ctx context.Context) (*batch, error) {
	for s.at == len(s.steps) {
		if s.failed != nil {
			return nil, s.failed
		}
		if err := s.refill(ctx); err != nil {
			return nil, err
		}
		if len(s.steps) == 0 && s.failed == nil {
			return nil, io.EOF
		}
	}
	return s.load(ctx)
}

// refill finds the next blocks, up to and including one that must be opened
// before the walk knows what comes after it. It reads that block and some of
// its siblings.
func (s *Stream) refill(ctx context.Context) error {
	// The caller is done with all batches made from the steps before the last
	// ones, so their storage is free.
	s.steps, s.free, s.at = s.free[:0], s.steps, 0
	cids, opening := s.gather(ctx)
	if len(s.steps) == 0 {
		return nil
	}
	s.run = min(2*s.run, lastRun)
	var top *frame
	own := len(cids)
	if opening {
		top = s.stack[len(s.stack)-1]
		for i := top.pos; i < len(top.wants) && len(cids) < own+aheadBlocks; i++ {
			w := &top.wants[i]
			if _, inline := links.Identity(w.cid); !inline && w.kind == inner && top.ahead[i] == nil && !s.plan.met(w) {
				cids = append(cids, w.cid)
			}
		}
	}
	if len(cids) == 0 {
		return nil
	}
	var err error
	if s.places, err = s.r.blocks.Find(ctx, cids); err != nil {
		return err
	}
	if !opening {
		return nil
	}
	// The siblings that were appended are in the order of the frame.
	last := &s.steps[len(s.steps)-1]
	j, size := last.place, 0
	limit := min(aheadBytes, heldBytes-s.held)
	for j < len(cids) && s.places.Size(j) >= 0 && (j == last.place || size+s.places.Size(j) <= limit) {
		size += s.places.Size(j)
		j++
	}
	if j == last.place {
		s.fail(missing(last.cid))
		return nil
	}
	buf := make([]byte, size)
	n, err := s.places.Read(ctx, last.place, j, buf)
	if n == 0 {
		s.fail(err)
		return nil
	}
	var mine []byte
	at := top.pos
	for k := last.place; k < last.place+n; k++ {
		block := buf[:s.places.Size(k):s.places.Size(k)]
		buf = buf[len(block):]
		s.work += int64(len(block)) + workPerBlock
		if k == last.place {
			mine = block
			continue
		}
		for top.wants[at].cid != cids[k] || top.wants[at].kind != inner || top.ahead[at] != nil {
			at++
		}
		if top.ahead == nil {
			top.ahead = make(map[int][]byte)
		}
		top.ahead[at] = block
		s.held += len(block)
	}
	if err := s.enter(ctx, last, mine); err != nil {
		s.fail(err)
	}
	return nil
}

// fail replaces the last step with an error.
func (s *Stream) fail(err error) {
	s.failed = err
	s.steps = s.steps[:len(s.steps)-1]
}

// gather takes the next blocks off the stack. It returns true if the last of
// them must be opened.
func (s *Stream) gather(ctx context.Context) (cids []cid.Cid, opening bool) {
	unsure := false
	for len(s.steps) < s.run && len(s.stack) > 0 {
		top := s.stack[len(s.stack)-1]
		if top.pos == len(top.wants) {
			s.pop()
			continue
		}
		w := &top.wants[top.pos]
		if !w.decided && !s.plan.visit(w) {
			top.pos++
			continue
		}
		w.decided = true
		if w.kind == maybe && top.plain {
			w.kind = inner
		}
		block, inline := links.Identity(w.cid)
		if unsure && (w.kind == inner || inline) {
			return cids, false // something else may come before this block
		}
		unsure = unsure || w.kind == maybe && !inline
		if held := top.ahead[top.pos]; held != nil {
			block = held
			s.held -= len(block)
			delete(top.ahead, top.pos)
		}
		top.pos++
		s.steps = append(s.steps, step{want: *w, frame: top, place: -1})
		st := &s.steps[len(s.steps)-1]
		if inline || block != nil {
			if err := s.enter(ctx, st, block); err != nil {
				s.fail(err)
				return cids, false
			}
			continue
		}
		st.place = len(cids)
		cids = append(cids, w.cid)
		if w.kind == inner {
			return cids, true
		}
	}
	return cids, false
}

// enter opens an inner block.
func (s *Stream) enter(ctx context.Context, st *step, block []byte) error {
	if s.work > freeWork+workPerByte*s.yield {
		return fmt.Errorf("at block %s: %w", st.cid, ErrFruitless)
	}
	part, below, err := s.plan.open(ctx, &st.want, block)
	if err != nil {
		return err
	}
	st.part, st.place = part, -1
	s.yielded(part)
	return s.push(below)
}

func (s *Stream) yielded(part []byte) {
	if part != nil {
		s.yield += int64(len(part)) + framing
	}
}

func (s *Stream) push(wants []want) error {
	if len(wants) == 0 {
		return nil
	}
	s.wants += len(wants)
	if s.wants > maxWants {
		return fmt.Errorf("%d links to follow: %w", s.wants, ErrFruitless)
	}
	if more := int64(s.wants-freeWants)*wantBytes - s.charged; more > 0 {
		if !s.r.room.find(func() bool { return s.r.memory.left.try(more) }) {
			return ErrBusy
		}
		s.charged += more
	}
	s.stack = append(s.stack, &frame{wants: wants})
	return nil
}

func (s *Stream) pop() {
	top := s.stack[len(s.stack)-1]
	s.stack = s.stack[:len(s.stack)-1]
	s.wants -= len(top.wants)
	if less := s.charged - max(0, int64(s.wants-freeWants)*wantBytes); less > 0 {
		s.r.memory.left.give(less)
		s.charged -= less
	}
}

// load reads the next steps, as many as there is a buffer for.
func (s *Stream) load(ctx context.Context) (*batch, error) {
	rest := s.steps[s.at:]
	size, n := s.fit(rest, batchBytes)
	if n == 0 {
		return nil, missing(rest[0].cid)
	}
	b := &batch{}
	if size > 0 {
		take := func() (ok bool) {
			b.buf, ok = s.r.memory.try(size)
			return ok
		}
		ok := s.r.room.find(take)
		if !ok && size > batchBytes/8 {
			size, n = s.fit(rest, batchBytes/8)
			ok = take()
		}
		if !ok {
			select {
			case <-s.spare:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			size, n = s.fit(rest, 1)
			b.buf = s.r.memory.beyond(size)
			b.buf.spare = true
		}
	}
	err := s.fill(ctx, b, rest[:n])
	if err != nil && len(b.steps) == 0 {
		s.release(b)
		return nil, err
	}
	s.at += len(b.steps)
	if err == nil && len(b.steps) == n && n < len(rest) && rest[n].place >= 0 && s.places.Size(rest[n].place) < 0 {
		err = missing(rest[n].cid)
	}
	if err != nil { // report it after the steps that succeeded
		s.failed = err
		s.steps = s.steps[:s.at]
	}
	b.last = s.at == len(s.steps) && s.failed == nil && s.done()
	return b, nil
}

// done reports whether the stack is empty. It may return false if the walk
// would skip everything that is left.
func (s *Stream) done() bool {
	for len(s.stack) > 0 {
		if top := s.stack[len(s.stack)-1]; top.pos < len(top.wants) {
			return false
		}
		s.pop()
	}
	return true
}

// fit returns how many steps fit into limit bytes; at least one that has bytes.
// It stops before a block that is not held.
func (s *Stream) fit(steps []step, limit int) (size, n int) {
	for n < len(steps) && n < batchBlocks {
		if p := steps[n].place; p >= 0 {
			k := s.places.Size(p)
			if k < 0 || size > 0 && size+k > limit {
				break
			}
			size += k
		}
		n++
	}
	return size, n
}

// fill reads steps into the buffer of b. It reads adjacent steps that are not
// loaded yet together.
func (s *Stream) fill(ctx context.Context, b *batch, steps []step) error {
	buf := b.buf.p
	for i := 0; i < len(steps); {
		if steps[i].place < 0 {
			i++
			b.steps = steps[:i]
			continue
		}
		j, size := i, 0
		for j < len(steps) && steps[j].place == steps[i].place+j-i {
			size += s.places.Size(steps[j].place)
			j++
		}
		n, err := s.places.Read(ctx, steps[i].place, steps[i].place+j-i, buf[:size])
		for ; n > 0; n-- {
			st := &steps[i]
			block := buf[:s.places.Size(st.place)]
			buf = buf[len(block):]
			part, below, err := s.plan.open(ctx, &st.want, block)
			if err != nil {
				return err
			}
			s.yielded(part)
			st.part = part
			i++
			b.steps = steps[:i]
			if len(below) > 0 {
				return s.deviate(i, below)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deviate handles a block that was taken for a leaf but has blocks below: the
// i-th step being read. The later steps, none of which has been opened, go back
// on the stack.
func (s *Stream) deviate(i int, below []want) error {
	s.work += workPerBlock
	s.steps[s.at+i-1].frame.plain = true // other such blocks in the frame may not be leaves either
	rest := s.steps[s.at+i:]
	wants := make([]want, len(rest))
	for k := range rest {
		wants[k] = rest[k].want
	}
	s.steps = s.steps[:s.at+i]
	if err := s.push(wants); err != nil {
		return err
	}
	return s.push(below)
}
