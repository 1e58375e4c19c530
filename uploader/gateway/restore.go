package gateway

import (
	"context"
	"io"
	"path/filepath"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

// RestoreOptions are the knobs of [Pool.Restore]. The zero value replaces no
// file and has no limit but the room on the disk.
type RestoreOptions struct {
	MaxBytes int64 // of content that may be written; 0 means no limit
	Replace  bool  // replace files that are there and are others
}

// Restored counts what there is on disk after [Pool.Restore].
type Restored struct {
	Files, Dirs, Symlinks int64
	Bytes                 int64 // of content
	Held                  int64 // of the files, that were there already
}

// Restore writes the file or directory at a path below root to dest on disk. An
// empty path is the root itself. Every block is checked before it is written, and
// a file appears under its name when it is complete. What is there and right is
// not fetched again, so that the same call goes on after an error.
//
// Nothing is written outside of dest, whatever the DAG says. What is beyond
// MaxBytes, or what the disk has no room for, is refused before it is begun.
func (p *Pool) Restore(ctx context.Context, root cid.Cid, path, dest string, opts RestoreOptions) (Restored, error) {
	r := p.NewReader(ctx)
	defer r.Close()
	e, err := unpack.Stat(ctx, r, root, path)
	if err != nil {
		return Restored{}, err
	}
	to := unpack.Options{Resume: true, MaxBytes: opts.MaxBytes, Force: opts.Replace}
	dir := dest
	if e.Type != unixfs.Directory {
		dir, to.Name = filepath.Dir(dest), filepath.Base(dest)
	}
	made, err := unpack.RestoreFrom(ctx, r, e.Cid, dir, to)
	return Restored{made.Files, made.Dirs, made.Symlinks, made.Bytes, made.Held}, err
}

// WriteFile writes the content of the file at a path below root to w, each block
// of it checked, and returns how many bytes that were. A file of more than
// maxBytes is refused before the first of them; 0 means no limit.
func (p *Pool) WriteFile(ctx context.Context, root cid.Cid, path string, w io.Writer, maxBytes int64) (int64, error) {
	r := p.NewReader(ctx)
	defer r.Close()
	e, err := unpack.Stat(ctx, r, root, path)
	if err != nil {
		return 0, err
	}
	return unpack.WriteFileFrom(ctx, r, e.Cid, w, unpack.Options{MaxBytes: maxBytes})
}
