package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/durable"
)

// baseName returns the last element of a path, or "" if it does not name
// anything.
func baseName(path string) string {
	switch name := filepath.Base(path); name {
	case ".", "..", "-", string(filepath.Separator):
		return ""
	default:
		return name
	}
}

// absolute returns the absolute path, or "" if it is unknown.
func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	return abs
}

// File makes an [Input] of one regular file. Its name is the path, and its
// upload name the last element of the path.
func File(path string, opts chunker.Options) (Input, error) {
	src, err := chunker.OpenFile(path)
	if err != nil {
		return nil, err
	}
	return &fileInput{src, opts}, nil
}

type fileInput struct {
	src  *chunker.FileSource
	opts chunker.Options
}

func (f *fileInput) Name() string       { return f.src.Name() }
func (f *fileInput) UploadName() string { return baseName(f.src.Name()) }
func (f *fileInput) Location() string   { return absolute(f.src.Name()) }
func (f *fileInput) Size() int64        { return f.src.Size() }
func (f *fileInput) Close() error       { return nil }

// Source implements [Batchable].
func (f *fileInput) Source() car.Source { return f.src }

// Options implements [Batchable].
func (f *fileInput) Options() chunker.Options { return f.opts }

func (f *fileInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	opts := f.opts
	opts.Read = read
	return built(chunker.Build(ctx, f.src, opts))
}

// built keeps a nil *chunker.DAG from becoming a non-nil DAG.
func built(dag *chunker.DAG, err error) (DAG, error) {
	if err != nil {
		return nil, err
	}
	return dag, nil
}

// Source makes an [Input] of a source that is not a file on disk, such as an
// object in a bucket. Its name is the name of the source, which says where it
// is, and its upload name the last element of that. If the source has a method
// Version() string, the ledger may keep its description while the version stays
// the same.
func Source(src car.Source, opts chunker.Options) Input { return &sourceInput{src, opts} }

type sourceInput struct {
	src  car.Source
	opts chunker.Options
}

func (s *sourceInput) Name() string       { return s.src.Name() }
func (s *sourceInput) UploadName() string { return baseName(s.src.Name()) }
func (s *sourceInput) Location() string   { return s.src.Name() }
func (s *sourceInput) Size() int64        { return s.src.Size() }
func (s *sourceInput) Close() error       { return nil }

func (s *sourceInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	opts := s.opts
	opts.Read = read
	return built(chunker.Build(ctx, s.src, opts))
}

// Tree makes an [Input] of a directory that has been assembled but not built.
// It can be described only once.
func Tree(name string, tree *chunker.Tree, opts chunker.Options) Input {
	return &treeInput{name, tree, opts}
}

type treeInput struct {
	name string
	tree *chunker.Tree
	opts chunker.Options
}

func (t *treeInput) Name() string       { return t.name }
func (t *treeInput) UploadName() string { return baseName(t.name) }

func (t *treeInput) Location() string {
	if strings.Contains(t.name, "://") {
		return t.name // it is a URL
	}
	return absolute(t.name)
}
func (t *treeInput) Close() error { return nil }

func (t *treeInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	opts := t.opts
	opts.Read = read
	return built(t.tree.Build(ctx, opts))
}

// CAR makes an [Input] of the DAG in an existing CAR file. It does not chunk
// anything again: the blocks go into new shards under the same root. The file
// must be complete and have exactly one root; otherwise see [CARs].
func CAR(path string) (Input, error) {
	set, err := CARs(path)
	if err != nil {
		return nil, err
	}
	if n := len(set.roots); n != 1 {
		return nil, fmt.Errorf("archive %q has %d roots; it needs exactly one", path, n)
	}
	return set.Input(set.roots[0]), nil
}

// CARSet is a set of existing CAR files that together hold one or more DAGs,
// such as the shards of one DAG.
type CARSet struct {
	name    string // of the first file
	sources []car.Source
	roots   []cid.Cid

	mu    sync.Mutex
	index *car.Index // nil before the first input is described
}

// CARs opens CAR files and reads their headers.
func CARs(paths ...string) (*CARSet, error) {
	var sources []car.Source
	for _, path := range paths {
		src, err := chunker.OpenFile(path)
		if err != nil {
			return nil, err
		}
		sources = append(sources, src)
	}
	return CARSources(sources...)
}

// CARSources is [CARs] for CAR files that are not on disk.
func CARSources(sources ...car.Source) (*CARSet, error) {
	s := &CARSet{}
	for _, src := range sources {
		path := src.Name()
		roots, err := rootsOf(src)
		if err != nil {
			return nil, fmt.Errorf("archive %q: %w", path, err)
		}
		for _, r := range roots {
			if !slices.Contains(s.roots, r) {
				s.roots = append(s.roots, r)
			}
		}
		s.sources = append(s.sources, src)
		if s.name == "" {
			s.name = path
		}
	}
	return s, nil
}

func rootsOf(src car.Source) ([]cid.Cid, error) {
	f, err := src.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := car.NewReader(io.NewSectionReader(f, 0, src.Size()), car.ReaderOptions{})
	if err != nil {
		return nil, err
	}
	return r.Roots, nil
}

// Roots returns the roots in all headers, each once. There may be none.
func (s *CARSet) Roots() []cid.Cid { return s.roots }

// Add adds the archives of another set. It must be called before the first
// input is described.
func (s *CARSet) Add(other *CARSet) {
	s.sources = append(s.sources, other.sources...)
	for _, r := range other.roots {
		if !slices.Contains(s.roots, r) {
			s.roots = append(s.roots, r)
		}
	}
}

// Input makes an [Input] of the DAG under root, which no header has to name.
// All its blocks must be in the archives. The archives are indexed once for all
// inputs.
func (s *CARSet) Input(root cid.Cid) Input { return archiveInput{s, root} }

func (s *CARSet) open(ctx context.Context) (*car.Index, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != nil {
		return s.index, nil
	}
	x := new(car.Index)
	for _, src := range s.sources {
		if _, err := x.Add(ctx, src); err != nil {
			return nil, err
		}
	}
	s.index = x
	return x, nil
}

type archiveInput struct {
	set  *CARSet
	root cid.Cid
}

func (a archiveInput) Name() string       { return a.set.name }
func (a archiveInput) UploadName() string { return baseName(a.set.name) }
func (a archiveInput) Close() error       { return nil }

// Location is empty if the archive has several roots: an upload of another root
// is not an earlier version of this one.
func (a archiveInput) Location() string {
	if len(a.set.roots) != 1 {
		return ""
	}
	return absolute(a.set.name)
}

func (a archiveInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	x, err := a.set.open(ctx)
	if err != nil {
		return nil, err
	}
	dag, err := x.DAG(ctx, a.root)
	if err != nil {
		return nil, fmt.Errorf("archive %q: %w", a.set.name, err)
	}
	read.Add(dag.Size())
	return dag, nil
}

// StreamOptions configure [Stream].
type StreamOptions struct {
	Chunker chunker.Options
	// Dir is where the stream is spooled, because pass 2 reads it again. If it
	// does not exist, it is created for this user only.
	Dir string
	// MaxBytes limits the stream; 0 means DefaultMaxUploadBytes, negative no
	// limit. A longer stream is an error that matches ErrTooLarge.
	MaxBytes int64
}

// Stream makes an [Input] of something that can be read only once, such as
// standard input. Describe reads r to its end into a private file without a
// name, so nothing is left behind however the process ends. Closing the Input
// frees the space. Cancelling does not interrupt a Read of r.
func Stream(name string, r io.Reader, opts StreamOptions) Input {
	if opts.MaxBytes == 0 {
		opts.MaxBytes = DefaultMaxUploadBytes
	}
	return &streamInput{name: name, r: r, opts: opts}
}

type streamInput struct {
	name  string
	r     io.Reader
	opts  StreamOptions
	spool *spool
}

func (s *streamInput) Name() string       { return s.name }
func (s *streamInput) UploadName() string { return baseName(s.name) }

func (s *streamInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	var err error
	if s.spool, err = newSpool(s.name, s.opts.Dir); err != nil {
		return nil, err
	}
	if err := s.spool.fill(ctx, s.r, s.opts.MaxBytes); err != nil {
		return nil, err
	}
	opts := s.opts.Chunker
	opts.Read = read
	return built(chunker.Build(ctx, s.spool, opts))
}

func (s *streamInput) Close() error {
	if s.spool == nil {
		return nil
	}
	return s.spool.close()
}

// spool is a copy of a stream on disk, as a [car.Source].
type spool struct {
	name   string
	file   *os.File
	remove bool // the system does not let open files be removed
	size   int64
}

// spareBytes is how much of the file system is left free for others.
const spareBytes = 16 << 20

func newSpool(name, dir string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory to spool %q: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "stream-*.spool") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("spool %q: %w", name, err)
	}
	return &spool{name: name, file: f, remove: os.Remove(f.Name()) != nil}, nil
}

// fill copies the stream. It checks the free space as it goes, since the length
// is unknown.
func (s *spool) fill(ctx context.Context, r io.Reader, limit int64) error {
	buf := make([]byte, 1<<20)
	for checked := int64(-1); ; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if checked < 0 || s.size-checked >= 64<<20 {
			checked = s.size
			if free, ok := durable.Free(s.file); ok && free < spareBytes {
				return fmt.Errorf("spool %q: %w: only %d bytes are free after writing %d", s.name, syscall.ENOSPC, free, s.size)
			}
		}
		n, err := io.ReadFull(r, buf)
		if limit >= 0 && s.size+int64(n) > limit {
			return fmt.Errorf("%w: %q is longer than %d bytes", ErrTooLarge, s.name, limit)
		}
		if _, err := s.file.Write(buf[:n]); err != nil {
			return fmt.Errorf("spool %q: %w", s.name, err)
		}
		s.size += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read %q at offset %d: %w", s.name, s.size, err)
		}
	}
}

func (s *spool) close() error {
	err := s.file.Close()
	if s.remove {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	return err
}

// Name implements [car.Source].
func (s *spool) Name() string { return s.name }

// Size implements [car.Source].
func (s *spool) Size() int64 { return s.size }

// Open implements [car.Source]. The file stays open until the input is closed.
func (s *spool) Open() (car.SourceFile, error) { return openSpool{s.file}, nil }

type openSpool struct{ io.ReaderAt }

func (openSpool) Close() error { return nil }
