package chunker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
)

// Refusal describes an entry of a tree that cannot be taken: a file or
// directory that cannot be read, a bad name, a broken symlink.
type Refusal struct {
	Path string
	Size int64 // of a file, if known
	Err  error
	// Special marks what UnixFS cannot represent: a device, a FIFO, a socket.
	// It is always left out, and does not count as an error.
	Special bool
}

var (
	// ErrRefused is wrapped by the error of a build with entries that could not
	// be taken. [Options.Refused] was called for each.
	ErrRefused = errors.New("entries can't be taken")

	// ErrName is wrapped by the error for a name that is not UTF-8, unless
	// [Options.RawNames] allows it.
	ErrName = errors.New("is not UTF-8")
)

// refuse reports an entry that cannot be taken, and leaves out its node, if it
// has one. If the error ends the build, refuse returns it.
func (w *walker) refuse(ctx context.Context, n *node, path string, size int64, err error) error {
	if err == nil {
		return nil
	}
	if w.opts.Refused == nil || ctx.Err() != nil || ofTheProcess(err) || n != nil && n.parent == nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if n != nil {
		n.absent = true
	}
	w.dag.refused++
	w.opts.Refused(Refusal{Path: path, Size: size, Err: err})
	return nil
}

// ofTheProcess reports whether an error has nothing to do with the entry.
func ofTheProcess(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// skip leaves out a file of a kind that UnixFS cannot represent.
func (w *walker) skip(d *foundDir, name, kind string) {
	path := filepath.Join(w.dag.path(d.node), name)
	if w.opts.Refused == nil {
		w.dag.skipped = append(w.dag.skipped, Skipped{path, kind})
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opts.Refused(Refusal{Path: path, Err: errors.New(kind), Special: true})
}

// refusedError is the error of a build that ends because of refused entries.
func (d *DAG) refusedError() error {
	if d.refused == 1 {
		return fmt.Errorf("1 of the %w", ErrRefused)
	}
	return fmt.Errorf("%d %w", d.refused, ErrRefused)
}

// Refused is the number of entries left out because they could not be taken. It
// is zero unless [Options.SkipRefused] is set.
func (d *DAG) Refused() int64 { return d.refused }
