package unpack

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// Blocks are loaded in groups, so that their digests can share lanes.
const (
	groupBytes  = 4 << 20
	groupBlocks = 16
)

// content writes the content of one file.
type content struct {
	store *store
	path  string
	w     io.Writer
	off   int64
	wrote *atomic.Int64
	empty map[cid.Cid]struct{} // nodes that are known to stand for no bytes
}

// node writes what is under a node that was decoded from block c. The node's
// data may be overwritten while this runs.
func (f *content) node(ctx context.Context, c cid.Cid, n *unixfs.Node, depth int) error {
	if !n.IsFile() {
		return f.fail(c, 0, unixfs.Invalid("a %s as part of a file", n.Type))
	}
	if depth > unixfs.MaxFileDepth {
		return f.fail(c, int64(n.Size), unixfs.Invalid("nested too deep"))
	}
	if err := f.write(n.Data); err != nil {
		return err
	}
	for done := 0; done < len(n.Links); {
		k, err := f.group(ctx, n, done, depth)
		if err != nil {
			return err
		}
		done += k
	}
	return nil
}

// group writes what is under some children of n, and tells how many.
func (f *content) group(ctx context.Context, n *unixfs.Node, from, depth int) (int, error) {
	var blocks []car.Block
	bytes := 0
	for i := from; i < len(n.Links) && len(blocks) < groupBlocks; i++ {
		c, size := n.Links[i].Cid, int64(n.Sizes[i])
		if _, ok := f.empty[c]; ok && size == 0 {
			if len(blocks) == 0 {
				return 1, nil
			}
			break
		}
		b, err := f.store.find(c)
		if err == nil && c.Prefix().Codec == links.Raw && int64(b.Size()) != size {
			err = sizeLie(int64(b.Size()), size)
		}
		if bytes += b.Size(); len(blocks) > 0 && (err != nil || bytes > groupBytes) {
			break // what comes before it first
		}
		if err != nil {
			return 0, f.fail(c, size, err)
		}
		blocks = append(blocks, b)
	}
	payloads, err := f.store.loader.LoadAll(ctx, blocks)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if len(blocks) == 1 {
			return 0, f.fail(blocks[0].Cid, int64(n.Sizes[from]), err)
		}
		// One of them is bad; alone it is known which.
		for _, b := range blocks {
			if _, err := f.store.loader.Load(ctx, b); err != nil {
				return 0, f.fail(b.Cid, int64(n.Sizes[from]), err)
			}
			f.off += int64(n.Sizes[from])
			from++
		}
		return 0, err
	}
	for i, p := range payloads {
		c, size := blocks[i].Cid, int64(n.Sizes[from+i])
		child, err := f.store.decode(ctx, c, p)
		if err == nil && int64(child.Size) != size {
			err = sizeLie(int64(child.Size), size)
		}
		if err != nil {
			return 0, f.fail(c, size, err)
		}
		inner := len(child.Links) > 0
		if err := f.node(ctx, c, child, depth+1); err != nil {
			return 0, err
		}
		if size == 0 {
			if f.empty == nil {
				f.empty = make(map[cid.Cid]struct{})
			}
			f.empty[c] = struct{}{}
		}
		if inner {
			return i + 1, nil // the payloads of its siblings are overwritten
		}
	}
	return len(payloads), nil
}

func (f *content) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.w.Write(p)
	f.off += int64(n)
	f.wrote.Add(int64(n))
	return err
}

func sizeLie(is, claimed int64) error {
	return unixfs.Invalid("it stands for %d bytes, but its parent says %d", is, claimed)
}

// fail describes what is wrong with the block that stands for the next size
// bytes.
func (f *content) fail(c cid.Cid, size int64, err error) error {
	if size > 1<<62-f.off {
		size = 1<<62 - f.off
	}
	return &BlockError{Path: f.path, Cid: c, From: f.off, To: f.off + size, Err: err}
}

// WriteFile writes the content of the file under root to w, and returns how
// many bytes that were. It is an error if the DAG is not that of one file.
func WriteFile(ctx context.Context, x *car.Index, root cid.Cid, w io.Writer) (int64, error) {
	s := newStore(x)
	defer s.close()
	n, err := s.node(ctx, root)
	if err != nil {
		return 0, &BlockError{Path: root.String(), Cid: root, Err: err}
	}
	if !n.IsFile() {
		return 0, fmt.Errorf("%s is a %s, not a file", root, n.Type)
	}
	f := content{store: s, path: root.String(), w: w, wrote: new(atomic.Int64)}
	err = f.node(ctx, root, n, 0)
	return f.off, err
}
