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
	Name  string // what the upload is called at the target; may be empty
	Index int    // from 0
	Count int
	Size  int64 // in bytes, exactly what the body gives
	Again bool  // the target must not believe that it holds it: it may be damaged there

	archive car.Archive
	u       *Uploader
	shared  shardName // with the uploaders to other targets
	alone   bool      // it is not
	line    *line
	leave   func()        // the line
	sent    *atomic.Int64 // all bytes sent, less those of failed tries
	resent  *atomic.Int64 // those of failed tries

	open sync.WaitGroup // bodies that are not closed
	last *body
}

// Blocks counts the blocks of the shard, and the bytes of their payloads.
func (s *Shard) Blocks() (n int, payload int64) {
	for i := range s.archive.Blocks.Len() {
		b := s.archive.Blocks.At(i)
		payload += int64(b.Size())
	}
	return s.archive.Blocks.Len(), payload
}

// Open returns the shard's bytes from the first one on. Each call makes a
// fresh body, and takes back the progress that was credited to the one before.
// It is not for concurrent use, but a transport may still be closing a body
// that it gave up when the next one is opened.
func (s *Shard) Open(ctx context.Context) Body {
	if s.last != nil {
		s.last.discredit()
	}
	s.open.Add(1)
	s.last = &body{stream: s.stream(ctx), ctx: ctx, shard: s}
	s.line.begin(s.last, s.Size, s.leave)
	return s.last
}

// stream is shared with the uploaders to other targets, if there are any and
// this is the first try.
func (s *Shard) stream(ctx context.Context) stream {
	if s.u.fan == nil || s.alone || s.last != nil {
		return s.u.packer.Open(ctx, s.archive)
	}
	return s.u.fan.open(ctx, s.u, s.shared, s.archive)
}

// Body is the bytes of a shard. Its blocks were checked just before they are
// handed out. Reading is for one goroutine; Close may be called by another, any
// number of times, as transports do. CID is known after the last byte.
type Body interface {
	io.ReadCloser
	io.WriterTo
	CID() (cid.Cid, bool)
}

var errClosed = errors.New("read of a closed shard")

// body counts what is taken from a stream, paces it, and remembers its error:
// a transport may report something vaguer.
type body struct {
	stream stream
	ctx    context.Context //nolint:containedctx // of the one attempt that reads the body
	shard  *Shard
	err    error // of the source; for the reader, and for all once closed

	mu       sync.Mutex
	busy     bool  // a read is under way
	closing  bool  // Close was called
	closeErr error // of the stream
	credited int64
	void     bool // what is read counts for nothing any more
}

// begin starts a read, and reports false if the body was closed.
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

// Close implements io.Closer. A read that is under way goes on to its end: the
// stream's buffer is not given to others while it is read.
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

// release is called once, with the lock held.
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

// failed remembers an error of the source. That the attempt was given up is
// none: why it was is known better where that was decided.
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

// discredit takes back the bytes counted for an attempt that failed.
func (b *body) discredit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shard.sent.Add(-b.credited)
	b.shard.resent.Add(b.credited)
	b.credited, b.void = 0, true
}

// creditWriter counts and paces what a batch writes.
type creditWriter struct {
	w    io.Writer
	b    *body
	step int
	err  error
}

// Steps of a creditWriter. A write moves no byte that a watchdog could see
// until it returns, so steps are small while the line is slow.
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
