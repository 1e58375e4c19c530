package chunker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
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

// ErrRenamed is wrapped by the error for a name that the profile's programs do
// not keep, so that their root can't be had.
var ErrRenamed = errors.New("is a name that the programs of this profile change")

// jsBlanks is what JavaScript's trim takes off both ends of a string.
const jsBlanks = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

// changesNames tells profiles whose programs trim the path of each file, from
// the top of the tree to the file's name, and split it at backslashes: the
// importer that nft.storage 7 and web3.storage 4 pack with.
func (p *Profile) changesNames() bool {
	name, _, _ := strings.Cut(p.Name, "+")
	return name == "nft.storage" || name == "web3.storage"
}

// checkRenamed refuses an entry whose name the profile's programs change. With
// another name than it has on disk it could meet an entry of that name.
func (w *walker) checkRenamed(dir *node, name string, isDir bool) error {
	if !w.opts.Profile.changesNames() {
		return nil
	}
	changed := strings.Contains(name, `\`) ||
		dir.parent == nil && strings.TrimLeft(name, jsBlanks) != name ||
		!isDir && strings.TrimRight(name, jsBlanks) != name
	if !changed {
		return nil
	}
	return fmt.Errorf("%q in directory %q %w: %s", name, w.dag.path(dir), ErrRenamed, w.opts.Profile.Name)
}

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
