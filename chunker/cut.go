package chunker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
)

// cutLeaves is the list of leaves of a file that is cut by content. Digests do
// not move while it grows.
type cutLeaves struct {
	ends    []int64
	digests [][]byte
}

const digestsPerBlock = 1 << 12

// add returns where to put the digest of the next leaf.
func (c *cutLeaves) add(end int64) []byte {
	i := len(c.ends)
	if i%digestsPerBlock == 0 {
		c.digests = append(c.digests, make([]byte, digestsPerBlock*digestSize))
	}
	c.ends = append(c.ends, end)
	return digestAt(c.digests[i/digestsPerBlock], i%digestsPerBlock)
}

// file makes the body of a node, with room for the digests of inner nodes.
func (c *cutLeaves) file(p *Profile, n *node) *file {
	f := &file{layout: newCutLayout(p, n.size, c.ends, n.meta())}
	f.digests = append(make([]byte, 0, f.layout.nodes()*digestSize), bytes.Join(c.digests, nil)[:len(c.ends)*digestSize]...)
	f.digests = f.digests[:cap(f.digests)]
	return f
}

// cut describes a file that is cut by content. Where a leaf ends depends on all
// bytes before it, so one goroutine reads and cuts. Others hash the batches
// that it fills.
func (b *builder) cut(ctx context.Context, n *node, src io.ReaderAt) error {
	var (
		p      = b.dag.profileOf(n)
		leaves cutLeaves
		full   = make(chan *batch)
		free   = make(chan *batch, b.opts.Workers+1) // has room for all batches, so that returning one never blocks
	)
	for range cap(free) {
		free <- newBatch(b, p.leafBytes(int64(b.cutter.max)))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(full)
		h := <-free
		for chunk, err := range b.cutter.chunks(n, b.dag.source(n), src) {
			if err != nil {
				return err
			}
			if h.isFull(len(chunk.data) + leafFraming) {
				if err := send(ctx, full, h); err != nil {
					return err
				}
				h = <-free
			}
			to := chunk.from + int64(len(chunk.data))
			if err := h.add(p, n, chunk, chunk.from, to, leaves.add(to)); err != nil {
				return err
			}
		}
		return send(ctx, full, h)
	})
	for range b.opts.Workers {
		g.Go(func() error {
			for h := range full {
				h.flush()
				free <- h
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	leaves.file(p, n).finish(n)
	return nil
}

// send sends v, unless ctx ends first.
func send[T any](ctx context.Context, to chan<- T, v T) error {
	select {
	case to <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cutChunk is a chunk of a file in memory, readable at its offset in the file.
type cutChunk struct {
	from int64
	data []byte
}

// ReadAt implements io.ReaderAt for offsets of the file inside the chunk.
func (c cutChunk) ReadAt(p []byte, off int64) (int, error) { return copy(p, c.data[off-c.from:]), nil }

// chunks cuts a file. The chunks add up to the size of the file, or the last
// pair is an error.
func (c *cutter) chunks(n *node, source car.Source, src io.ReaderAt) iter.Seq2[cutChunk, error] {
	return func(yield func(cutChunk, error) bool) {
		next := c.split(io.NewSectionReader(src, 0, n.size), n.size)
		var from int64
		for from < n.size {
			data, err := next()
			switch {
			case errors.Is(err, io.EOF):
				err = &car.SourceChangedError{Name: source.Name(), Offset: from, Reason: "it ends there"}
			case err != nil:
				err = fmt.Errorf("read source %q after offset %d: %w", source.Name(), from, err)
			}
			if !yield(cutChunk{from, data}, err) || err != nil {
				return
			}
			from += int64(len(data))
		}
	}
}
