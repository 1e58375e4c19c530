package unpack

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
)

// Entry is a file, directory or symlink of a DAG.
type Entry struct {
	Path   string      // separated by slashes; empty for the root
	Type   unixfs.Type // File, Directory or Symlink
	Size   int64       // of a file's content
	Cid    cid.Cid
	Target string      // of a symlink
	Mode   fs.FileMode // permissions, if HasMode
	Mtime  time.Time   // zero if the DAG has none

	HasMode bool
}

// List yields everything under root: parents first, otherwise in the order of
// the DAG. Of a file it loads only the topmost block. For each part that can't
// be read, it yields an entry and a [*BlockError], and the caller may go on.
// Any other error is the last thing it yields.
func List(ctx context.Context, x *car.Index, root cid.Cid) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		blocks := Index(x)
		defer blocks.Close()
		l := lister{yield: yield, store: newStore(blocks)}
		if err := l.entry(ctx, "", root, 0); err != nil && !errors.Is(err, errStopped) {
			yield(Entry{}, err)
		}
	}
}

var errStopped = errors.New("stopped")

type lister struct {
	store   *store
	yield   func(Entry, error) bool
	entries int64
}

func (l *lister) emit(e Entry, err error) error {
	if !l.yield(e, err) {
		return errStopped
	}
	return nil
}

func (l *lister) entry(ctx context.Context, path string, c cid.Cid, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	e := Entry{Path: path, Cid: c}
	if l.entries++; l.entries > DefaultMaxEntries {
		return ErrTooLarge
	}
	if c.Prefix().Codec == cid.Raw { // no need to load the block
		if n, err := l.store.Len(ctx, c); err == nil {
			e.Type, e.Size = unixfs.File, n
			return l.emit(e, nil)
		}
	}
	n, err := l.store.node(ctx, c)
	if err == nil && depth > maxDirDepth {
		err = unixfs.Invalid("directories nested too deep")
	}
	if err != nil {
		return l.emit(e, &BlockError{Path: path, Cid: c, Err: err})
	}
	e.Mode, e.HasMode, e.Mtime = fs.FileMode(n.Mode)&fs.ModePerm, n.HasMode, n.Mtime
	switch n.Type {
	case unixfs.Directory, unixfs.Shard:
		e.Type = unixfs.Directory
		if err := l.emit(e, nil); err != nil {
			return err
		}
		return l.store.eachEntry(ctx, n, path, func(child dirEntry, err error) error {
			if err == nil {
				return l.entry(ctx, join(path, child.name), child.cid, depth+1)
			}
			var bad *BlockError
			if !errors.As(err, &bad) {
				return err
			}
			return l.emit(Entry{Path: bad.Path, Cid: bad.Cid}, err)
		})
	case unixfs.Symlink:
		e.Type, e.Target = unixfs.Symlink, string(n.Data)
	default:
		e.Type, e.Size = unixfs.File, int64(n.Size)
	}
	return l.emit(e, nil)
}
