package chunker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// Tree is a directory assembled from files and directories on disk, sources,
// symlinks and empty directories, in any order. Paths are inside the tree, with
// slashes; missing parent directories are created. Nothing is read before
// [Tree.Build]. A Tree is not safe for concurrent use, and can be built only
// once.
type Tree struct {
	nodes  nodes
	dirs   map[string]*node // directories by path
	mounts map[*node]string // nodes to read from disk, and their paths there
}

// NewTree returns an empty tree.
func NewTree() *Tree {
	t := &Tree{dirs: map[string]*node{}, mounts: map[*node]string{}}
	root := t.nodes.add(node{body: &directory{}})
	t.dirs[""] = root
	return t
}

// AddFile adds a file with the bytes of src. If stat is zero and src has an
// Info method, as a [FileSource] has, its metadata are used.
func (t *Tree) AddFile(path string, src car.Source, stat Stat) error {
	return t.add(path, node{body: src, size: src.Size()}, stat)
}

// AddSymlink adds a symlink. The target is stored unchanged.
func (t *Tree) AddSymlink(path, target string, stat Stat) error {
	return t.add(path, node{body: symlink(target)}, stat)
}

// AddDir adds a directory, or sets the metadata of one that exists in the tree
// already. The path "" is the root.
func (t *Tree) AddDir(path string, stat Stat) error {
	n, err := t.dir(path)
	if err == nil && !stat.zero() {
		n.stat = &stat
	}
	return err
}

// AddDisk adds the file or directory name on disk, which may be a symlink to
// one. With the path "", the entries of the directory become entries of the
// root.
func (t *Tree) AddDisk(path, name string) error {
	if path == "" {
		t.mounts[t.dirs[""]] = name
		return nil
	}
	dir, base, err := t.parent(path)
	if err != nil {
		return err
	}
	n := t.nodes.add(node{name: base, parent: dir})
	t.mounts[n] = name
	return nil
}

func (t *Tree) add(path string, n node, stat Stat) error {
	dir, base, err := t.parent(path)
	if err != nil {
		return err
	}
	n.name, n.parent = base, dir
	if !stat.zero() {
		n.stat = &stat
	}
	t.nodes.add(n)
	return nil
}

// parent returns the directory and the last element of path.
func (t *Tree) parent(path string) (dir *node, base string, err error) {
	parent, base := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, base = path[:i], path[i+1:]
	}
	if base == "" || base == "." || base == ".." || strings.IndexByte(base, 0) >= 0 {
		return nil, "", fmt.Errorf("%q is not a path inside a tree", path)
	}
	if i := strings.LastIndexByte(path, '/'); i == 0 {
		return nil, "", fmt.Errorf("%q is not a path inside a tree: it begins with a slash", path)
	}
	dir, err = t.dir(parent)
	return dir, base, err
}

func (t *Tree) dir(path string) (*node, error) {
	if n := t.dirs[path]; n != nil {
		return n, nil
	}
	dir, base, err := t.parent(path)
	if err != nil {
		return nil, err
	}
	n := t.nodes.add(node{name: base, parent: dir, body: &directory{}})
	t.dirs[path] = n
	return n, nil
}

// Build describes the tree. It walks the directories on disk, reads every file
// once, many small ones in parallel, and keeps about 200 bytes for each. The
// first file that cannot be read ends the build with an error that names it,
// unless [Options.Refused] is set. Two entries of a directory with the same
// name are always an error.
func (t *Tree) Build(ctx context.Context, opts Options) (*DAG, error) {
	b, err := newBuilder(opts)
	if err != nil {
		return nil, err
	}
	b.dag.nodes, b.dag.mounts = t.nodes, t.mounts
	chosen, err := newSelection(&b.opts)
	if err != nil {
		return nil, err
	}
	w := &walker{builder: b, chosen: chosen, tasks: make(chan task)}
	defer w.close()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(w.tasks)
		return w.walk(gctx)
	})
	for range b.opts.Workers {
		g.Go(func() error { return w.work(gctx) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, big := range w.big {
		err := w.describeBig(ctx, big)
		if err := w.refuse(ctx, big.node, w.dag.path(big.node), big.node.size, err); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if b.dag.refused > 0 && !b.opts.SkipRefused {
		return nil, b.dag.refusedError()
	}
	if err := b.dag.assemble(b.opts.NoEmptyDirs); err != nil {
		return nil, err
	}
	if b.dag.Len(); b.dag.depth > links.MaxDepth {
		return nil, fmt.Errorf("the tree is %d links deep, the limit is %d: %w", b.dag.depth, links.MaxDepth, car.ErrTooDeep)
	}
	b.dag.described = time.Now()
	slices.SortFunc(b.dag.skipped, func(a, b Skipped) int { return strings.Compare(a.Path, b.Path) })
	return b.dag, nil
}

// task is some files of one directory on disk, or some files with sources.
type task struct {
	dir   *openDir // nil if the nodes have sources
	nodes []*node
}

// taskFiles is how many files a worker takes at a time.
const taskFiles = 64

// bigFileBytes is the size above which all workers share a file. Smaller files
// are read by one worker each.
const bigFileBytes = 32 << 20

// bigFile is a file to describe after the others.
type bigFile struct {
	node *node
	dir  *openDir
}

// work describes files until no task is left.
func (w *walker) work(ctx context.Context) error {
	h := newBatch(w.builder, w.dag.plain.leafBytes(bigFileBytes))
	for {
		select {
		case t, ok := <-w.tasks:
			if !ok {
				h.flush()
				return nil
			}
			err := w.describeTask(ctx, h, t)
			t.dir.release()
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *walker) describeTask(ctx context.Context, h *batch, t task) error {
	var handle fileHandle
	for _, n := range t.nodes {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := w.describeFile(h, &handle, t.dir, n)
		if err := w.refuse(ctx, n, w.pathIf(err, n), n.size, err); err != nil {
			return err
		}
		w.opts.Files.Add(1)
	}
	return nil
}

// pathIf returns the path of a node if there is an error to report.
func (w *walker) pathIf(err error, n *node) string {
	if err == nil {
		return ""
	}
	return w.dag.path(n)
}

func (w *walker) describeFile(h *batch, handle *fileHandle, dir *openDir, n *node) error {
	src, err := w.open(handle, dir, n)
	if err != nil {
		return err
	}
	if n.size > bigFileBytes {
		w.mu.Lock()
		w.big = append(w.big, bigFile{n, dir})
		w.mu.Unlock()
	} else {
		err = w.unlessShort(n, w.describeSmall(h, n, src))
	}
	return errors.Join(err, src.Close())
}

// open opens a file for the first time and learns its size.
func (w *walker) open(h *fileHandle, dir *openDir, n *node) (car.SourceFile, error) {
	if dir == nil {
		return openSource(n.body.(car.Source))
	}
	size, stat, err := h.open(dir, n.name)
	if err != nil {
		return nil, w.failed(n, err)
	}
	n.size = size
	w.keepStat(n, stat)
	return h, nil
}

// errNotRegular means that a file was regular when it was listed.
var errNotRegular = errors.New("it is no longer a regular file")

// failed returns an error with the full path of the node.
func (w *walker) failed(n *node, err error) error {
	name := w.dag.path(n)
	if errors.Is(err, errNotRegular) {
		return &car.SourceChangedError{Name: name, Reason: errNotRegular.Error()}
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &fs.PathError{Op: "open", Path: name, Err: err}
}

// describeSmall adds the leaves of a file to a batch.
func (w *walker) describeSmall(h *batch, n *node, src car.SourceFile) error {
	if err := w.checkEmpty(n, src); err != nil {
		return err
	}
	p := w.dag.profileOf(n)
	if w.oneLeaf(n.size) {
		err := h.add(p, n, src, 0, n.size, n.digest[:])
		h.done = append(h.done, described{node: n})
		return err
	}
	if w.cutter != nil {
		return w.cutSmall(h, p, n, src)
	}
	f := &file{layout: newLayout(p, n.size, n.meta())}
	f.digests = make([]byte, f.layout.nodes()*digestSize)
	for i := range f.layout.leaves {
		from, to := f.layout.leaf(i)
		if err := h.add(p, n, src, from, to, digestAt(f.digests, i)); err != nil {
			return err
		}
	}
	h.done = append(h.done, described{n, f})
	return nil
}

// cutSmall is describeSmall for leaves that are cut by content.
func (w *walker) cutSmall(h *batch, p *Profile, n *node, src car.SourceFile) error {
	var leaves cutLeaves
	for chunk, err := range w.cutter.chunks(n, w.dag.source(n), src) {
		if err != nil {
			return err
		}
		to := chunk.from + int64(len(chunk.data))
		if err := h.add(p, n, chunk, chunk.from, to, leaves.add(to)); err != nil {
			return err
		}
	}
	h.flush() // before the digests move
	leaves.file(p, n).finish(n)
	return nil
}

// describeBig describes one file with all workers.
func (w *walker) describeBig(ctx context.Context, big bigFile) error {
	src, err := w.openBig(big)
	if err != nil {
		return err
	}
	return errors.Join(w.describe(ctx, big.node, src), src.Close())
}

func (w *walker) openBig(big bigFile) (car.SourceFile, error) {
	n := big.node
	if big.dir == nil {
		return openSource(n.body.(car.Source))
	}
	dir, err := big.dir.reopen()
	if err != nil {
		return nil, w.failed(n, err)
	}
	defer dir.Close()
	f, err := dir.OpenFile(n.name, openFlags, 0)
	if err != nil {
		return nil, w.failed(n, err)
	}
	info, err := f.Stat()
	if err == nil {
		err = sameSize(w.dag.path(n), info, n.size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkName refuses names that other programs could not represent.
func (w *walker) checkName(dir *node, name string) error {
	if w.opts.RawNames || utf8.ValidString(name) {
		return nil
	}
	return fmt.Errorf("the name %q in directory %q %w", name, w.dag.path(dir), ErrName)
}

// walker finds files. Its workers describe them.
type walker struct {
	*builder
	chosen selection
	tasks  chan task
	roots  []*os.Root // of the directories on disk, open until everything is described

	mu  sync.Mutex // guards what workers find: big, and refused entries
	big []bigFile
}

func (w *walker) close() {
	for _, r := range w.roots {
		_ = r.Close() // it was only read
	}
}
