// Package chunker describes files and directory trees as UnixFS DAGs.
//
// [Build] describes one file and a [Tree] a directory. Both read every byte
// once, hash on all cores, and return a [DAG]: a [car.List] with the CID of
// every block, and where to read its bytes again. A DAG holds no payload, only
// about 32 bytes for each leaf and 200 for each small file.
//
// A [Profile] decides how files are cut, how nodes are arranged, and when
// directories are sharded, and so which CIDs come out. [UnixFSv1] is the
// default. Other profiles give the CIDs of Kubo, nft.storage, Helia and other
// programs; [ProfileNamed] finds them by name.
//
// [Options] select what is taken from a tree on disk. If an entry cannot be
// read, the build ends with an error, unless [Options.Refused] is set. Sources
// are opened read-only. Files that change during a build are reported by an
// error that matches [car.ErrSourceChanged]; [DAG.Changed] checks them again
// later.
package chunker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

// Options configure a build. The zero value builds with [UnixFSv1] and leaves
// out hidden files.
type Options struct {
	Profile Profile       // the zero value means [UnixFSv1]
	Workers int           // number of goroutines that read and hash; 0 means one per core
	Read    *atomic.Int64 // if not nil, incremented by the payload bytes hashed

	// Metadata to store. As in Kubo, either option turns raw leaves off.
	Mode    bool // store permissions
	ModTime bool // store modification times

	// What to take from a tree.
	Hidden      bool     // on disk, also take names that begin with a dot
	Dereference bool     // on disk, take what a symlink points to instead of the symlink
	Patterns    []string // what to leave out on disk, as in a .gitignore: the last match decides, and "!" takes in again
	// IgnoreFile, if not empty, is the name of files with one pattern a line,
	// which apply to their directory and everything below. As in Git, the
	// nearest file decides. Ignore files cannot take in again what Patterns
	// leave out. Ignoring, if not nil, is called for each ignore file that is
	// read.
	IgnoreFile string
	Ignoring   func(path string)
	// Size and modification time limits for files in directories on disk. Zero
	// values set no limit.
	MinSize, MaxSize            int64
	ModifiedFrom, ModifiedUntil time.Time
	OneFileSystem               bool          // leave out directories on other file systems than the directory that was added
	NoEmptyDirs                 bool          // leave out directories that end up empty, except the root
	RawNames                    bool          // allow names that are not UTF-8
	Files                       *atomic.Int64 // if not nil, incremented for each file of the tree that is read

	// Refused, if not nil, is called for each entry of a tree that cannot be
	// taken, one call at a time. The build goes on to find the others, and
	// finally returns an error that matches ErrRefused. If Refused is nil, the
	// first such entry ends the build.
	Refused func(Refusal)
	// SkipRefused leaves those entries out and builds the DAG of all others.
	SkipRefused bool
}

func (o Options) withDefaults() Options {
	if o.Profile == (Profile{}) {
		o.Profile = UnixFSv1()
	}
	o.Profile = o.Profile.Renamed()
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Read == nil {
		o.Read = new(atomic.Int64)
	}
	if o.Files == nil {
		o.Files = new(atomic.Int64)
	}
	return o
}

// Build describes the DAG of one source. It reads every byte once, hashes the
// leaves on all cores, and keeps 32 bytes for each. If the source ends early,
// or is a file that is written to meanwhile, the error matches
// [car.ErrSourceChanged].
func Build(ctx context.Context, src car.Source, opts Options) (*DAG, error) {
	b, err := newBuilder(opts)
	if err != nil {
		return nil, err
	}
	n := &node{body: src, size: src.Size()}
	if s, ok := src.(interface{ Info() fs.FileInfo }); ok {
		b.keepStat(n, infoStat(s.Info()))
	}
	b.dag.nodes = nodes{blocks: [][]node{{*n}}, n: 1}
	n = b.dag.nodes.at(0)
	f, err := openSource(src)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := b.describe(ctx, n, f); err != nil {
		return nil, err
	}
	b.dag.described = time.Now()
	return b.dag, nil
}

// builder builds one DAG.
type builder struct {
	opts   Options
	cutter *cutter // nil unless leaves are cut by content
	dag    *DAG
}

func newBuilder(opts Options) (*builder, error) {
	opts = opts.withDefaults()
	p := opts.Profile
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("profile %q: %w", p.Name, err)
	}
	b := &builder{opts: opts, dag: &DAG{profile: p, plain: p, framed: p}}
	b.dag.framed.RawLeaves = false
	if opts.Mode || opts.ModTime {
		b.dag.plain = b.dag.framed
	}
	if p.Chunker != "" {
		c, err := parseCutter(p.Chunker)
		if err != nil {
			return nil, err
		}
		b.cutter = &c
	}
	return b, nil
}

// keepStat stores the metadata that the options ask for.
func (b *builder) keepStat(n *node, s Stat) {
	if !b.opts.Mode && !b.opts.ModTime {
		return
	}
	if !b.opts.Mode {
		s.Mode = 0
	}
	if !b.opts.ModTime {
		s.ModTime = time.Time{}
	}
	if !s.zero() {
		n.stat = &s
	}
}

// oneLeaf reports whether a file of this size is a single leaf.
func (b *builder) oneLeaf(size int64) bool {
	switch p := &b.opts.Profile; {
	case p.Layout != Balanced:
		return false
	case b.cutter != nil:
		return size < int64(b.cutter.min)
	default:
		return size <= int64(p.ChunkBytes)
	}
}

// finishLeaf completes a node whose only leaf has been hashed.
func (b *builder) finishLeaf(n *node) {
	p := b.dag.profileOf(n)
	n.raw, n.tsize = p.RawLeaves, n.size
	if !n.raw {
		n.tsize += int64(leafFrameSize(n.size, n.meta()))
	}
}

// finish completes a node whose leaves have been hashed.
func (f *file) finish(n *node) {
	var block []byte
	l := f.layout
	for i := l.leaves; i < l.nodes(); i++ {
		block = l.appendInner(block[:0], i, f.digests)
		digest := sha256.Sum256(block)
		copy(digestAt(f.digests, i), digest[:])
	}
	root := l.root()
	copy(n.digest[:], digestAt(f.digests, root))
	n.raw, n.tsize = l.raw(root), l.span(root).tsize
	if src, ok := n.body.(car.Source); ok {
		f.source = src
	}
	n.body = f
}

func openSource(src car.Source) (car.SourceFile, error) {
	f, err := src.Open()
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	return f, nil
}

// describe describes one file, with all workers.
func (b *builder) describe(ctx context.Context, n *node, src io.ReaderAt) error {
	before, err := statOf(src)
	if err != nil {
		return err
	}
	if err := b.checkEmpty(n, src); err != nil {
		return err
	}
	p := b.dag.profileOf(n)
	switch {
	case b.oneLeaf(n.size):
		h := batchOfOne(b, p.leafBytes(n.size))
		if err = h.add(p, n, src, 0, n.size, n.digest[:]); err == nil {
			h.flush()
			b.finishLeaf(n)
		}
		h.recycle()
	case b.cutter != nil:
		err = b.cut(ctx, n, src)
	default:
		f := &file{layout: newLayout(p, n.size, n.meta())}
		f.digests = make([]byte, f.layout.nodes()*digestSize)
		if err = b.hashLeaves(ctx, n, src, f); err == nil {
			f.finish(n)
		}
	}
	if err != nil {
		return b.unlessShort(n, err)
	}
	return b.unchanged(n, src, before)
}

// statOf returns the file info of an open source, or nil if it is not a file.
func statOf(src io.ReaderAt) (fs.FileInfo, error) {
	if f, ok := src.(interface{ Stat() (fs.FileInfo, error) }); ok {
		return f.Stat()
	}
	return nil, nil
}

// unlessShort returns err, unless the file still has its size but yields fewer
// bytes. Then it did not change: files in /sys report a size of 4096 whatever
// they hold.
func (b *builder) unlessShort(n *node, err error) error {
	var changed *car.SourceChangedError
	if !errors.As(err, &changed) || changed.Offset >= n.size {
		return err
	}
	name := b.dag.source(n).Name()
	if info, e := os.Stat(name); e != nil || !info.Mode().IsRegular() || info.Size() != n.size {
		return err
	}
	return fmt.Errorf("%q reports a size of %d bytes but ends after %d: pass it on standard input", name, n.size, changed.Offset)
}

// unchanged reports a file that was written to since before. Pass 2 would
// notice too, but a caller may want only the root.
func (b *builder) unchanged(n *node, src io.ReaderAt, before fs.FileInfo) error {
	if before == nil {
		return nil
	}
	now, err := statOf(src)
	if err != nil {
		return err
	}
	name := b.dag.source(n).Name()
	if err := sameSize(name, now, n.size); err != nil {
		return err
	}
	if !now.ModTime().Equal(before.ModTime()) {
		return &car.SourceChangedError{Name: name, Reason: "it was modified while it was read"}
	}
	return nil
}

// hashLeaves computes the digests of the leaves of one file.
func (b *builder) hashLeaves(ctx context.Context, n *node, src io.ReaderAt, f *file) error {
	l := f.layout
	perRun := batchLeaves
	if l.bigLeaves() {
		perRun = max(sha256mb.Width(), runBytes/l.profile.ChunkBytes)
	}
	runs := (l.leaves + perRun - 1) / perRun
	workers := min(b.opts.Workers, runs)
	var mapped mapping
	if l.bigLeaves() {
		mapped = newMapping(src, l.size)
		defer mapped.close()
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			hash := b.leafHasher(n, src, mapped, f)
			for {
				run := int(next.Add(1)) - 1
				if run >= runs {
					return nil
				}
				if err := context.Cause(ctx); err != nil {
					return err
				}
				if ahead := run + workers; ahead < runs {
					from, _ := l.leaf(ahead * perRun)
					_, to := l.leaf(min((ahead+1)*perRun, l.leaves) - 1)
					durable.ReadAhead(src, from, to)
				}
				first := run * perRun
				if err := hash(first, min(perRun, l.leaves-first)); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// leafHasher returns the function with which a goroutine hashes a run of
// leaves: big ones in lockstep, small ones in batches.
func (b *builder) leafHasher(n *node, src io.ReaderAt, mapped mapping, f *file) func(first, count int) error {
	l := f.layout
	if l.bigLeaves() {
		s, name := newLockstep(mapped), func() string { return b.dag.source(n).Name() }
		return func(first, count int) error {
			if err := s.leaves(l, src, name, first, count, f.digests); err != nil {
				return err
			}
			from, _ := l.leaf(first)
			_, to := l.leaf(first + count - 1)
			b.opts.Read.Add(to - from)
			return nil
		}
	}
	h := newBatch(b, l.profile.leafBytes(l.size))
	return func(first, count int) error {
		for i := first; i < first+count; i++ {
			from, to := l.leaf(i)
			if err := h.add(l.profile, n, src, from, to, digestAt(f.digests, i)); err != nil {
				return err
			}
		}
		h.flush()
		return nil
	}
}

// leafBytes is the largest that a leaf of a file of this size can be.
func (p *Profile) leafBytes(size int64) int {
	most := int64(p.ChunkBytes)
	if most == 0 {
		most = car.MaxBlockBytes
	}
	return int(min(most, size)) + leafFraming
}

// batch is leaves in memory, to be hashed together. It is for one goroutine.
type batch struct {
	b    *builder
	buf  []byte
	msgs [][]byte
	into [][]byte // where the digests go
	sums [][sha256mb.Size]byte
	done []described // files to complete after flush
	read int64
}

// described is a file whose leaves are in the batch or already hashed.
type described struct {
	node *node
	file *file // nil if the file is a single leaf
}

// Limits of a batch of small leaves: enough to keep the lanes busy although
// leaves differ in size, in a buffer that stays in the cache. Of large leaves,
// a batch takes a multiple of largeLeaves.
const (
	batchLeaves = 64
	batchBytes  = 256 << 10
	largeLeaves = 4
)

// newBatch makes a batch with room for a few leaves of this size.
func newBatch(b *builder, leafBytes int) *batch {
	return &batch{
		b:    b,
		buf:  make([]byte, 0, max(largeLeaves*leafBytes, batchBytes)),
		sums: make([][sha256mb.Size]byte, batchLeaves),
	}
}

// smallBatches are batches with room for batchBytes that builds of small files
// left. To make one would be most of the cost of such a build.
var smallBatches sync.Pool

// batchOfOne returns a batch for one leaf of this size. The caller passes it to
// recycle.
func batchOfOne(b *builder, leafBytes int) *batch {
	if leafBytes > batchBytes {
		return &batch{b: b, buf: make([]byte, 0, leafBytes), sums: make([][sha256mb.Size]byte, 1)}
	}
	if h, ok := smallBatches.Get().(*batch); ok {
		h.b = b
		return h
	}
	return newBatch(b, 0)
}

// recycle leaves an empty batch for other builds.
func (h *batch) recycle() {
	h.b = nil
	if cap(h.buf) == batchBytes {
		smallBatches.Put(h)
	}
}

// isFull reports whether a leaf of n bytes should go into the next batch.
func (h *batch) isFull(n int) bool {
	return len(h.msgs) == batchLeaves || len(h.buf)+n > cap(h.buf) || len(h.buf) >= batchBytes && len(h.msgs)%largeLeaves == 0
}

// add reads the bytes from..to of a file as a leaf. The next flush writes the
// leaf's digest to digest.
func (h *batch) add(p *Profile, n *node, src io.ReaderAt, from, to int64, digest []byte) error {
	size := int(to - from)
	if h.isFull(size + leafFraming) {
		h.flush()
	}
	start := len(h.buf)
	meta := ""
	if n.stat != nil && int64(size) == n.size && p.Layout == Balanced {
		meta = n.meta() // the leaf is the root
	}
	if !p.RawLeaves {
		h.buf = appendLeafHead(h.buf, p.leafType(), int64(size), meta)
	}
	data := len(h.buf)
	h.buf = h.buf[:data+size]
	if err := readFull(src, func() string { return h.b.dag.source(n).Name() }, h.buf[data:], from); err != nil {
		h.buf = h.buf[:start]
		return err
	}
	if !p.RawLeaves {
		h.buf = appendLeafTail(h.buf, int64(size), meta)
	}
	h.msgs = append(h.msgs, h.buf[start:])
	h.into = append(h.into, digest)
	h.read += int64(size)
	return nil
}

// checkEmpty refuses a file that has content but no size, as the files in /proc
// do.
func (b *builder) checkEmpty(n *node, src io.ReaderAt) error {
	if n.size > 0 {
		return nil
	}
	if got, _ := src.ReadAt(make([]byte, 1), 0); got > 0 {
		return fmt.Errorf("%q has content but no size: pass it on standard input", b.dag.source(n).Name())
	}
	return nil
}

// flush hashes the leaves in the batch and completes their files.
func (h *batch) flush() {
	sha256mb.Sum(h.sums[:len(h.msgs)], h.msgs)
	for i, into := range h.into {
		copy(into, h.sums[i][:])
	}
	for _, d := range h.done {
		if d.file != nil {
			d.file.finish(d.node)
		} else {
			h.b.finishLeaf(d.node)
		}
	}
	h.b.opts.Read.Add(h.read)
	clear(h.into)
	clear(h.done)
	h.buf, h.msgs, h.into, h.done, h.read = h.buf[:0], h.msgs[:0], h.into[:0], h.done[:0], 0
}
