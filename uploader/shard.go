package uploader

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/time/rate"

	"github.com/carload/carload/car"
)

// Shard is one archive on its way to a [Target].
type Shard struct {
	Root  cid.Cid
	Name  string // of the upload, the same for all its shards
	Index int    // from 0
	Count int
	Size  int64 // in bytes, exactly what the body gives

	archive car.Archive
	packer  *car.Packer
	limiter *rate.Limiter // nil for no limit
	sent    *atomic.Int64 // all bytes sent, less those of failed tries
	resent  *atomic.Int64 // those of failed tries
	last    *body
}

// Open returns the shard's bytes from the first one on. Each call makes a
// fresh body, and takes back the progress that was credited to the one before.
// It is not for concurrent use.
func (s *Shard) Open(ctx context.Context) Body {
	s.discredit()
	s.last = &body{Stream: s.packer.Open(ctx, s.archive), ctx: ctx, shard: s}
	return s.last
}

// discredit takes back the bytes counted for an attempt that failed.
func (s *Shard) discredit() {
	if s.last != nil {
		n := s.last.credited.Swap(0)
		s.sent.Add(-n)
		s.resent.Add(n)
	}
}

// Body is the bytes of a shard. Its blocks were checked just before they are
// handed out. CID is known after the last byte.
type Body interface {
	io.ReadCloser
	io.WriterTo
	CID() (cid.Cid, bool)
}

// body counts what is taken from a stream, paces it, and remembers its error:
// a transport may report something vaguer.
type body struct {
	*car.Stream
	ctx      context.Context //nolint:containedctx // of the one attempt that reads the body
	shard    *Shard
	credited atomic.Int64
	err      error
}

func (b *body) Read(p []byte) (int, error) {
	if l := b.shard.limiter; l != nil && len(p) > l.Burst() {
		p = p[:l.Burst()]
	}
	n, err := b.Stream.Read(p)
	b.credit(n)
	if err != nil && err != io.EOF { //nolint:errorlint // Read returns io.EOF itself
		b.err = err
	}
	if err == nil {
		err = b.pace(n)
	}
	return n, err
}

func (b *body) WriteTo(w io.Writer) (int64, error) {
	out := &creditWriter{w: w, b: b}
	n, err := b.Stream.WriteTo(out)
	if err != nil && out.err == nil {
		b.err = err
	}
	return n, err
}

func (b *body) credit(n int) {
	b.credited.Add(int64(n))
	b.shard.sent.Add(int64(n))
}

func (b *body) pace(n int) error {
	if l := b.shard.limiter; l != nil {
		return l.WaitN(b.ctx, n)
	}
	return nil
}

// creditWriter counts and paces what a batch writes.
type creditWriter struct {
	w   io.Writer
	b   *body
	err error
}

// step is how much is written between two looks at the counters.
const step = 1 << 20

func (c *creditWriter) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		k := min(len(p), step)
		if l := c.b.shard.limiter; l != nil {
			k = min(k, l.Burst())
		}
		n, err := c.w.Write(p[:k])
		total += n
		c.b.credit(n)
		if err == nil {
			err = c.b.pace(n)
		}
		if err != nil {
			c.err = err
			return total, err
		}
		p = p[k:]
	}
	return total, nil
}
