package walk

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// leafBytes is the largest content of a DAG-PB block that may be a leaf of a
// file.
const leafBytes = 1 << 20

// maxLookups limits how many blocks are looked up to compute the size of a file
// whose nodes don't state it.
const maxLookups = 1 << 16

// Node returns a UnixFS node. A file's node has the size of its content.
func (r *Reader) Node(ctx context.Context, c cid.Cid) (*unixfs.Node, error) {
	block, err := r.Block(ctx, c)
	if err != nil {
		return nil, err
	}
	n, err := unixfs.Decode(c.Prefix().Codec, block)
	if err != nil {
		return nil, fmt.Errorf("block %s: %w", c, err)
	}
	if err := r.sizer().Size(ctx, n); err != nil {
		return nil, fmt.Errorf("size of %s: %w", c, err)
	}
	return n, nil
}

func (r *Reader) sizer() *unixfs.Sizer { return &unixfs.Sizer{Blocks: &lookups{r: r}} }

// lookups gives blocks to a Sizer.
type lookups struct {
	r    *Reader
	done int
}

func (l *lookups) count(c cid.Cid) error {
	if l.done++; l.done > maxLookups {
		return fmt.Errorf("at block %s: %w", c, ErrFruitless)
	}
	return nil
}

// Len implements unixfs.Blocks.
func (l *lookups) Len(ctx context.Context, c cid.Cid) (int64, error) {
	if err := l.count(c); err != nil {
		return 0, err
	}
	return l.r.Size(ctx, c)
}

// Load implements unixfs.Blocks.
func (l *lookups) Load(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := l.count(c); err != nil {
		return nil, err
	}
	return l.r.Block(ctx, c)
}

// fileRange is a range of bytes of a file.
type fileRange struct {
	from, to int64 // to is exclusive
	toEnd    bool  // include empty parts at the end
}

// wants reports whether the range needs this part of the file.
func (r fileRange) wants(from, size int64) bool {
	return from+size > r.from && (from < r.to || r.toEnd)
}

// cut returns the part of p that is in the range; p begins at offset from.
func (r fileRange) cut(p []byte, from int64) []byte {
	lo := min(max(r.from-from, 0), int64(len(p)))
	hi := min(max(r.to-from, lo), int64(len(p)))
	return p[lo:hi]
}

// filePlan visits the parts of a file that overlap a range.
type filePlan struct {
	sizer *unixfs.Sizer
	rng   fileRange
}

func (f *filePlan) visit(*want) bool { return true }

func (f *filePlan) met(*want) bool { return false }

func (f *filePlan) charge() int64 { return 0 }

func (f *filePlan) open(ctx context.Context, w *want, block []byte) ([]byte, []want, error) {
	n, below, err := f.node(ctx, w, block)
	if err != nil {
		return nil, nil, err
	}
	part := f.rng.cut(n.Data, w.from)
	if len(part) == 0 {
		part = nil
	}
	return part, below, nil
}

// node decodes a part of the file, and returns the parts below it that overlap
// the range.
func (f *filePlan) node(ctx context.Context, w *want, block []byte) (*unixfs.Node, []want, error) {
	fail := func(err error) (*unixfs.Node, []want, error) {
		return nil, nil, fmt.Errorf("block %s: %w", w.cid, err)
	}
	n, err := unixfs.Decode(w.cid.Prefix().Codec, block)
	if err != nil {
		return fail(err)
	}
	if !n.IsFile() {
		return fail(unixfs.Invalid("a %s as part of a file", n.Type))
	}
	if err := f.sizer.Size(ctx, n); err != nil {
		return fail(err)
	}
	if int64(n.Size) != w.size {
		return fail(unixfs.Invalid("it stands for %d bytes, but its parent says %d", n.Size, w.size))
	}
	var below []want
	at := w.from + int64(len(n.Data))
	for i, l := range n.Links {
		size := int64(n.Sizes[i])
		if f.rng.wants(at, size) {
			below = append(below, fileWant(l.Cid, at, size))
		}
		at += size
	}
	return n, below, nil
}

func fileWant(c cid.Cid, from, size int64) want {
	w := want{cid: c, from: from, size: size}
	switch {
	case c.Prefix().Codec == links.Raw:
	case size <= leafBytes:
		w.kind = maybe
	default:
		w.kind = inner
	}
	return w
}

// Content is a range of a file that is being read. The caller closes it.
type Content struct {
	s    *Stream
	left int64
}

// Content begins to read length bytes at offset from of file n, whose block is
// c. It returns after reading the first of them.
func (r *Reader) Content(ctx context.Context, c cid.Cid, n *unixfs.Node, from, length int64) (*Content, error) {
	size := int64(n.Size)
	if from < 0 || length < 0 || from > size || length > size-from {
		return nil, fmt.Errorf("bytes %d to %d of %d", from, from+length, size)
	}
	p := &filePlan{sizer: r.sizer(), rng: fileRange{from: from, to: from + length}}
	var wants []want
	if length > 0 {
		wants = []want{fileWant(c, 0, size)}
	}
	s, err := r.start(ctx, p, wants)
	if err != nil {
		return nil, err
	}
	return &Content{s: s, left: length}, nil
}

// Close ends the walk and releases its memory.
func (c *Content) Close() { c.s.Close() }

// WriteTo writes the range to w. Call it once. If the range is not complete, it
// returns an error.
func (c *Content) WriteTo(ctx context.Context, w io.Writer) error {
	err := c.s.each(ctx, sink{body: func(_ cid.Cid, p []byte) error {
		c.left -= int64(len(p))
		_, err := w.Write(p)
		return err
	}})
	if err == nil && c.left != 0 {
		return fmt.Errorf("the range ended %d bytes early: %w", c.left, io.ErrUnexpectedEOF)
	}
	return err
}

// Head returns the first n bytes of a file, or all if it has fewer.
func (r *Reader) Head(ctx context.Context, c cid.Cid, node *unixfs.Node, n int64) ([]byte, error) {
	content, err := r.Content(ctx, c, node, 0, min(n, int64(node.Size)))
	if err != nil {
		return nil, err
	}
	defer content.Close()
	head := make([]byte, 0, n)
	err = content.s.each(ctx, sink{body: func(_ cid.Cid, p []byte) error {
		head = append(head, p...)
		return nil
	}})
	return head, err
}

// ByteRange is a requested range of a file: the offsets of its first and last
// byte. Negative offsets count from the end.
type ByteRange struct {
	From int64
	To   *int64 // nil means the end
}

// of computes the range for a file of this size.
func (b *ByteRange) of(size int64) (fileRange, error) {
	if b == nil {
		return fileRange{to: math.MaxInt64, toEnd: true}, nil
	}
	from := b.From
	if from < 0 {
		from = max(size+from, 0)
	}
	if b.To == nil {
		return fileRange{from: from, to: math.MaxInt64, toEnd: true}, nil
	}
	to := *b.To
	if to < 0 {
		to += size
	}
	if to < math.MaxInt64 {
		to++
	}
	if to < from {
		return fileRange{}, fmt.Errorf("%w: bytes from %d to %d", ErrRange, from, to-1)
	}
	return fileRange{from: from, to: to, toEnd: to > size}, nil
}
