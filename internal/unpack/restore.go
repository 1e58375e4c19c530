package unpack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
)

// Options configure [Restore]. With the zero value, it replaces nothing and
// stops at the first block that it can't read.
type Options struct {
	// Name is the name in the directory if the root is a file or a symlink. The
	// default is the root's CID.
	Name string
	// Force replaces existing files and symlinks. Directories are never
	// replaced.
	Force bool
	// KeepGoing restores what it can and reports the rest: blocks that are
	// missing or wrong, and names that are taken, forbidden or too long.
	KeepGoing bool
	// MaxBytes and MaxEntries limit what a DAG may unfold to, since a small DAG
	// can stand for any number of bytes and names. 0 means no limit for bytes,
	// and DefaultMaxEntries for entries.
	MaxBytes, MaxEntries int64
	// Resume continues an earlier call. Files that exist with the right content
	// count as restored. If a call ends early, it keeps the file it was
	// writing, and the next call completes that file.
	Resume bool
	// Wrote, if not nil, counts bytes of content as they are written.
	Wrote *atomic.Int64
}

// DefaultMaxEntries is how many files, directories and symlinks a DAG may have
// by default.
const DefaultMaxEntries = 50_000_000

// Restored says what [Restore] did.
type Restored struct {
	Files, Dirs, Symlinks int64
	Bytes                 int64
	// Held is how many of the files existed already, under Resume.
	Held int64
	// Failed is how many errors occurred under KeepGoing. Restore returns the
	// first 100 of them, joined.
	Failed int64
	// Stripped is how many files and directories have setuid, setgid or sticky
	// bits in the DAG. Those bits are not restored.
	Stripped int64
}

// maxReported limits how many errors Restore joins under KeepGoing.
const maxReported = 100

// Restore is [RestoreFrom] for the blocks of indexed archives.
func Restore(ctx context.Context, x *car.Index, root cid.Cid, dir string, opts Options) (Restored, error) {
	b := Index(x)
	defer b.Close()
	return RestoreFrom(ctx, b, root, dir, opts)
}

// RestoreFrom writes what is under root into the directory dir: the entries of
// a directory, or a single file. It makes dir if necessary. A file appears
// under its name only when it is complete. Nothing is written outside dir,
// whatever the DAG says; symlinks are made but never followed.
//
// If a file exceeds the limits of the options, or the space on the disk, it is
// refused before its first byte is written.
//
// Errors in the DAG are of type [*BlockError]. If the DAG has modes and mtimes,
// permissions and times are restored, but not setuid, setgid and sticky bits.
func RestoreFrom(ctx context.Context, b Blocks, root cid.Cid, dir string, opts Options) (Restored, error) {
	if opts.Name == "" {
		opts.Name = root.String()
	}
	if opts.MaxEntries == 0 {
		opts.MaxEntries = DefaultMaxEntries
	}
	if opts.Wrote == nil {
		opts.Wrote = new(atomic.Int64)
	}
	if _, err := entry([]byte(opts.Name), root, ""); err != nil || !filepath.IsLocal(opts.Name) {
		return Restored{}, fmt.Errorf("%q is %w", opts.Name, ErrName)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return Restored{}, err
	}
	r := &restorer{store: newStore(b), opts: opts}
	top, err := os.OpenRoot(dir)
	if err != nil {
		return Restored{}, err
	}
	defer top.Close()
	err = r.root(ctx, top, root)
	if len(r.failed) > 0 {
		err = errors.Join(append(r.failed, err)...)
	}
	return r.done, err
}

type restorer struct {
	store    *store
	opts     Options
	done     Restored
	entries  int64
	claimed  int64               // total size of the files that were begun
	unlooked int64               // bytes since the last check of the free space
	own      map[string]struct{} // names in the DAG that look like our temporary ones
	failed   []error
}

func (r *restorer) root(ctx context.Context, top *os.Root, c cid.Cid) error {
	r.store.Pause(r.opts.Resume)
	n, err := r.store.node(ctx, c)
	if err != nil {
		return &BlockError{Path: c.String(), Cid: c, Err: err}
	}
	if err := r.foresee(top, n); err != nil {
		return &BlockError{Path: c.String(), Cid: c, Err: err}
	}
	if n.Type == unixfs.Directory || n.Type == unixfs.Shard {
		return r.fill(ctx, top, n, "", 0)
	}
	return r.node(ctx, top, dirEntry{r.opts.Name, c}, n, r.opts.Name, 0)
}

// fill restores the entries of a directory, and then its mode and time.
func (r *restorer) fill(ctx context.Context, dir *os.Root, n *unixfs.Node, path string, depth int) error {
	if depth > maxDirDepth {
		return &BlockError{Path: path, Err: unixfs.Invalid("directories nested too deep")}
	}
	mode, hasMode, mtime := n.Mode, n.HasMode, n.Mtime
	err := r.store.eachEntry(ctx, n, path, func(e dirEntry, err error) error {
		if err == nil {
			err = r.entry(ctx, dir, e, join(path, e.name), depth)
		}
		return r.tolerate(ctx, err)
	})
	if err != nil {
		return err
	}
	r.strip(mode)
	return attributes(dir, ".", mode, hasMode, mtime)
}

// tolerate records an error about one entry and returns nil, if the rest should
// be restored all the same. It returns other errors.
func (r *restorer) tolerate(ctx context.Context, err error) error {
	if !r.opts.KeepGoing || ctx.Err() != nil || !ofOneEntry(err) {
		return err
	}
	if r.done.Failed++; len(r.failed) < maxReported {
		r.failed = append(r.failed, err)
	}
	return nil
}

// ofOneEntry reports whether an error is about one entry, so that others may
// succeed.
func ofOneEntry(err error) bool {
	if errors.Is(err, ErrTooLarge) {
		return false
	}
	var bad *BlockError
	return errors.As(err, &bad) ||
		errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENAMETOOLONG)
}

func (r *restorer) entry(ctx context.Context, dir *os.Root, e dirEntry, path string, depth int) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if r.entries++; r.entries > r.opts.MaxEntries {
		return &BlockError{Path: path, Err: fmt.Errorf("%w: the limit is %d entries", ErrTooLarge, r.opts.MaxEntries)}
	}
	if !filepath.IsLocal(e.name) {
		return &BlockError{Path: path, Cid: e.cid, Err: errors.New("this system does not allow a file with this name")}
	}
	if held, err := r.holdsRaw(dir, e); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	} else if held {
		return nil
	}
	n, err := r.store.node(ctx, e.cid)
	if err != nil {
		return &BlockError{Path: path, Cid: e.cid, To: r.sizeOf(ctx, e.cid), Err: err}
	}
	return r.node(ctx, dir, e, n, path, depth)
}

// sizeOf returns the length of a raw block, or 0 if it is not known.
func (r *restorer) sizeOf(ctx context.Context, c cid.Cid) int64 {
	if c.Prefix().Codec != cid.Raw {
		return 0
	}
	n, err := r.store.Len(ctx, c)
	if err != nil {
		return 0
	}
	return n
}

func (r *restorer) node(ctx context.Context, dir *os.Root, e dirEntry, n *unixfs.Node, path string, depth int) error {
	switch n.Type {
	case unixfs.Directory, unixfs.Shard:
		sub, err := enter(dir, e.name)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		defer sub.Close()
		r.done.Dirs++
		return r.fill(ctx, sub, n, path, depth+1)
	case unixfs.Symlink:
		if len(n.Data) == 0 || bytes.IndexByte(n.Data, 0) >= 0 {
			return &BlockError{Path: path, Cid: e.cid, Err: unixfs.Invalid("a symlink to %q", n.Data)}
		}
		r.claim(e.name)
		if err := r.symlink(dir, e.name, string(n.Data), n.Mtime); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		r.done.Symlinks++
		return nil
	}
	if r.claimed += int64(n.Size); r.claimed < 0 || r.opts.MaxBytes > 0 && r.claimed > r.opts.MaxBytes {
		return &BlockError{Path: path, Cid: e.cid, Err: fmt.Errorf("%w: this file of %d bytes exceeds the limit of %d", ErrTooLarge, n.Size, r.opts.MaxBytes)}
	}
	if err := r.file(ctx, dir, e, n, path); err != nil {
		return err
	}
	r.done.Files++
	return nil
}

// enter makes a directory if necessary, and opens it. It does not follow a
// symlink.
func enter(dir *os.Root, name string) (*os.Root, error) {
	if err := dir.Mkdir(name, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	info, err := dir.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w and is not a directory", fs.ErrExist)
	}
	return dir.OpenRoot(name)
}

func (r *restorer) symlink(dir *os.Root, name, target string, mtime time.Time) error {
	if r.opts.Resume {
		if there, err := dir.Readlink(name); err == nil && there == target {
			return nil
		}
	}
	made := name
	if r.opts.Force {
		made = tempName()
	}
	if err := dir.Symlink(target, made); err != nil {
		return err
	}
	if !mtime.IsZero() {
		if err := setTime(dir, made, mtime); err != nil {
			return errors.Join(err, dir.Remove(made))
		}
	}
	if !r.opts.Force {
		return nil
	}
	tmp := made
	if err := place(dir, tmp, name, true); err != nil {
		return errors.Join(err, dir.Remove(tmp))
	}
	return nil
}

// file restores one file. The file has a temporary name until it is complete.
func (r *restorer) file(ctx context.Context, dir *os.Root, e dirEntry, n *unixfs.Node, path string) (err error) {
	if info, err := dir.Lstat(e.name); err == nil {
		held, err := r.holds(ctx, dir, e, n, info)
		switch {
		case err != nil:
			return fmt.Errorf("%q: %w", path, err)
		case held:
			r.held(int64(n.Size))
			return nil
		case !r.opts.Force:
			return fmt.Errorf("%q: %w", path, fs.ErrExist)
		}
		if err := replaceable(info); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	r.store.Pause(false)
	r.claim(e.name)
	mode, hasMode, mtime := n.Mode, n.HasMode, n.Mtime
	c := content{store: r.store, path: path, wrote: r.opts.Wrote}
	tmp, f, err := r.begin(dir, e)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // may be closed already
			if !r.worthKeeping(max(c.off, c.skip), err) {
				err = errors.Join(err, dir.Remove(tmp))
			}
		}
	}()
	if r.opts.Resume {
		if c.skip, err = r.begun(ctx, f, n); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		r.opts.Wrote.Add(c.skip)
	}
	if err := r.room(f, int64(n.Size)-c.skip); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	err = c.into(f, int64(n.Size), func() error { return c.file(ctx, e.cid, n) })
	r.done.Bytes += c.off
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	r.strip(mode)
	if err := attributes(dir, tmp, mode, hasMode, mtime); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if err := place(dir, tmp, e.name, r.opts.Force); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	return nil
}

// named adds the file's path to the errors of a writer.
type named struct {
	w    io.Writer
	path string
}

func (w named) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		err = fmt.Errorf("%q: %w", w.path, err)
	}
	return n, err
}

// place renames a complete file to its final name.
func place(dir *os.Root, tmp, name string, replace bool) error {
	if replace {
		if info, err := dir.Lstat(name); err == nil {
			if err := replaceable(info); err != nil {
				return err
			}
		}
		return dir.Rename(tmp, name)
	}
	// A link, unlike a rename, never replaces a file that appeared meanwhile.
	// But not every file system has links.
	err := dir.Link(tmp, name)
	if err == nil {
		return dir.Remove(tmp)
	}
	if _, exists := dir.Lstat(name); exists == nil {
		return fs.ErrExist
	}
	return dir.Rename(tmp, name)
}

// replaceable returns an error for what a file must never replace. A rename
// would turn even /dev/null into a regular file.
func replaceable(info fs.FileInfo) error {
	switch {
	case info.IsDir():
		return fmt.Errorf("%w and is a directory", fs.ErrExist)
	case !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0:
		return errors.New("not a regular file: it stays as it is")
	}
	return nil
}

// strip counts an entry whose mode is not fully restored.
func (r *restorer) strip(mode uint32) {
	if mode&0o7000 != 0 {
		r.done.Stripped++
	}
}

// attributes sets permissions and time.
func attributes(dir *os.Root, name string, mode uint32, hasMode bool, mtime time.Time) error {
	if !mtime.IsZero() {
		if err := setTime(dir, name, mtime); err != nil {
			return err
		}
	}
	if hasMode {
		return dir.Chmod(name, fs.FileMode(mode)&fs.ModePerm)
	}
	return nil
}

func tempName() string { return ".carload-" + rand.Text() }

// WriteNew makes a file from what write writes. The file appears under its name
// only when it is complete; after an error it is not there. If the name is
// taken and replace is false, the error matches [fs.ErrExist].
func WriteNew(dir, name string, replace bool, write func(io.Writer) error) (err error) {
	top, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if info, err := top.Lstat(name); err == nil {
		if !replace {
			return fmt.Errorf("%q: %w", name, fs.ErrExist)
		}
		if err := replaceable(info); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	tmp := tempName()
	f, err := top.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	if err := errors.Join(write(named{f, name}), f.Close()); err != nil {
		return errors.Join(err, top.Remove(tmp))
	}
	if err := place(top, tmp, name, replace); err != nil {
		return errors.Join(fmt.Errorf("%q: %w", name, err), top.Remove(tmp))
	}
	return nil
}
