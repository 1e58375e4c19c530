package chunker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/carload/carload/car"
)

// openDir is a directory on disk whose files are being read. The last user
// closes it.
type openDir struct {
	root   *os.Root
	list   *os.File // the same directory, as a file
	reopen func() (*os.Root, error)
	users  atomic.Int32
}

func (d *openDir) release() {
	if d != nil && d.users.Add(-1) == 0 {
		_ = d.list.Close() // both were only read
		_ = d.root.Close()
	}
}

// foundDir is a directory on disk that was found but not read yet.
type foundDir struct {
	node  *node
	base  *mount
	path  string    // below the mount, with slashes
	above *foundDir // parent directory
	info  fs.FileInfo

	ignores *ignores // of this directory and those above; before it is read, only of those above
}

// maxPathBytes is the longest path by which a file can be opened. The walk
// itself could go deeper, but pass 2 opens files by path.
const maxPathBytes = 4095

// mount is a directory on disk that is part of a tree.
type mount struct {
	root *os.Root
	path string
	info fs.FileInfo
}

// walk sends all files of the tree as tasks.
func (w *walker) walk(ctx context.Context) error {
	var (
		dirs    []*foundDir
		sources []*node
	)
	for i := range w.dag.nodes.n { // nodes found on disk are appended after these
		n := w.dag.nodes.at(uint32(i))
		if n.parent != nil {
			err := w.checkName(n.parent, n.name)
			if err == nil && !w.isMount(n) {
				_, isDir := n.body.(*directory)
				err = w.checkRenamed(n.parent, n.name, isDir)
			}
			if err != nil {
				if err := w.refuse(ctx, n, w.dag.path(n), 0, err); err != nil {
					return err
				}
				continue
			}
		}
		if name, ok := w.dag.mounts[n]; ok {
			dir, err := w.mount(n, name)
			if err == nil && n.parent != nil {
				err = w.checkRenamed(n.parent, n.name, dir != nil)
			}
			if err != nil {
				if err := w.refuse(ctx, n, name, 0, err); err != nil {
					return err
				}
				continue
			}
			if dir != nil {
				dirs = append(dirs, dir)
			}
		}
		if src, ok := n.body.(car.Source); ok {
			n.size = src.Size()
			if s, ok := src.(interface{ Info() fs.FileInfo }); ok && n.stat == nil {
				w.keepStat(n, infoStat(s.Info()))
			}
			sources = append(sources, n)
		}
	}
	if err := w.send(ctx, nil, sources); err != nil {
		return err
	}
	// Depth first, to keep the list short.
	for len(dirs) > 0 {
		dir := dirs[len(dirs)-1]
		found, err := w.readDir(ctx, dir)
		if err := w.refuse(ctx, dir.node, w.pathIf(err, dir.node), 0, err); err != nil {
			return err
		}
		dirs = append(dirs[:len(dirs)-1], found...)
	}
	return nil
}

func (w *walker) isMount(n *node) bool {
	_, ok := w.dag.mounts[n]
	return ok
}

// mount looks up a path on disk. It returns a directory if one has to be read.
func (w *walker) mount(n *node, name string) (*foundDir, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	w.keepStat(n, infoStat(info))
	switch {
	case info.Mode().IsRegular() && n.parent == nil && w.dag.nodes.n > 1:
		return nil, fmt.Errorf("%q is a file: nothing can be added to it", name)
	case info.Mode().IsRegular():
		src := &FileSource{path: name, info: info}
		n.body, n.size = src, src.Size()
		return nil, nil
	case !info.IsDir():
		return nil, fmt.Errorf("%q is neither a file nor a directory", name)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	w.roots = append(w.roots, root)
	if n.body == nil {
		n.body = &directory{}
	}
	return &foundDir{node: n, base: &mount{root, name, info}, path: ".", info: info}, nil
}

// openDir opens a directory below a mount. It does not leave the mount unless
// symlinks are followed.
func (w *walker) openDir(d *foundDir) (*os.Root, error) {
	if w.opts.Dereference {
		return os.OpenRoot(filepath.Join(d.base.path, d.path))
	}
	return d.base.root.OpenRoot(d.path)
}

// readDir adds the entries of a directory, sends its files to the workers, and
// returns its subdirectories.
func (w *walker) readDir(ctx context.Context, d *foundDir) (dirs []*foundDir, err error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	root, err := w.openDir(d)
	if err != nil {
		return nil, w.failed(d.node, err)
	}
	list, err := openList(root)
	if err != nil {
		return nil, errors.Join(w.failed(d.node, err), root.Close())
	}
	open := &openDir{root: root, list: list, reopen: func() (*os.Root, error) { return w.openDir(d) }}
	open.users.Add(1)
	defer open.release()
	entries, err := list.ReadDir(-1)
	if err == nil && d.info == nil && (w.opts.Mode || w.opts.ModTime || w.opts.Dereference) {
		if d.info, err = list.Stat(); err == nil {
			w.keepStat(d.node, infoStat(d.info))
		}
	}
	if err != nil {
		return nil, w.failed(d.node, err)
	}
	if d.ignores, err = w.ignoresOf(d, root, entries); err != nil {
		return nil, err
	}
	files := make([]*node, 0, len(entries))
	room := maxPathBytes - len(w.dag.path(d.node)) - 1
	for _, e := range entries {
		name := e.Name()
		taken, err := w.takes(d, root, e)
		if err := w.refuse(ctx, nil, filepath.Join(w.dag.path(d.node), name), 0, err); err != nil {
			return nil, err
		}
		if err != nil || !taken {
			continue
		}
		err = w.checkName(d.node, name)
		if err == nil && (e.Type()&fs.ModeSymlink == 0 || !w.opts.Dereference) {
			err = w.checkRenamed(d.node, name, e.IsDir())
		}
		if err != nil {
			if err := w.refuse(ctx, nil, filepath.Join(w.dag.path(d.node), name), 0, err); err != nil {
				return nil, err
			}
			continue
		}
		switch typ := e.Type(); {
		case typ.IsRegular() && len(name) > room:
			err := &fs.PathError{Op: "open", Path: filepath.Join(w.dag.path(d.node), name), Err: syscall.ENAMETOOLONG}
			if err := w.refuse(ctx, nil, err.Path, 0, err); err != nil {
				return nil, err
			}
		case typ.IsRegular():
			n := w.dag.nodes.add(node{name: name, parent: d.node})
			files = append(files, n)
		case typ.IsDir():
			n := w.dag.nodes.add(node{name: name, parent: d.node, body: &directory{}})
			dirs = append(dirs, &foundDir{node: n, base: d.base, path: path.Join(d.path, name), above: d, ignores: d.ignores})
		case typ&fs.ModeSymlink == 0:
			w.skip(d, name, kindOf(typ))
		case w.opts.Dereference:
			dir, err := w.follow(ctx, d, name)
			if err := w.refuse(ctx, nil, filepath.Join(w.dag.path(d.node), name), 0, err); err != nil {
				return nil, err
			}
			if dir != nil {
				dirs = append(dirs, dir)
			}
		default:
			n, err := w.symlink(root, d.node, name)
			if err := w.refuse(ctx, n, w.pathIf(err, n), 0, err); err != nil {
				return nil, err
			}
		}
	}
	return dirs, w.send(ctx, open, files)
}

// follow adds what a symlink points to.
func (w *walker) follow(ctx context.Context, d *foundDir, name string) (*foundDir, error) {
	full := filepath.Join(w.dag.path(d.node), name)
	info, err := os.Stat(full)
	if err != nil {
		return nil, fmt.Errorf("symlink: %w", err)
	}
	if !w.takesInfo(d, info) {
		return nil, nil
	}
	if err := w.checkRenamed(d.node, name, info.IsDir()); err != nil {
		return nil, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		n := w.dag.nodes.add(node{name: name, parent: d.node, body: &FileSource{path: full, info: info}, size: info.Size()})
		w.keepStat(n, infoStat(info))
		return nil, w.send(ctx, nil, []*node{n})
	case !mode.IsDir():
		w.skip(d, name, kindOf(mode))
		return nil, nil
	}
	for a := d; a != nil; a = a.above {
		if os.SameFile(a.info, info) {
			return nil, fmt.Errorf("symlink %q leads back to %q, which contains it", full, w.dag.path(a.node))
		}
	}
	n := w.dag.nodes.add(node{name: name, parent: d.node, body: &directory{}})
	w.keepStat(n, infoStat(info))
	return &foundDir{node: n, base: d.base, path: path.Join(d.path, name), above: d, info: info, ignores: d.ignores}, nil
}

// ignoresOf reads the ignore file of a directory, if there is one.
func (w *walker) ignoresOf(d *foundDir, root *os.Root, entries []fs.DirEntry) (*ignores, error) {
	if w.opts.IgnoreFile == "" || !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == w.opts.IgnoreFile }) {
		return d.ignores, nil
	}
	return w.chosen.readIgnores(root, w.dag.path(d.node), d.path, d.ignores)
}

// takes reports whether the options take an entry of a directory. Directories
// that are left out are not read.
func (w *walker) takes(d *foundDir, root *os.Root, e fs.DirEntry) (bool, error) {
	isDir, name := e.IsDir(), e.Name()
	if d.ignores != nil || len(w.chosen.rules) > 0 { // otherwise the base name is enough
		name = path.Join(d.path, name)
	}
	if !w.chosen.byName(d.ignores, name, isDir).Taken {
		w.dag.filtered++
		return false, nil
	}
	if !isDir && !e.Type().IsRegular() || !w.chosen.looks(isDir) {
		return true, nil
	}
	info, err := root.Lstat(e.Name())
	if err != nil {
		return false, err
	}
	return w.takesInfo(d, info), nil
}

// takesInfo is like takes, given the file info.
func (w *walker) takesInfo(d *foundDir, info fs.FileInfo) bool {
	taken := w.chosen.byInfo(d.base.info, info).Taken
	if !taken {
		w.dag.filtered++
	}
	return taken
}

// kindOf names the kind of a special file.
func kindOf(typ fs.FileMode) string {
	switch {
	case typ&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case typ&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// symlink adds a symlink without following it.
func (w *walker) symlink(root *os.Root, dir *node, name string) (*node, error) {
	n := w.dag.nodes.add(node{name: name, parent: dir})
	target, err := root.Readlink(name)
	if err != nil {
		return n, w.failed(n, err)
	}
	n.body = symlink(target)
	if w.opts.ModTime {
		info, err := root.Lstat(name)
		if err != nil {
			return n, w.failed(n, err)
		}
		w.keepStat(n, infoStat(info))
	}
	return n, nil
}

// send sends files to the workers.
func (w *walker) send(ctx context.Context, dir *openDir, files []*node) error {
	for len(files) > 0 {
		n := min(taskFiles, len(files))
		if dir != nil {
			dir.users.Add(1)
		}
		if err := send(ctx, w.tasks, task{dir, files[:n]}); err != nil {
			dir.release()
			return err
		}
		files = files[n:]
	}
	return nil
}
