package gateway

import (
	"context"
	"io"
	"path/filepath"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

// RestoreOptions configure [Pool.Restore]. The zero value replaces no file, and
// has no limit other than the free space on the disk.
type RestoreOptions struct {
	MaxBytes int64 // limit of the content written; 0 means no limit
	Replace  bool  // replace existing files that differ
}

// Restored counts what is on disk after [Pool.Restore].
type Restored struct {
	Files, Dirs, Symlinks int64
	Bytes                 int64 // of content
	Held                  int64 // number of files that were there already
}

// Restore writes the file or directory at a path below root to dest on disk. An
// empty path means the root itself. Every block is checked before it is
// written, and a file appears under its name when it is complete. What is
// already there is not fetched again, so the same call can continue after an
// error.
//
// It writes nothing outside dest, whatever the DAG says. If there is more than
// MaxBytes, or not enough space on the disk, it fails before it begins.
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

// WriteFile writes the content of the file at a path below root to w, checking
// each block, and returns the number of bytes written. A file larger than
// maxBytes is refused before anything is written; 0 means no limit.
func (p *Pool) WriteFile(ctx context.Context, root cid.Cid, path string, w io.Writer, maxBytes int64) (int64, error) {
	r := p.NewReader(ctx)
	defer r.Close()
	e, err := unpack.Stat(ctx, r, root, path)
	if err != nil {
		return 0, err
	}
	return unpack.WriteFileFrom(ctx, r, e.Cid, w, unpack.Options{MaxBytes: maxBytes})
}
