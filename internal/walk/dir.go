package walk

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

var (
	// ErrNoName is wrapped by errors about a name that a directory does not
	// have.
	ErrNoName = errors.New("no such name")

	// ErrForeign is wrapped by errors about a path through something that is
	// not a UnixFS directory.
	ErrForeign = errors.New("not a directory of UnixFS")
)

// Resolved is the result of following a path.
type Resolved struct {
	Roots  []cid.Cid // of the first block, and of the entry for each name
	Blocks []Loaded  // all that were read on the way, without the last root
}

// Root returns the CID that the path leads to. The block may not be held.
func (p *Resolved) Root() cid.Cid { return p.Roots[len(p.Roots)-1] }

// Resolve follows names through directories.
func (r *Reader) Resolve(ctx context.Context, root cid.Cid, names []string) (*Resolved, error) {
	p := &Resolved{Roots: []cid.Cid{root}}
	for _, name := range names {
		if err := r.step(ctx, p, name); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (r *Reader) step(ctx context.Context, p *Resolved, name string) error {
	dir := p.Root()
	hash, left := unixfs.NameHash([]byte(name)), 64
	for c, fanout := dir, uint64(0); ; {
		n, err := r.dirNode(ctx, p, c)
		if err != nil {
			return err
		}
		if n.Type == unixfs.Directory && fanout == 0 {
			for _, l := range n.Links {
				if string(l.Name) == name {
					p.Roots = append(p.Roots, l.Cid)
					return nil
				}
			}
			return noName(name, dir)
		}
		width := bits.TrailingZeros64(n.Fanout)
		if n.Type != unixfs.Shard || fanout != 0 && n.Fanout != fanout || width > left {
			return fmt.Errorf("block %s: %w", c, ErrForeign)
		}
		if name == "" { // an empty name would match the links to sub-shards
			return noName(name, dir)
		}
		fanout = n.Fanout
		bucket := fmt.Sprintf("%0*X", n.PrefixLen(), hash>>(64-width))
		hash, left = hash<<width, left-width
		c = cid.Undef
		for _, l := range n.Links {
			switch string(l.Name) {
			case bucket + name:
				p.Roots = append(p.Roots, l.Cid)
				return nil
			case bucket:
				c = l.Cid
			}
		}
		if !c.Defined() {
			return noName(name, dir)
		}
	}
}

func noName(name string, dir cid.Cid) error { return fmt.Errorf("%w: %q in %s", ErrNoName, name, dir) }

func (r *Reader) dirNode(ctx context.Context, p *Resolved, c cid.Cid) (*unixfs.Node, error) {
	if c.Prefix().Codec != links.DagPB {
		return nil, fmt.Errorf("block %s: %w", c, ErrForeign)
	}
	block, err := r.Block(ctx, c)
	if err != nil {
		return nil, err
	}
	n, err := unixfs.Decode(links.DagPB, block)
	if err != nil || n.Type != unixfs.Directory && n.Type != unixfs.Shard {
		return nil, fmt.Errorf("block %s: %w", c, ErrForeign)
	}
	p.Blocks = append(p.Blocks, Loaded{c, block})
	return n, nil
}

// Entry is an entry of a directory.
type Entry struct {
	Name  string
	Cid   cid.Cid
	Tsize uint64 // the size of the DAG, as the directory claims it
}

// Entries calls f for each entry of directory n, whose block is c, in the order
// of its links. It stops at the first error from f and returns it.
func (r *Reader) Entries(ctx context.Context, c cid.Cid, n *unixfs.Node, f func(Entry) error) error {
	each := func(n *unixfs.Node, digits int) error {
		for _, l := range n.Links {
			if len(l.Name) == digits && digits > 0 {
				continue
			}
			if err := f(Entry{string(l.Name[digits:]), l.Cid, l.Tsize}); err != nil {
				return err
			}
		}
		return nil
	}
	if n.Type != unixfs.Shard {
		return each(n, 0)
	}
	p := &shardListing{shardArchive{archivePlan{room: r.room, blocks: &seen{}}, n.Fanout}}
	s, err := r.start(ctx, p, []want{{cid: c, kind: inner}})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.each(ctx, sink{whole: true, body: func(_ cid.Cid, block []byte) error {
		n, err := unixfs.Decode(links.DagPB, block)
		if err != nil {
			return err
		}
		return each(n, n.PrefixLen())
	}})
}

// shardListing visits the shards of a directory, and refuses to visit one
// twice.
type shardListing struct{ shardArchive }

func (d *shardListing) visit(w *want) bool {
	if !d.shardArchive.visit(w) {
		d.err = fmt.Errorf("block %s: %w", w.cid, unixfs.Invalid("a shard that the directory links to twice"))
	}
	return true
}
