package chunker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/sha256mb"
)

// Options are the knobs of a build.
type Options struct {
	Profile Profile       // the zero value means UnixFSv1
	Workers int           // goroutines that read and hash; 0 means one per core
	Read    *atomic.Int64 // if not nil, counts payload bytes as they are hashed
}

func (o Options) withDefaults() Options {
	if o.Profile == (Profile{}) {
		o.Profile = UnixFSv1()
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Read == nil {
		o.Read = new(atomic.Int64)
	}
	return o
}

// Build describes the DAG of one source: it reads every byte once, hashes the
// leaves on all cores and keeps 32 bytes of each. A source that ends early is
// reported by an error matching [car.ErrSourceChanged].
func Build(ctx context.Context, src car.Source, opts Options) (*DAG, error) {
	opts = opts.withDefaults()
	if err := opts.Profile.Validate(); err != nil {
		return nil, fmt.Errorf("profile %q: %w", opts.Profile.Name, err)
	}
	d := &DAG{profile: opts.Profile, size: src.Size()}
	l := newLayout(&d.profile, src.Size(), nil)
	f := file{source: src, layout: l, digests: make([]byte, l.nodes()*digestSize)}
	if err := describe(ctx, &f, opts); err != nil {
		return nil, err
	}
	d.finish(f)
	return d, nil
}

// finish makes d the DAG of a file whose leaves are described.
func (d *DAG) finish(f file) {
	f.hashInner()
	l := f.layout
	d.files = []file{f}
	d.root = makeCID(l.cidPrefix(l.top()), f.digests[len(f.digests)-digestSize:])
	d.tsize = l.root().tsize
}

// runBytes is how much a worker reads before it hashes: four leaves of 1 MiB,
// one for each lane of a core.
const runBytes = 4 << 20

// describe fills in the digests of a file.
func describe(ctx context.Context, f *file, opts Options) error {
	src, err := f.source.Open()
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	defer src.Close()

	leaves := f.layout.level[0].count
	perRun := max(1, runBytes/opts.Profile.ChunkBytes)
	runs := (leaves + perRun - 1) / perRun
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(opts.Workers, runs) {
		g.Go(func() error {
			h := newHasher(f, src, perRun)
			for {
				run := int(next.Add(1)) - 1
				if run >= runs {
					return nil
				}
				if err := context.Cause(ctx); err != nil {
					return err
				}
				from := run * perRun
				n, err := h.leaves(from, min(perRun, leaves-from))
				if err != nil {
					return err
				}
				opts.Read.Add(n)
			}
		})
	}
	return g.Wait()
}

// hashInner fills in the digests above the leaves.
func (f *file) hashInner() {
	var block []byte
	var sum [1][sha256mb.Size]byte
	for level := 1; level <= f.layout.top(); level++ {
		lv := &f.layout.level[level]
		for i := range lv.count {
			block = f.layout.appendInner(block[:0], level, i, f.digests)
			sha256mb.Sum(sum[:], [][]byte{block})
			copy(f.digests[(lv.first+i)*digestSize:], sum[0][:])
		}
	}
}

// hasher reads and hashes runs of leaves on one goroutine.
type hasher struct {
	f    *file
	src  io.ReaderAt
	buf  []byte
	msgs [][]byte
	sums [][sha256mb.Size]byte
}

func newHasher(f *file, src io.ReaderAt, perRun int) *hasher {
	perRun = min(perRun, f.layout.level[0].count)
	return &hasher{
		f: f, src: src,
		buf:  make([]byte, perRun*f.layout.level[0].full.block+leafFraming),
		msgs: make([][]byte, 0, perRun),
		sums: make([][sha256mb.Size]byte, perRun),
	}
}

// leaves fills in the digests of n leaves and tells how many bytes of the
// source they were.
func (h *hasher) leaves(first, n int) (int64, error) {
	l := h.f.layout
	from := int64(first) * int64(l.profile.ChunkBytes)
	to := min(l.size, int64(first+n)*int64(l.profile.ChunkBytes))
	h.msgs = h.msgs[:0]
	if l.profile.RawLeaves {
		// The leaves of a run lie side by side: one read fetches them all.
		buf := h.buf[:to-from]
		if err := h.readAt(buf, from); err != nil {
			return 0, err
		}
		for range n {
			k := min(len(buf), l.profile.ChunkBytes)
			h.msgs = append(h.msgs, buf[:k])
			buf = buf[k:]
		}
	} else {
		buf := h.buf[:0]
		for i := first; i < first+n; i++ {
			content := l.span(0, i).content
			head, tail := l.leafFrame(content, l.top() == 0)
			start := len(buf)
			buf = append(buf, head...)
			data := len(buf)
			buf = buf[:data+int(content)]
			if err := h.readAt(buf[data:], int64(i)*int64(l.profile.ChunkBytes)); err != nil {
				return 0, err
			}
			buf = append(buf, tail...)
			h.msgs = append(h.msgs, buf[start:])
		}
	}
	sha256mb.Sum(h.sums[:n], h.msgs)
	for i := range n {
		copy(h.f.digests[(first+i)*digestSize:], h.sums[i][:])
	}
	return to - from, nil
}

func (h *hasher) readAt(p []byte, off int64) error {
	n, err := h.src.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	name := h.f.source.Name()
	if err == nil || errors.Is(err, io.EOF) {
		return &car.SourceChangedError{Name: name, Offset: off + int64(n), Reason: "it ends there"}
	}
	return fmt.Errorf("read source %q at offset %d: %w", name, off+int64(n), err)
}
