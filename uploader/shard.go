package uploader

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// Shard is one archive on its way to a [Target].
type Shard struct {
	Root  cid.Cid
	Name  string // name of the upload at the target; may be empty
	Index int    // counted from 0
	Count int
	Size  int64 // in bytes, exactly the length of the body
	Again bool  // send it even if the target holds it: it may be damaged there

	archive car.Archive
	u       *Uploader
	shared  shardName // with uploaders to other targets
	alone   bool      // not shared after all
	line    *line
	leave   func()        // leaves line
	sent    *atomic.Int64 // all bytes sent, except in failed attempts
	resent  *atomic.Int64 // bytes sent in failed attempts

	open sync.WaitGroup // bodies that are not closed yet
	last *body
}

// Blocks returns the number of blocks in the shard, and their total payload in
// bytes.
func (s *Shard) Blocks() (n int, payload int64) {
	for i := range s.archive.Blocks.Len() {
		b := s.archive.Blocks.At(i)
		payload += int64(b.Size())
	}
	return s.archive.Blocks.Len(), payload
}

// Open returns the shard's bytes from the first one on. Each call makes a new
// body, and takes back the progress of the previous one. Open is not safe for
// concurrent use, but a transport may still be closing a body that it gave up
// when the next one is opened.
func (s *Shard) Open(ctx context.Context) Body {
	if s.last != nil {
		s.last.discredit()
	}
	s.open.Add(1)
	s.last = &body{stream: s.stream(ctx), ctx: ctx, shard: s}
	s.line.begin(s.last, s.Size, s.leave)
	return s.last
}

// stream returns a stream that is shared with the uploaders to other targets,
// if there are any and this is the first attempt.
func (s *Shard) stream(ctx context.Context) stream {
	if s.u.fan == nil || s.alone || s.last != nil {
		return s.u.packer.Open(ctx, s.archive)
	}
	return s.u.fan.open(ctx, s.u, s.shared, s.archive)
}

// Body is the bytes of a shard, each block checked just before it is handed
// out. Reading is for one goroutine. Close may be called by another, and
// repeatedly, as HTTP transports do. CID is known after the last byte.
type Body interface {
	io.ReadCloser
	io.WriterTo
	CID() (cid.Cid, bool)
}

var errClosed = errors.New("read of a closed shard")

// body counts and paces what is read from a stream. It remembers the stream's
// error, since a transport may report a vaguer one.
type body struct {
	stream stream
	ctx    context.Context //nolint:containedctx // of the one attempt that reads the body
	shard  *Shard
	err    error // of the source; for the reader until the body is closed, then for all

	mu       sync.Mutex
	busy     bool  // a read is under way
	closing  bool  // Close was called
	closeErr error // of the stream
	credited int64
	void     bool // bytes read from now on do not count
}

// begin begins a read. It returns false if the body is closed.
func (b *body) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = !b.closing
	return b.busy
}

// end ends a read, and closes the stream if Close was called meanwhile.
func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	if b.closing {
		b.release()
	}
}

// Close implements io.Closer. If a read is in progress, it finishes first, so
// that nobody else gets the stream's buffer too early.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closing {
		b.closing = true
		if !b.busy {
			b.release()
		}
	}
	return b.closeErr
}

// release closes the stream. It is called once, with the lock held.
func (b *body) release() {
	b.shard.line.done(b)
	b.closeErr = b.stream.Close()
	b.shard.open.Done()
}

func (b *body) CID() (cid.Cid, bool) { return b.stream.CID() }

func (b *body) Read(p []byte) (int, error) {
	if !b.begin() {
		return 0, errClosed
	}
	defer b.end()
	p = p[:b.shard.line.step(len(p))]
	n, err := b.stream.Read(p)
	b.credit(n)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			b.failed(err)
		}
		return n, err
	}
	return n, b.shard.line.moved(b, n)
}

func (b *body) WriteTo(w io.Writer) (int64, error) {
	if !b.begin() {
		return 0, errClosed
	}
	defer b.end()
	out := &creditWriter{w: w, b: b, step: firstStep}
	n, err := b.stream.WriteTo(out)
	if err != nil && out.err == nil {
		b.failed(err)
	}
	return n, err
}

// failed remembers an error of the source. A cancelled attempt is not one:
// whoever cancelled it knows the reason better.
func (b *body) failed(err error) {
	if cause := context.Cause(b.ctx); cause == nil || !errors.Is(err, cause) {
		b.err = &SourceError{err}
	}
}

func (b *body) credit(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.void {
		b.shard.resent.Add(int64(n))
		return
	}
	b.credited += int64(n)
	b.shard.sent.Add(int64(n))
}

// discredit takes back the bytes counted for a failed attempt.
func (b *body) discredit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shard.sent.Add(-b.credited)
	b.shard.resent.Add(b.credited)
	b.credited, b.void = 0, true
}

// creditWriter counts and paces writes.
type creditWriter struct {
	w    io.Writer
	b    *body
	step int
	err  error
}

// Steps of a creditWriter. A watchdog sees no progress until a write returns,
// so steps are small while the line is slow.
const (
	firstStep = 64 << 10
	leastStep = 4 << 10
	mostStep  = 1 << 20
	fastWrite = 50 * time.Millisecond
	slowWrite = time.Second
)

func (c *creditWriter) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		k := c.b.shard.line.step(min(len(p), c.step))
		start := time.Now()
		n, err := c.w.Write(p[:k])
		switch took := time.Since(start); {
		case took < fastWrite:
			c.step = min(2*c.step, mostStep)
		case took > slowWrite:
			c.step = max(c.step/2, leastStep)
		}
		total += n
		c.b.credit(n)
		if err == nil {
			err = c.b.shard.line.moved(c.b, n)
		}
		if err != nil {
			c.err = err
			return total, err
		}
		p = p[k:]
	}
	return total, nil
}
