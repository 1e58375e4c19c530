package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
)

// archive is some blocks of a DAG that came together. Each was hashed.
type archive struct {
	buf      []byte
	sections []car.Section // whose data is in buf
	next     int           // the section that is asked for next, most likely
	byCid    map[cid.Cid]int
}

// find returns the payload of a block, if the archive has it.
func (a *archive) find(c cid.Cid) ([]byte, bool) {
	for range 2 { // in between there may be one that was asked for already
		if a.next < len(a.sections) && a.sections[a.next].Cid == c {
			a.next++
			return a.sections[a.next-1].Data, true
		}
		a.next++
	}
	if a.byCid == nil {
		a.byCid = make(map[cid.Cid]int, len(a.sections))
		for i, s := range a.sections {
			a.byCid[s.Cid] = i
		}
	}
	i, ok := a.byCid[c]
	if !ok {
		return nil, false
	}
	a.next = i + 1
	return a.sections[i].Data, true
}

// overrun is what an archive may have beyond the payload that is wanted and its
// framing: leaves that reach out of a range.
const overrun = 4 << 20

// framed is how much room an archive of so much payload needs, with CIDs,
// lengths and nodes that lead to the payload.
func framed(size int64) int { return int(size) + int(size/16) + 64<<10 }

// buffers are for archives, of all readers of a pool. They are let go of when
// there are none that read.
type buffers struct{ pool sync.Pool }

func (b *buffers) get(size int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= size {
		return (*p)[:0]
	}
	return make([]byte, 0, size)
}

func (b *buffers) put(p []byte) {
	if cap(p) > 0 {
		b.pool.Put(&p)
	}
}

// whole fetches all that is below c, which is to be no more than size bytes. It
// is not tried again: what no source gives at once is fetched block by block.
func (p *Pool) whole(ctx context.Context, c cid.Cid, size int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).archives, func(ctx context.Context, m *member) (*archive, error) {
		body, err := m.Archive(ctx, c)
		a, err := p.take(m, body, err, c, size, false)
		p.judge(ctx, m, err, false)
		return a, err
	})
}

// span fetches what the bytes from..to-1 of the file under c are made of. It is
// not tried again, either.
func (p *Pool) span(ctx context.Context, c cid.Cid, from, to int64) (*archive, error) {
	return try(ctx, p, c, 0, (*member).ranges, func(ctx context.Context, m *member) (*archive, error) {
		body, err := m.Range(ctx, c, from, to)
		a, err := p.take(m, body, err, c, to-from, true)
		p.judge(ctx, m, err, true)
		return a, err
	})
}

// errTooMuch means that an archive is longer than what was asked for can be.
var errTooMuch = errors.New("the archive is longer than what was asked for")

// take reads an archive and checks all that is in it. One that is cut is as good
// as far as it goes: what it lacks is fetched by itself.
func (p *Pool) take(m *member, body io.ReadCloser, err error, c cid.Cid, size int64, ranged bool) (*archive, error) {
	if err != nil {
		return nil, err
	}
	defer body.Close()
	a := &archive{}
	a.buf, err = readUpTo(body, p.bufs.get(framed(size)), framed(size)+overrun)
	if errors.Is(err, errTooMuch) {
		p.unable(m, ranged)
		return nil, bulk.Permanent(fmt.Errorf("%s: %w", m.Name, err))
	}
	cut := err
	for s, err := range car.Sections(a.buf) {
		if err != nil {
			if cut == nil && !errors.Is(err, io.ErrUnexpectedEOF) || len(a.sections) == 0 {
				return nil, bulk.Permanent(fmt.Errorf("%w: %s: %w", car.ErrCorrupt, m.Name, err))
			}
			cut = err
			break
		}
		a.sections = append(a.sections, s)
	}
	if len(a.sections) == 0 {
		if cut == nil {
			cut = errors.New("it is empty")
		}
		return nil, fmt.Errorf("archive of %s: %w", m.Name, cut)
	}
	if err := a.check(m, c); err != nil {
		return nil, err
	}
	if cut != nil {
		p.settle(m, cut)
		p.opts.Logger.Warn("an archive broke off; what it lacks is fetched by itself", "source", m.Name, "root", c, "err", cut)
	}
	return a, nil
}

// checkedAtOnce is how many blocks are hashed side by side.
const checkedAtOnce = 64

// check hashes everything, and looks whether the block is there that was asked
// for.
func (a *archive) check(m *member, c cid.Cid) error {
	if !slices.ContainsFunc(a.sections, func(s car.Section) bool { return s.Cid == c }) {
		return bulk.Permanent(fmt.Errorf("%w: %s sent an archive without the block that was asked for, %s", car.ErrCorrupt, m.Name, c))
	}
	var cids [checkedAtOnce]cid.Cid
	var payloads [checkedAtOnce][]byte
	for rest := a.sections; len(rest) > 0; {
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

// readUpTo reads to the end into p, which may grow to limit bytes.
func readUpTo(r io.Reader, p []byte, limit int) ([]byte, error) {
	for {
		if len(p) == cap(p) {
			if len(p) >= limit {
				return p, errTooMuch
			}
			p = append(make([]byte, 0, limit), p...)
		}
		n, err := r.Read(p[len(p):cap(p)])
		p = p[:len(p)+n]
		switch {
		case errors.Is(err, io.EOF):
			return p, nil
		case err != nil:
			return p, err
		case len(p) > limit:
			return p, errTooMuch
		}
	}
}

// has tells whether the archive has a block.
func (a *archive) has(c cid.Cid) bool {
	next := a.next
	_, ok := a.find(c)
	a.next = next
	return ok
}
