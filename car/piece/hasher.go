package piece

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Pool lets hashers share cores and buffers. The zero value is ready to use,
// and safe for concurrent use.
//
// Hashers cut what is written to them into tiles of 1 MiB. The pool hashes
// tiles on as many goroutines as there are cores; they end when no tile is
// left. At most one tile per core waits in the queue. When the queue is full,
// the writer hashes its own tile. So a pool holds at most two buffers per core,
// plus one per hasher, however many hashers there are.
type Pool struct {
	mu      sync.Mutex
	waiting []*tile
	workers int
	buffers sync.Pool // of *buffer
}

// buffer holds the bytes of a tile, and scratch space to hash it.
type buffer struct {
	scratch
	n   int
	raw [tileRaw]byte
}

// tile is a full buffer that is waiting for its root, or has it.
type tile struct {
	buffer *buffer // nil once the tile is hashed
	root   node
	done   chan struct{} // closed when root is set
}

// Hasher computes the piece of the bytes written to it. It is not safe for
// concurrent use.
type Hasher struct {
	pool   *Pool
	size   int64
	buffer *buffer // bytes that do not fill a tile yet; may be nil
	flight []*tile // full tiles, oldest first, whose roots are not in peaks

	// peaks are the roots of complete trees, one for each bit set in tiles, the
	// number of tiles so far.
	peaks [maxHeight - tileHeight + 1]node
	tiles uint64
}

// maxFlight is the most tiles of one hasher that can be in flight.
const maxFlight = 64

// NewHasher returns a hasher with no bytes written. On a nil Pool, the hasher
// gets a pool of its own.
func (p *Pool) NewHasher() *Hasher {
	if p == nil {
		p = new(Pool)
	}
	return &Hasher{pool: p}
}

// Write adds p to the piece. If it fails, the error matches [ErrTooLarge] and
// nothing of p was added.
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

// full sends the buffer to be hashed if it is full.
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

// Sum returns the piece of the bytes written so far. More can be written after
// it.
func (h *Hasher) Sum() Piece {
	h.collect(0)
	top := height(h.size)
	above := max(0, top-tileHeight)
	// What is to the right of the complete trees, padded with zeros.
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

// empty reports whether all bytes are in tiles.
func (h *Hasher) empty() bool { return h.buffer == nil || h.buffer.n == 0 }

// Close releases the buffers and resets h to an empty hasher, after waiting for
// tiles that are being hashed.
func (h *Hasher) Close() {
	for _, t := range h.flight {
		h.pool.wait(t)
	}
	if h.buffer != nil {
		h.pool.give(h.buffer)
	}
	*h = Hasher{pool: h.pool}
}

// collect adds the roots of hashed tiles, in order, and waits until at most
// this many tiles are in flight.
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

// push adds the root of a tile to the peaks.
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

// busy reports whether the queue is full.
func (p *Pool) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) >= runtime.GOMAXPROCS(0)
}

// hashed returns a tile whose bytes were hashed in place, by the caller.
func (p *Pool) hashed(raw []byte) *tile {
	b := p.take()
	t := &tile{root: b.root(raw, tileHeight), done: make(chan struct{})}
	p.give(b)
	close(t.done)
	return t
}

// start queues a tile, or hashes it at once if the queue is full.
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

// work hashes tiles until the queue is empty.
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

// wait waits until a tile is hashed. If it is still in the queue, wait hashes
// it.
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

// ReadFrom adds everything that r yields. It implements io.ReaderFrom.
func (h *Hasher) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		if h.buffer == nil {
			h.buffer = h.pool.take()
		}
		room := h.buffer.raw[h.buffer.n:]
		// Ask for one byte more than the limit, to notice a reader that exceeds
		// it.
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

// Read computes the piece of everything that r yields.
func (p *Pool) Read(r io.Reader) (Piece, error) {
	h := p.NewHasher()
	defer h.Close()
	if _, err := h.ReadFrom(r); err != nil {
		return Piece{}, err
	}
	return h.Sum(), nil
}
