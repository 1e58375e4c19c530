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

// part is a group of blocks of a DAG that arrived together. Every block has
// been hashed.
type part struct {
	buf      []byte
	sections []car.Section // their data are slices of buf
	next     int           // index of the section that will probably be asked for next
	byCid    map[cid.Cid]int
}

// find returns the payload of a block, if the part has it.
func (p *part) find(c cid.Cid) ([]byte, bool) {
	for range 2 { // one block that was already asked for may come in between
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

// has reports whether the part has a block.
func (p *part) has(c cid.Cid) bool {
	next := p.next
	_, ok := p.find(c)
	p.next = next
	return ok
}

// overrun is how many bytes an archive may have in addition to the wanted
// payload and its framing: a range may cut through leaves, which come whole.
const overrun = 4 << 20

// framed returns the space that an archive with this much payload needs,
// including CIDs, lengths, and the nodes that lead to the payload.
func framed(size int64) int { return int(size) + int(size/16) + 64<<10 }

// buffers holds buffers for parts of archives, for all readers of a pool. It
// keeps as many as one reader uses.
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

// whole begins to fetch everything below c, which should be no more than size
// bytes. There are no retries: if no source delivers it at once, it is fetched
// block by block.
func (p *Pool) whole(ctx context.Context, c cid.Cid, size int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).archives, func(race context.Context, m *member) (*archive, error) {
		return p.receive(ctx, race, &archive{m: m, root: c}, size, func(ctx context.Context) (io.ReadCloser, error) {
			return m.Archive(ctx, c)
		})
	})
}

// span begins to fetch the blocks with the bytes from..to-1 of the file under
// c. There are no retries either.
func (p *Pool) span(ctx context.Context, c cid.Cid, from, to int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).ranges, func(race context.Context, m *member) (*archive, error) {
		return p.receive(ctx, race, &archive{m: m, root: c, ranged: true}, to-from, func(ctx context.Context) (io.ReadCloser, error) {
			return m.Range(ctx, c, from, to)
		})
	})
}

// archive is an archive that arrives part by part.
type archive struct {
	m      *member
	root   cid.Cid
	ranged bool

	pool   *Pool
	first  *part // arrived when the archive was opened
	body   io.ReadCloser
	in     *bufio.Reader
	room   int    // size of the buffer for a part
	full   int    // a part with this many bytes is complete
	left   int    // bytes that may still come
	blocks int    // blocks that may still come
	length uint64 // of the next section, if it has been read
	err    error  // error to report after the parts
	cancel context.CancelFunc
}

const (
	readBytes  = 32 << 10
	partBlocks = 16 << 10
	mostBlocks = 2 * partBlocks
)

var (
	// errTooMuch says that an archive is longer than the request allows.
	errTooMuch = errors.New("the archive is longer than requested")
	// errEnough says that an archive was given up, because too many of its
	// blocks would have to be remembered.
	errEnough = errors.New("the archive has too many blocks")
)

// receive asks a member for an archive of about size bytes. It returns when the
// first part has arrived, which decides the race. The rest keeps coming until
// ctx ends.
func (p *Pool) receive(ctx, race context.Context, a *archive, size int64, open func(context.Context) (io.ReadCloser, error)) (_ *archive, err error) {
	a.pool, a.left, a.blocks = p, framed(size)+overrun, mostBlocks
	a.room = framed(min(size, p.unit))
	if a.full = a.room; size > p.unit {
		a.full = int(p.unit) // leave out the overhead, so that the part fills the hashing lanes
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

// Close stops receiving.
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
		return nil, fmt.Errorf("archive of %s: it has no blocks", a.root)
	case errors.Is(err, io.ErrUnexpectedEOF):
		if _, end := a.in.ReadByte(); errors.Is(end, io.EOF) { // the connection is not to blame
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
		return nil, bulk.Permanent(fmt.Errorf("%w: %s sent an archive without the requested block %s", car.ErrCorrupt, a.m.Name, a.root))
	}
	return p, nil
}

// ended reports whether the archive has ended, completely or not.
func (a *archive) ended() bool { return a.err != nil }

// rest sends the parts after the first one, beginning when they are wanted,
// until ctx ends or an error occurs. Blocks that are missing then are fetched
// in another way.
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

// broke records why an archive ended.
func (a *archive) broke(err error) {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errEnough):
		return
	case errors.Is(err, errTooMuch):
		a.pool.unable(a.m, a.ranged)
	default:
		a.pool.settle(a.m, err)
	}
	a.pool.opts.Logger.Warn("an archive broke off; the missing blocks will be fetched again", "source", a.m.Name, "root", a.root, "err", err)
}

// next reads a part and checks all its blocks. The part's buffer begins with
// the given header, or else with the archive's own. After the last part, next
// returns io.EOF. The complete blocks of a truncated archive are good.
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

// read reads enough sections for a part, and returns the error that came after
// them.
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
			return nil // the section begins the next part
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

// checkedAtOnce is how many blocks are hashed together.
const checkedAtOnce = 64

// check finds the complete sections and hashes them.
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
