package walk

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// ErrRange is wrapped by errors about a range that ends before it begins.
var ErrRange = errors.New("not a range")

// Scope says how much of a DAG an archive includes.
type Scope int

// Scopes.
const (
	All    Scope = iota // everything below the block
	Entity              // a file, or a directory without the contents of its entries
	Block               // only the block
)

// ArchiveOptions say what an archive includes. The zero value includes
// everything.
type ArchiveOptions struct {
	Path       []Loaded // blocks that come first: those on the way to the root
	Scope      Scope
	Bytes      *ByteRange // a range of a file, with scope Entity
	Duplicates bool       // repeat a block each time the walk meets it
}

// Loaded is a block together with its bytes.
type Loaded struct {
	Cid   cid.Cid
	Block []byte
}

// Archive is a CARv1 that is being made. The caller closes it.
type Archive struct {
	root cid.Cid
	path []Loaded
	s    *Stream
}

// Archive begins an archive of the DAG under a root: depth first, each block
// before those it links to, in the order of its links. It returns after reading
// the first blocks.
func (r *Reader) Archive(ctx context.Context, root cid.Cid, opts ArchiveOptions) (*Archive, error) {
	met := &seen{}
	a := &Archive{root: root}
	for _, l := range opts.Path {
		if _, inline := links.Identity(l.Cid); !inline && (opts.Duplicates || met.addBytes(l.Cid)) {
			a.path = append(a.path, l)
		}
	}
	p, w, err := r.archivePlan(ctx, root, opts, met)
	if err != nil {
		return nil, err
	}
	a.s, err = r.start(ctx, p, w)
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (r *Reader) archivePlan(ctx context.Context, root cid.Cid, opts ArchiveOptions, met *seen) (plan, []want, error) {
	base := archivePlan{room: r.room, blocks: met, dups: opts.Duplicates}
	top := want{cid: root}
	if opts.Scope == All && links.Possible(root.Prefix().Codec) {
		top.kind = inner
	}
	if opts.Scope != Entity || root.Prefix().Codec != links.DagPB {
		return &base, []want{top}, nil
	}
	n, err := r.Node(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	switch n.Type {
	case unixfs.File:
		rng, err := opts.Bytes.of(int64(n.Size))
		if err != nil {
			return nil, nil, err
		}
		f := filePlan{sizer: r.sizer(), rng: rng}
		return &fileArchive{base, f}, []want{fileWant(root, 0, int64(n.Size))}, nil
	case unixfs.Shard:
		top.kind = inner
		return &shardArchive{base, n.Fanout}, []want{top}, nil
	}
	return &base, []want{top}, nil
}

// archivePlan visits everything below a block.
type archivePlan struct {
	room    *room
	blocks  *seen // not used if dups is set
	dups    bool
	charged int64 // memory charged for blocks
	err     error
}

func (p *archivePlan) visit(w *want) bool {
	if p.dups {
		w.emit = true
		return true
	}
	if !p.blocks.addNode(w.cid) {
		return false
	}
	return p.note(w)
}

func (p *archivePlan) met(w *want) bool { return !p.dups && p.blocks.node(w.cid) }

// note records the bytes of a block, and reports whether it must be read.
func (p *archivePlan) note(w *want) bool {
	w.emit = p.blocks.addBytes(w.cid)
	if more := int64(p.blocks.len()-freeWants)*seenBytes - p.charged; more > 0 {
		more += freeWants * seenBytes
		if !p.room.find(func() bool { return p.room.memory.left.try(more) }) {
			p.err = fmt.Errorf("%d blocks to remember: %w", p.blocks.len(), ErrBusy)
			return true // so that open returns the error
		}
		p.charged += more
	}
	return w.emit || w.kind != leaf
}

func (p *archivePlan) open(_ context.Context, w *want, block []byte) ([]byte, []want, error) {
	if w.kind == leaf {
		return p.part(w, block), nil, p.err
	}
	var below []want
	err := links.Direct(w.cid.Prefix().Codec, block, func(c cid.Cid) error {
		next := want{cid: c}
		if links.Possible(c.Prefix().Codec) {
			next.kind = inner
		} else if _, inline := links.Identity(c); inline {
			return nil
		}
		below = append(below, next)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("links of block %s: %w", w.cid, err)
	}
	return p.part(w, block), below, p.err
}

// part returns what goes into the archive for a block. That is nothing for a
// block inside its CID.
func (p *archivePlan) part(w *want, block []byte) []byte {
	if _, inline := links.Identity(w.cid); inline || !w.emit {
		return nil
	}
	if block == nil {
		return []byte{} // an empty block still counts
	}
	return block
}

func (p *archivePlan) charge() int64 { return p.charged }

// fileArchive visits the blocks of a file that overlap a range.
type fileArchive struct {
	archivePlan
	file filePlan
}

// whole reports whether everything below w is in the range.
func (f *fileArchive) whole(w *want) bool {
	return w.from >= f.file.rng.from && w.from+w.size <= f.file.rng.to
}

func (f *fileArchive) visit(w *want) bool {
	if f.dups {
		w.emit = true
		return true
	}
	if f.whole(w) && !f.blocks.addNode(w.cid) {
		return false
	}
	return f.note(w)
}

func (f *fileArchive) met(w *want) bool { return f.whole(w) && f.archivePlan.met(w) }

func (f *fileArchive) open(ctx context.Context, w *want, block []byte) ([]byte, []want, error) {
	_, below, err := f.file.node(ctx, w, block)
	if err == nil {
		err = f.err
	}
	if err != nil {
		return nil, nil, err
	}
	return f.part(w, block), below, nil
}

// shardArchive visits the shards of a directory.
type shardArchive struct {
	archivePlan
	fanout uint64
}

func (d *shardArchive) open(_ context.Context, w *want, block []byte) ([]byte, []want, error) {
	n, err := unixfs.Decode(w.cid.Prefix().Codec, block)
	if err == nil && (n.Type != unixfs.Shard || n.Fanout != d.fanout) {
		err = unixfs.Invalid("it is not a shard of the directory")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("block %s: %w", w.cid, err)
	}
	var below []want
	for _, l := range n.Links {
		if len(l.Name) == n.PrefixLen() {
			below = append(below, want{cid: l.Cid, kind: inner})
		}
	}
	return d.part(w, block), below, d.err
}

// Close ends the walk and releases its memory.
func (a *Archive) Close() { a.s.Close() }

// writers buffer small writes: framing and small blocks.
var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

// WriteTo writes the archive to w. Call it once.
func (a *Archive) WriteTo(ctx context.Context, w io.Writer) error {
	out := writers.Get().(*bufio.Writer)
	out.Reset(w)
	defer func() {
		out.Reset(nil)
		writers.Put(out)
	}()
	var frame []byte
	head := func(c cid.Cid, size int) error {
		frame = binary.AppendUvarint(frame[:0], uint64(c.ByteLen()+size))
		frame = append(frame, c.KeyString()...)
		_, err := out.Write(frame)
		return err
	}
	body := func(_ cid.Cid, p []byte) error {
		_, err := out.Write(p)
		return err
	}
	before := func() error {
		_, err := out.Write(car.AppendHeader(nil, a.root))
		for i := 0; i < len(a.path) && err == nil; i++ {
			err = errors.Join(head(a.path[i].Cid, len(a.path[i].Block)), body(a.path[i].Cid, a.path[i].Block))
		}
		a.path = nil
		return err
	}
	if err := a.s.each(ctx, sink{before: before, head: head, body: body}); err != nil {
		return err
	}
	return out.Flush()
}
