package chunker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
)

// Refusal is an entry of a tree that can't be taken: a file or directory that
// can't be read, a name, a symlink that leads nowhere.
type Refusal struct {
	Path string
	Size int64 // of a file, if it is known
	Err  error
	// Special marks what UnixFS has no room for: a device, a FIFO, a socket. It
	// is left out in any case, and is no error.
	Special bool
}

var (
	// ErrRefused is wrapped by the error of a build that met entries which it
	// could not take. [Options.Refused] was told of each.
	ErrRefused = errors.New("entries can't be taken")

	// ErrName is wrapped by the error for a name that is not UTF-8, without
	// [Options.RawNames].
	ErrName = errors.New("is not UTF-8")
)

// refuse tells of an entry that can't be taken, and leaves its node out, if it
// has one. It returns the error if that ends the build.
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

// ofTheProcess tells errors that say nothing about one entry.
func ofTheProcess(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// skip leaves out a file of a kind that UnixFS has no room for.
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

// refusedError is the error of a build that goes no further for what it could not
// take.
func (d *DAG) refusedError() error {
	if d.refused == 1 {
		return fmt.Errorf("1 of the %w", ErrRefused)
	}
	return fmt.Errorf("%d %w", d.refused, ErrRefused)
}

// Refused is how many entries of the tree were left out because they could not
// be taken. See [Options.SkipRefused].
func (d *DAG) Refused() int64 { return d.refused }
