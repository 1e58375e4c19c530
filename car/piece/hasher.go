package piece

import (
	"errors"
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
	buffer *buffer // what does not fill a tile yet; may be nil
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
		return 0, tooLarge()
	}
	h.size += int64(len(p))
	total := len(p)
	for len(p) > 0 {
		if h.empty() && len(p) >= tileRaw && h.pool.busy() {
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
		h.full()
	}
	return total, nil
}

// full has the buffer hashed if it is full.
func (h *Hasher) full() {
	if h.buffer.n < tileRaw {
		return
	}
	t := &tile{buffer: h.buffer, done: make(chan struct{})}
	h.buffer = nil
	h.flight = append(h.flight, t)
	h.pool.start(t)
	h.collect(maxFlight)
}

func tooLarge() error { return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(MaxRawSize)) }

// Sum is the piece of the bytes so far. More can be written after it.
func (h *Hasher) Sum() Piece {
	h.collect(0)
	top := height(h.size)
	above := max(0, top-tileHeight)
	// What is left to the right of the whole trees, and zeros from there on.
	up := zeros[top-above]
	if !h.empty() {
		up = h.buffer.root(h.buffer.raw[:h.buffer.n], top-above)
	}
	for i := range above {
		if h.tiles>>i&1 == 1 {
			up = join(&h.peaks[i], &up)
		} else {
			up = join(&up, &zeros[tileHeight+i])
		}
	}
	if h.empty() && h.tiles == 1<<above {
		up = h.peaks[above] // nothing is left
	}
	return Piece{Commitment: up, RawSize: h.size}
}

// empty tells whether all bytes are in tiles.
func (h *Hasher) empty() bool { return h.buffer == nil || h.buffer.n == 0 }

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

// ReadFrom adds all that a reader gives. It implements io.ReaderFrom.
func (h *Hasher) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if h.buffer == nil {
			h.buffer = h.pool.take()
		}
		room := h.buffer.raw[h.buffer.n:]
		// One byte more than there may be tells a reader that ends in time.
		room = room[:min(int64(len(room)), MaxRawSize-h.size+1)]
		n, err := r.Read(room)
		if int64(n) > MaxRawSize-h.size {
			return total, tooLarge()
		}
		h.size += int64(n)
		h.buffer.n += n
		total += int64(n)
		h.full()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Read computes the piece of all that a reader gives.
func (p *Pool) Read(r io.Reader) (Piece, error) {
	h := p.NewHasher()
	defer h.Close()
	if _, err := h.ReadFrom(r); err != nil {
		return Piece{}, err
	}
	return h.Sum(), nil
}
