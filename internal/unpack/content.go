package unpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/unixfs"
)

// Blocks are loaded in groups, so that they can be hashed in parallel lanes.
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
	skip  int64 // start writing here, at the beginning of a block: the file has what is before
	wrote *atomic.Int64
	empty map[cid.Cid]struct{} // nodes known to have no bytes below them
}

// largeBytes is the size of files that bypass the page cache where possible. It
// is unlikely that all of such a file will soon be read from memory.
const largeBytes = 32 << 20

// into makes write write the content to the file, whose final size is given.
// After an error, the file has what was written before it.
func (f *content) into(file *os.File, size int64, write func() error) error {
	if size-f.skip < largeBytes {
		f.w = named{file, f.path}
		return write()
	}
	disk := durable.NewWriterAt(file, f.skip)
	b := durable.Buffered(disk)
	f.w = named{b, f.path}
	err := write()
	if flushed := errors.Join(b.Flush(), disk.Flush()); err == nil && flushed != nil {
		err = fmt.Errorf("%q: %w", f.path, flushed)
	}
	return err
}

// file writes the content of the file with root c, whose node is n.
func (f *content) file(ctx context.Context, c cid.Cid, n *unixfs.Node) error {
	if len(n.Links) > 0 {
		f.store.OpenFile(c, f.skip, int64(n.Size))
		defer f.store.CloseFile()
	}
	return f.node(ctx, c, n, 0)
}

// node writes the content below n, which was decoded from block c. It may
// overwrite n.Data.
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
	if len(n.Links) == 0 {
		return nil
	}
	cids, sizes := make([]cid.Cid, len(n.Links)), make([]int64, len(n.Links))
	for i := range cids {
		cids[i], sizes[i] = n.Links[i].Cid, int64(n.Sizes[i])
	}
	f.store.Enter(cids, sizes, true)
	defer f.store.Leave()
	for done := 0; done < len(cids); {
		if f.off+sizes[done] <= f.skip && sizes[done] > 0 {
			f.off += sizes[done]
			done++
			continue
		}
		f.store.At(done)
		k, err := f.group(ctx, cids[done:], sizes[done:], depth)
		if err != nil {
			return err
		}
		done += k
	}
	return nil
}

// group writes the content below the first few of these children, and returns
// how many it did.
func (f *content) group(ctx context.Context, cids []cid.Cid, sizes []int64, depth int) (int, error) {
	n, bytes := 0, int64(0)
	for n < len(cids) && n < groupBlocks {
		if _, ok := f.empty[cids[n]]; ok && sizes[n] == 0 {
			if n == 0 {
				return 1, nil
			}
			break
		}
		if bytes += sizes[n]; n > 0 && bytes > groupBytes {
			break
		}
		n++
	}
	payloads, err := f.store.Load(ctx, cids[:n]...)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, f.fail(cids[0], sizes[0], err)
	}
	for i, p := range payloads {
		c, size := cids[i], sizes[i]
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
			return i + 1, nil // walking the child has overwritten its siblings' payloads
		}
	}
	return len(payloads), nil
}

func (f *content) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if f.off+int64(len(p)) <= f.skip {
		f.off += int64(len(p))
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

// fail makes the error for the block that stands for the next size bytes.
func (f *content) fail(c cid.Cid, size int64, err error) error {
	if size > 1<<62-f.off {
		size = 1<<62 - f.off
	}
	return &BlockError{Path: f.path, Cid: c, From: f.off, To: f.off + size, Err: err}
}

// WriteFile is [WriteFileFrom] for the blocks of indexed archives.
func WriteFile(ctx context.Context, x *car.Index, root cid.Cid, w io.Writer, opts Options) (int64, error) {
	b := Index(x)
	defer b.Close()
	return WriteFileFrom(ctx, b, root, w, opts)
}

// WriteFileFrom writes the content of the file under root to w, and returns its
// size. It fails if the DAG is not a file. If the file has more than
// [Options.MaxBytes], it fails without writing anything.
func WriteFileFrom(ctx context.Context, b Blocks, root cid.Cid, w io.Writer, opts Options) (int64, error) {
	s := newStore(b)
	n, err := s.node(ctx, root)
	if err != nil {
		return 0, &BlockError{Path: root.String(), Cid: root, Err: err}
	}
	if !n.IsFile() {
		return 0, fmt.Errorf("%s is a %s, not a file", root, n.Type)
	}
	if size := int64(n.Size); opts.MaxBytes > 0 && size > opts.MaxBytes {
		return 0, &BlockError{Path: root.String(), Cid: root, Err: fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrTooLarge, size, opts.MaxBytes)}
	}
	if opts.Wrote == nil {
		opts.Wrote = new(atomic.Int64)
	}
	f := content{store: s, path: root.String(), w: w, wrote: opts.Wrote}
	err = f.file(ctx, root, n)
	return f.off, err
}
