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

// baseName is the last element of a path, and empty if that names nothing.
func baseName(path string) string {
	switch name := filepath.Base(path); name {
	case ".", "..", "-", string(filepath.Separator):
		return ""
	default:
		return name
	}
}

// absolute is a path in full, empty if that is not known.
func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	return abs
}

// File is an [Input] of one regular file. Its name is the path, its upload name
// the last element of it.
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

// built keeps a nil DAG from becoming an interface that is not nil.
func built(dag *chunker.DAG, err error) (DAG, error) {
	if err != nil {
		return nil, err
	}
	return dag, nil
}

// Source is an [Input] of a source that is no file on disk, such as an object in
// a bucket. Its name is the source's, which says where it is, and its upload name
// the last element of it. If the source has a Version method, what is known of it
// is kept for as long as that returns the same.
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

// Tree is an [Input] of a directory: the tree is put together, but not built yet.
// It is described once.
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

// CAR is an [Input] of the DAG in a CAR file that was made elsewhere. It is
// not chunked again: its blocks go into new shards under the same root. The file
// has one root and is complete. See [CARs] for others.
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

// CARSet is CAR files that were made elsewhere and hold DAGs together, such
// as the shards of one.
type CARSet struct {
	name    string // of the first one
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

// CARSources is [CARs] of CAR files that are elsewhere than on disk.
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

// Roots are those of all headers, each once. There may be none.
func (s *CARSet) Roots() []cid.Cid { return s.roots }

// Add puts the archives of another set to those of this one. It is for before
// the first input is described.
func (s *CARSet) Add(other *CARSet) {
	s.sources = append(s.sources, other.sources...)
	for _, r := range other.roots {
		if !slices.Contains(s.roots, r) {
			s.roots = append(s.roots, r)
		}
	}
}

// Input is the upload of the DAG under a root, be it named by a header or not.
// All its blocks have to be in the archives. The archives are indexed once for
// all inputs.
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
// of it is no earlier state of this one.
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

// StreamOptions are the knobs of [Stream].
type StreamOptions struct {
	Chunker chunker.Options
	// Dir is where the stream is spooled, because pass 2 reads it again. It is
	// made, for this user only, if it is not there.
	Dir string
	// MaxBytes bounds the stream; 0 means DefaultMaxUploadBytes, negative no
	// limit. A longer one ends with an error matching ErrTooLarge.
	MaxBytes int64
}

// Stream is an [Input] of what can be read only once, such as standard input.
// Describe reads r to its end into a private file that has no name, so nothing
// is left of it however the process ends; the Input's Close gives the space
// back. Cancelling does not interrupt a Read of r.
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
	remove bool // the system keeps the names of open files
	size   int64
}

// spareBytes of the file system are left for others.
const spareBytes = 16 << 20

func newSpool(name, dir string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a place to spool %q: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "stream-*.spool") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("spool %q: %w", name, err)
	}
	return &spool{name: name, file: f, remove: os.Remove(f.Name()) != nil}, nil
}

// fill copies the stream, and looks at the free space as it goes: how long the
// stream is nobody knows.
func (s *spool) fill(ctx context.Context, r io.Reader, limit int64) error {
	buf := make([]byte, 1<<20)
	for checked := int64(-1); ; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if checked < 0 || s.size-checked >= 64<<20 {
			checked = s.size
			if free, ok := durable.Free(s.file); ok && free < spareBytes {
				return fmt.Errorf("spool %q: %w: %d bytes are free after %d", s.name, syscall.ENOSPC, free, s.size)
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
