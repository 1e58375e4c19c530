package piece

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Pool lets hashers share the cores and the buffers. The zero value is ready to
// use, by several goroutines at a time.
//
// Hashers cut what is written to them into tiles of 1 MiB. A goroutine takes
// tiles as long as there are any, and then ends; there are no more of them than
// cores. No more tiles than cores wait: beyond that, who writes hashes. So there
// are at most two buffers a core, and one a hasher, however many hashers there
// are.
type Pool struct {
	mu      sync.Mutex
	waiting []*tile
	workers int
	buffers sync.Pool // of *buffer
}

// buffer is the bytes of a tile, and room to hash it.
type buffer struct {
	scratch
	n   int
	raw [tileRaw]byte
}

// tile is a full buffer on its way to a root.
type tile struct {
	buffer *buffer // nil once it is hashed
	root   node
	done   chan struct{} // closed then
}

// Hasher computes the piece of the bytes that are written to it. It is for one
// goroutine.
type Hasher struct {
	pool   *Pool
	size   int64
	buffer *buffer // not full; nil if it is empty
	flight []*tile // full ones, oldest first, that are not in peaks

	// peaks are the roots of whole trees, one for each bit that is set in the
	// number of tiles so far.
	peaks [maxHeight - tileHeight + 1]node
	tiles uint64
}

// maxFlight bounds how many roots of tiles wait for an older one.
const maxFlight = 64

// NewHasher makes a hasher of no bytes. Of nil, it has a pool of its own.
func (p *Pool) NewHasher() *Hasher {
	if p == nil {
		p = new(Pool)
	}
	return &Hasher{pool: p}
}

// Write adds to the bytes. An error matches [ErrTooLarge], and then nothing of p
// was added.
func (h *Hasher) Write(p []byte) (int, error) {
	if int64(len(p)) > MaxRawSize-h.size {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(MaxRawSize))
	}
	h.size += int64(len(p))
	total := len(p)
	for len(p) > 0 {
		if h.buffer == nil && len(p) >= tileRaw && h.pool.busy() {
			h.flight = append(h.flight, h.pool.hashed(p[:tileRaw]))
			p = p[tileRaw:]
			h.collect(maxFlight)
			continue
		}
		if h.buffer == nil {
			h.buffer = h.pool.take()
		}
		n := copy(h.buffer.raw[h.buffer.n:], p)
		h.buffer.n += n
		p = p[n:]
		if h.buffer.n == tileRaw {
			t := &tile{buffer: h.buffer, done: make(chan struct{})}
			h.buffer = nil
			h.flight = append(h.flight, t)
			h.pool.start(t)
			h.collect(maxFlight)
		}
	}
	return total, nil
}

// Sum is the piece of the bytes so far. More can be written after it.
func (h *Hasher) Sum() Piece {
	h.collect(0)
	p := Piece{RawSize: h.size}
	top := height(h.size)
	if top <= tileHeight {
		switch {
		case h.buffer != nil:
			p.Commitment = h.buffer.root(h.buffer.raw[:h.buffer.n], top)
		case h.tiles > 0:
			p.Commitment = h.peaks[0]
		default:
			p.Commitment = zeros[top]
		}
		return p
	}
	// What is left to the right of the whole trees, and zeros from there on.
	up := zeros[tileHeight]
	if h.buffer != nil {
		up = h.buffer.root(h.buffer.raw[:h.buffer.n], tileHeight)
	}
	for i := range top - tileHeight {
		if h.tiles>>i&1 == 1 {
			up = join(&h.peaks[i], &up)
		} else {
			up = join(&up, &zeros[tileHeight+i])
		}
	}
	if h.buffer == nil && h.tiles == 1<<(top-tileHeight) {
		up = h.peaks[top-tileHeight] // nothing is left
	}
	p.Commitment = up
	return p
}

// Close lets go of the buffers, and makes a hasher of no bytes again. What is
// being hashed on behalf of h is waited for.
func (h *Hasher) Close() {
	for _, t := range h.flight {
		h.pool.wait(t)
	}
	if h.buffer != nil {
		h.pool.give(h.buffer)
	}
	*h = Hasher{pool: h.pool}
}

// collect takes the roots of hashed tiles, in their order, and waits until no
// more than so many are missing.
func (h *Hasher) collect(most int) {
	for len(h.flight) > 0 {
		t := h.flight[0]
		if len(h.flight) > most {
			h.pool.wait(t)
		} else if !t.isHashed() {
			return
		}
		h.push(t.root)
		h.flight = h.flight[1:]
	}
}

// push adds the root of a tile to the trees so far.
func (h *Hasher) push(root node) {
	i := 0
	for ; h.tiles>>i&1 == 1; i++ {
		root = join(&h.peaks[i], &root)
	}
	h.peaks[i] = root
	h.tiles++
}

func (p *Pool) take() *buffer {
	if b, ok := p.buffers.Get().(*buffer); ok {
		return b
	}
	return new(buffer)
}

func (p *Pool) give(b *buffer) {
	b.n = 0
	p.buffers.Put(b)
}

// busy tells whether nobody has time for another tile.
func (p *Pool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) >= runtime.GOMAXPROCS(0)
}

// hashed is the tile of these bytes, which are hashed where they are.
func (p *Pool) hashed(raw []byte) *tile {
	b := p.take()
	t := &tile{root: b.root(raw, tileHeight), done: make(chan struct{})}
	p.give(b)
	close(t.done)
	return t
}

// start has a tile hashed, if need be by the caller.
func (p *Pool) start(t *tile) {
	cores := runtime.GOMAXPROCS(0)
	p.mu.Lock()
	if len(p.waiting) >= cores {
		p.mu.Unlock()
		p.hash(t)
		return
	}
	p.waiting = append(p.waiting, t)
	more := p.workers < cores
	if more {
		p.workers++
	}
	p.mu.Unlock()
	if more {
		go p.work()
	}
}

// work hashes tiles until none waits.
func (p *Pool) work() {
	for {
		p.mu.Lock()
		if len(p.waiting) == 0 {
			p.workers--
			p.mu.Unlock()
			return
		}
		t := p.waiting[0]
		p.waiting = append(p.waiting[:0], p.waiting[1:]...)
		p.mu.Unlock()
		p.hash(t)
	}
}

// wait returns when a tile is hashed, and does it itself if nobody has begun.
func (p *Pool) wait(t *tile) {
	p.mu.Lock()
	for i, w := range p.waiting {
		if w == t {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.mu.Unlock()
			p.hash(t)
			return
		}
	}
	p.mu.Unlock()
	<-t.done
}

func (p *Pool) hash(t *tile) {
	t.root = t.buffer.root(t.buffer.raw[:], tileHeight)
	p.give(t.buffer)
	t.buffer = nil
	close(t.done)
}

func (t *tile) isHashed() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// readBytes is how much Read reads at a time.
const readBytes = 1 << 20

// Read computes the piece of all that a reader gives.
func (p *Pool) Read(ctx context.Context, r io.Reader) (Piece, error) {
	h := p.NewHasher()
	defer h.Close()
	buf := make([]byte, readBytes)
	for {
		if err := context.Cause(ctx); err != nil {
			return Piece{}, err
		}
		n, err := r.Read(buf)
		if _, err := h.Write(buf[:n]); err != nil {
			return Piece{}, err
		}
		if err == io.EOF {
			return h.Sum(), nil
		}
		if err != nil {
			return Piece{}, err
		}
	}
}
