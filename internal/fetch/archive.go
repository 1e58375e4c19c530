package fetch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
)

// part is some blocks of a DAG that came together. Each was hashed.
type part struct {
	buf      []byte
	sections []car.Section // whose data is in buf
	next     int           // the section that is asked for next, most likely
	byCid    map[cid.Cid]int
}

// find returns the payload of a block, if the part has it.
func (p *part) find(c cid.Cid) ([]byte, bool) {
	for range 2 { // in between there may be one that was asked for already
		if p.next < len(p.sections) && p.sections[p.next].Cid == c {
			p.next++
			return p.sections[p.next-1].Data, true
		}
		p.next++
	}
	if p.byCid == nil {
		p.byCid = make(map[cid.Cid]int, len(p.sections))
		for i, s := range p.sections {
			p.byCid[s.Cid] = i
		}
	}
	i, ok := p.byCid[c]
	if !ok {
		return nil, false
	}
	p.next = i + 1
	return p.sections[i].Data, true
}

// has tells whether the part has a block.
func (p *part) has(c cid.Cid) bool {
	next := p.next
	_, ok := p.find(c)
	p.next = next
	return ok
}

// overrun is what an archive may have beyond the payload that is wanted and its
// framing: leaves that reach out of a range.
const overrun = 4 << 20

// framed is how much room an archive of so much payload needs, with CIDs,
// lengths and nodes that lead to the payload.
func framed(size int64) int { return int(size) + int(size/16) + 64<<10 }

// buffers are for parts of archives, of all readers of a pool. A few are kept,
// those that one reader has.
type buffers struct {
	mu   sync.Mutex
	free [][]byte
}

const keptBuffers = 4

func (b *buffers) get(size int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, p := range b.free {
		if cap(p) >= size {
			b.free = slices.Delete(b.free, i, i+1)
			return p
		}
	}
	return make([]byte, 0, size)
}

func (b *buffers) put(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cap(p) == 0 {
		return
	}
	if b.free = append(b.free, p[:0]); len(b.free) > keptBuffers {
		b.free = slices.Delete(b.free, 0, 1)
	}
}

// whole begins to fetch all that is below c, which is to be no more than size
// bytes. It is not tried again: what no source gives at once is fetched block by
// block.
func (p *Pool) whole(ctx context.Context, c cid.Cid, size int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).archives, func(race context.Context, m *member) (*archive, error) {
		return p.receive(ctx, race, &archive{m: m, root: c}, size, func(ctx context.Context) (io.ReadCloser, error) {
			return m.Archive(ctx, c)
		})
	})
}

// span begins to fetch what the bytes from..to-1 of the file under c are made
// of. It is not tried again, either.
func (p *Pool) span(ctx context.Context, c cid.Cid, from, to int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).ranges, func(race context.Context, m *member) (*archive, error) {
		return p.receive(ctx, race, &archive{m: m, root: c, ranged: true}, to-from, func(ctx context.Context) (io.ReadCloser, error) {
			return m.Range(ctx, c, from, to)
		})
	})
}

// archive is one that comes in part by part.
type archive struct {
	m      *member
	root   cid.Cid
	ranged bool

	pool   *Pool
	first  *part // which was there when it began
	body   io.ReadCloser
	in     *bufio.Reader
	room   int    // of the buffer of a part
	full   int    // bytes that are enough for one
	left   int    // bytes that may come still
	blocks int    // that may
	length uint64 // of the section that comes next, if it is known
	err    error  // comes after the parts
	cancel context.CancelFunc
}

const (
	readBytes  = 32 << 10
	partBlocks = 16 << 10
	mostBlocks = 2 * partBlocks
)

var (
	// errTooMuch means that an archive is longer than what was asked for can be.
	errTooMuch = errors.New("the archive is longer than what was asked for")
	// errEnough means that an archive is given up because of what would have to
	// be remembered of it.
	errEnough = errors.New("the archive has too many blocks")
)

// receive asks a member for an archive of about so many bytes. It returns when
// the first part is there, which ends the race; the rest comes as long as ctx
// lasts.
func (p *Pool) receive(ctx, race context.Context, a *archive, size int64, open func(context.Context) (io.ReadCloser, error)) (_ *archive, err error) {
	a.pool, a.left, a.blocks = p, framed(size)+overrun, mostBlocks
	a.room = framed(min(size, p.unit))
	if a.full = a.room; size > p.unit {
		a.full = int(p.unit) // and not what comes in between: the lanes of the hash are to be full
	}
	ctx, a.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(race, a.cancel)
	if a.body, err = open(ctx); err == nil {
		a.in = bufio.NewReaderSize(a.body, readBytes)
		a.first, err = a.begin()
	}
	p.judge(race, a.m, err, a.ranged)
	if !stop() && err == nil {
		p.bufs.put(a.first.buf)
		err = context.Cause(race)
	}
	if err != nil {
		_ = a.Close() // err says more
		return nil, err
	}
	return a, nil
}

// Close ends the receiving.
func (a *archive) Close() error {
	a.cancel()
	if a.body == nil {
		return nil
	}
	return a.body.Close()
}

// begin reads the first part.
func (a *archive) begin() (*part, error) {
	p, err := a.next(nil)
	switch {
	case errors.Is(err, errTooMuch):
		a.pool.unable(a.m, a.ranged)
		return nil, bulk.Permanent(fmt.Errorf("%s: %w", a.m.Name, err))
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("archive of %s: it is empty", a.root)
	case errors.Is(err, io.ErrUnexpectedEOF):
		if _, end := a.in.ReadByte(); errors.Is(end, io.EOF) { // it is not the line that broke
			err = bulk.Permanent(fmt.Errorf("%w: %s sent an archive that ends within a section", car.ErrCorrupt, a.m.Name))
		}
		return nil, err
	case err != nil:
		return nil, err
	case !p.has(a.root):
		a.pool.bufs.put(p.buf)
		if !a.ended() {
			a.pool.unable(a.m, a.ranged) // it could go on for ever
		}
		return nil, bulk.Permanent(fmt.Errorf("%w: %s sent an archive without the block that was asked for, %s", car.ErrCorrupt, a.m.Name, a.root))
	}
	return p, nil
}

// ended tells whether all of it is there, well or not.
func (a *archive) ended() bool { return a.err != nil }

// rest hands out the parts that come after the first one from when they are
// wanted on, until ctx is done or an error comes. What it lacks then is fetched
// otherwise.
func (a *archive) rest(ctx context.Context, wanted <-chan struct{}, parts chan<- *part) {
	defer close(parts)
	defer a.Close()
	if !a.ended() {
		select {
		case <-wanted:
		case <-ctx.Done():
			return
		}
	}
	a.pool.begin(a.m)
	defer a.pool.end(a.m)
	for {
		p, err := a.next(car.AppendHeader(nil, a.root))
		if err != nil {
			if ctx.Err() == nil {
				a.broke(err)
			}
			return
		}
		select {
		case parts <- p:
		case <-ctx.Done():
			a.pool.bufs.put(p.buf)
			return
		}
	}
}

// broke notes why an archive ended.
func (a *archive) broke(err error) {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errEnough):
		return
	case errors.Is(err, errTooMuch):
		a.pool.unable(a.m, a.ranged)
	default:
		a.pool.settle(a.m, err)
	}
	a.pool.opts.Logger.Warn("an archive broke off; what it lacks is fetched once more", "source", a.m.Name, "root", a.root, "err", err)
}

// next reads a part that begins with so many bytes of a header, or with the
// archive's own, and checks all that is in it. After the last one comes io.EOF.
// An archive that is cut is as good as far as it goes.
func (a *archive) next(header []byte) (*part, error) {
	if a.err != nil {
		return nil, a.err
	}
	p := &part{buf: append(a.pool.bufs.get(a.room), header...)}
	a.err = a.read(p)
	err := p.check(a.m)
	if err == nil && len(p.sections) == 0 {
		if err = a.err; err == nil {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		a.err = err
		a.pool.bufs.put(p.buf)
		return nil, err
	}
	return p, nil
}

// read reads sections until there are enough for a part, and returns what comes
// after them.
func (a *archive) read(p *part) error {
	for n := 0; n < partBlocks && (len(p.buf) < a.full || n == 0); n++ {
		if a.length == 0 {
			length, err := varint.ReadUvarint(a.in)
			if err != nil {
				return err
			}
			if length == 0 || length > car.DefaultMaxSectionBytes {
				return bulk.Permanent(fmt.Errorf("%w: %s sent a section of %d bytes", car.ErrCorrupt, a.m.Name, length))
			}
			a.length = length
		}
		need := varint.UvarintSize(a.length) + int(a.length)
		if len(p.buf)+need > cap(p.buf) && n > 0 {
			return nil // it is the first of the next part
		}
		if a.left -= need; a.left < 0 {
			return errTooMuch
		}
		if a.blocks--; a.blocks < 0 {
			return errEnough
		}
		p.buf = slices.Grow(p.buf, need)
		p.buf = binary.AppendUvarint(p.buf, a.length)
		at := len(p.buf)
		p.buf = p.buf[:at+int(a.length)]
		if n, err := io.ReadFull(a.in, p.buf[at:]); err != nil {
			p.buf = p.buf[:at+n]
			return unexpected(err)
		}
		a.length = 0
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkedAtOnce is how many blocks are hashed side by side.
const checkedAtOnce = 64

// check finds the sections that are there to the end, and hashes them.
func (p *part) check(m *member) error {
	for s, err := range car.Sections(p.buf) {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return bulk.Permanent(fmt.Errorf("%w: %s: %w", car.ErrCorrupt, m.Name, err))
		}
		p.sections = append(p.sections, s)
	}
	var cids [checkedAtOnce]cid.Cid
	var payloads [checkedAtOnce][]byte
	for rest := p.sections; len(rest) > 0; {
		n := min(len(rest), checkedAtOnce)
		for i, s := range rest[:n] {
			cids[i], payloads[i] = s.Cid, s.Data
		}
		bad, err := car.Mismatch(cids[:n], payloads[:n])
		if err == nil && bad >= 0 {
			err = fmt.Errorf("%w: %s has other bytes for block %s", car.ErrCorrupt, m.Name, cids[bad])
		}
		if err != nil {
			return bulk.Permanent(err)
		}
		rest = rest[n:]
	}
	return nil
}
