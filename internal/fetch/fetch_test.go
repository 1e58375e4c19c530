package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/fetch"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf has blocks in memory, and options on how to serve them.
type shelf struct {
	name    string
	blocks  map[cid.Cid][]byte
	archive func(n int64, r io.Reader) io.Reader // changes the n-th archive, counting from 1

	singles, archives, sent atomic.Int64
}

func (s *shelf) source() fetch.Source {
	return fetch.Source{
		Name: s.name,
		Block: func(_ context.Context, c cid.Cid, _ int) ([]byte, error) {
			s.singles.Add(1)
			data, ok := s.blocks[c]
			if !ok {
				return nil, fetch.ErrNotFound
			}
			return data, nil
		},
		Archive: func(_ context.Context, c cid.Cid) (io.ReadCloser, error) { return s.open(c, 0, 1<<62) },
		Range:   func(_ context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error) { return s.open(c, from, to) },
	}
}

// open makes an archive of a range. It has each block once, and breaks off at a
// missing one.
func (s *shelf) open(c cid.Cid, from, to int64) (io.ReadCloser, error) {
	pieces := []io.Reader{bytes.NewReader(car.AppendHeader(nil, c))}
	if err := s.write(&pieces, c, from, to, map[cid.Cid]bool{}); err != nil {
		pieces = append(pieces, broken{})
	}
	r := io.MultiReader(pieces...)
	if n := s.archives.Add(1); s.archive != nil {
		r = s.archive(n, r)
	}
	return &counted{r, &s.sent}, nil
}

func (s *shelf) write(w *[]io.Reader, c cid.Cid, from, to int64, met map[cid.Cid]bool) error {
	data, ok := s.blocks[c]
	if !ok {
		return fetch.ErrNotFound
	}
	if !met[c] {
		met[c] = true
		frame := append(varint.ToUvarint(uint64(c.ByteLen()+len(data))), c.Bytes()...)
		*w = append(*w, bytes.NewReader(frame), bytes.NewReader(data))
	}
	if c.Prefix().Codec == cid.Raw {
		return nil
	}
	n, err := unixfs.Decode(c.Prefix().Codec, data)
	if err != nil {
		return err
	}
	at := int64(0)
	for i, l := range n.Links {
		size := int64(1)
		if n.IsFile() {
			size = int64(n.Sizes[i])
		}
		if !n.IsFile() || at < to && at+size > from {
			if err := s.write(w, l.Cid, from-at, to-at, met); err != nil {
				return err
			}
		}
		at += size
	}
	return nil
}

type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (*counted) Close() error { return nil }

// broken is a connection that breaks at once.
type broken struct{}

var errBroken = errors.New("the line broke")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// cut breaks an archive off after this many bytes.
func cut(n int64) func(int64, io.Reader) io.Reader {
	return func(_ int64, r io.Reader) io.Reader { return io.MultiReader(io.LimitReader(r, n), broken{}) }
}

// flip changes the byte at an offset.
func flip(at int64) func(int64, io.Reader) io.Reader {
	return func(_ int64, r io.Reader) io.Reader {
		return io.MultiReader(io.LimitReader(r, at), flipped{io.LimitReader(r, 1)}, r)
	}
}

type flipped struct{ io.Reader }

func (f flipped) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	for i := range p[:n] {
		p[i] ^= 1
	}
	return n, err
}

func file(t *testing.T, data []byte) (cid.Cid, map[cid.Cid][]byte) {
	t.Helper()
	dag, err := chunker.Build(t.Context(), memory(data), chunker.Options{Profile: small()})
	if err != nil {
		t.Fatal(err)
	}
	return collect(t, dag)
}

// memory is a source of a file in memory.
type memory []byte

func (m memory) Name() string                  { return "file" }
func (m memory) Size() int64                   { return int64(len(m)) }
func (m memory) Open() (car.SourceFile, error) { return opened{bytes.NewReader(m)}, nil }

type opened struct{ *bytes.Reader }

func (opened) Close() error { return nil }

func collect(t *testing.T, dag *chunker.DAG) (root cid.Cid, blocks map[cid.Cid][]byte) {
	t.Helper()
	blocks = map[cid.Cid][]byte{}
	var l car.Loader
	for i := range dag.Len() {
		b := dag.At(i)
		p, err := l.Load(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		blocks[b.Cid] = slices.Clone(p)
	}
	return dag.At(0).Cid, blocks
}

func noise(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// The sizes below are a quarter of the usual ones: leaves of 256 KiB, parts of
// 1 MiB, long requests of 8 MiB.
const ahead = 14 << 18

func pool(shelves ...*shelf) *fetch.Pool {
	sources := make([]fetch.Source, len(shelves))
	for i, s := range shelves {
		sources[i] = s.source()
	}
	p := fetch.NewPool(fetch.Options{
		AheadBytes: ahead, Fetches: 16, Hedge: time.Hour,
		Retryable: uploader.Retryable, Retrying: func(cid.Cid, int, time.Duration, error) {},
		Logger: slog.New(slog.DiscardHandler), Clock: uploader.MachineClock{},
	}, sources...)
	p.BeQuick()
	return p
}

// TestLongRanges: a large file takes few requests, and each is read only as far
// as there is room. If one fails midway, what it brought is kept, and another
// brings the rest.
func TestLongRanges(t *testing.T) {
	t.Parallel()
	part := noise(1, 11<<18)
	zeros := make([]byte, 1<<18)
	for name, data := range map[string][]byte{
		"all different": noise(2, 60<<18),
		"repeats":       slices.Concat(part, part[:9<<18], noise(3, 20<<18), part, zeros, part[:1<<18], zeros, noise(4, 5<<18), zeros),
	} {
		root, blocks := file(t, data)
		for fault, archive := range map[string]func(int64, io.Reader) io.Reader{
			"none":            nil,
			"breaks at once":  cut(100),
			"breaks later":    cut(9<<18 + 1),
			"lies at once":    flip(1 << 18),
			"lies later":      flip(21 << 18),
			"once breaks":     func(n int64, r io.Reader) io.Reader { return once(n, r, cut(14<<18)) },
			"ends early":      func(_ int64, r io.Reader) io.Reader { return io.LimitReader(r, 12<<18) },
			"is of no format": func(int64, io.Reader) io.Reader { return bytes.NewReader(make([]byte, 1000)) },
		} {
			for _, honest := range []bool{false, true} {
				t.Run(fmt.Sprint(name, ", ", fault, ", ", honest), func(t *testing.T) {
					t.Parallel()
					first, second := &shelf{name: "first", blocks: blocks, archive: archive}, &shelf{name: "second", blocks: blocks}
					shelves := []*shelf{first}
					if honest {
						shelves = append(shelves, second)
					}
					got := same{want: data}
					r := pool(shelves...).NewReader(t.Context())
					defer r.Close()
					_, err := unpack.WriteFileFrom(t.Context(), r, root, &got, unpack.Options{})
					if err != nil || len(got.want) > 0 {
						t.Errorf("%d bytes of %d are missing, error %v", len(got.want), len(data), err)
					}
					sent := first.sent.Load() + second.sent.Load()
					asked := first.archives.Load() + second.archives.Load()
					singles := first.singles.Load() + second.singles.Load()
					t.Logf("%d archives of %d MiB, %d blocks", asked, sent>>20, singles)
					if honest && (asked > 8 || sent > int64(len(data))+10<<20 || name == "all different" && singles > 6) {
						t.Errorf("%d archives of %d MiB, %d blocks", asked, sent>>20, singles)
					}
				})
			}
		}
	}
}

// same expects the given contents and nothing else.
type same struct{ want []byte }

func (s *same) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(s.want, p) {
		return 0, errors.New("these are other bytes")
	}
	s.want = s.want[len(p):]
	return len(p), nil
}

func once(n int64, r io.Reader, f func(int64, io.Reader) io.Reader) io.Reader {
	if n > 1 {
		return r
	}
	return f(n, r)
}

// TestAhead: reading ahead of a walk is limited, even within an archive that is
// longer than the limit.
func TestAhead(t *testing.T) {
	t.Parallel()
	root, blocks := file(t, noise(5, 60<<18))
	s := &shelf{name: "shelf", blocks: blocks}
	var visited, most int64
	err := pool(s).Walk(t.Context(), root, fetch.Walk{Visit: func(_ cid.Cid, data []byte) error {
		most = max(most, s.sent.Load()-visited)
		visited += int64(len(data))
		return nil
	}})
	if err != nil || visited < 60<<18 {
		t.Errorf("%d bytes, error %v", visited, err)
	}
	if most > ahead+1<<20 || s.archives.Load() > 2 || s.singles.Load() > 1 {
		t.Errorf("%d MiB ahead by %d archives and %d blocks", most>>20, s.archives.Load(), s.singles.Load())
	}
}

// TestMissingFromRanges: missing blocks are reported, and all others arrive,
// most of them in archives.
func TestMissingFromRanges(t *testing.T) {
	t.Parallel()
	root, blocks := file(t, noise(6, 60<<18))
	lost := map[cid.Cid]bool{}
	for c := range blocks {
		if c.Prefix().Codec == cid.Raw && len(lost) < 3 {
			lost[c] = true
			delete(blocks, c)
		}
	}
	s := &shelf{name: "shelf", blocks: blocks}
	visited, faults := 0, 0
	err := pool(s).Walk(t.Context(), root, fetch.Walk{
		Visit: func(cid.Cid, []byte) error { visited++; return nil },
		Fault: func(c cid.Cid, err error) error {
			faults++
			if !lost[c] || !errors.Is(err, fetch.ErrNotFound) {
				t.Errorf("block %s: %v", c, err)
			}
			return nil
		},
	})
	if err != nil || visited != len(blocks) || faults != 3 || s.singles.Load() > 10 {
		t.Errorf("%d of %d blocks and %d faults, by %d archives and %d blocks, error %v", visited, len(blocks), faults, s.archives.Load(), s.singles.Load(), err)
	}
}

// TestPlainDirectory: a directory whose files are single blocks arrives as one
// archive. If that breaks off, the rest is fetched block by block.
func TestPlainDirectory(t *testing.T) {
	t.Parallel()
	tree := chunker.NewTree()
	for i := range 90 {
		if err := tree.AddFile(fmt.Sprintf("%d/%d", i%3, i), memory(noise(byte(10+i), 62_500)), chunker.Stat{}); err != nil {
			t.Fatal(err)
		}
	}
	dag, err := tree.Build(t.Context(), chunker.Options{Profile: small()})
	if err != nil {
		t.Fatal(err)
	}
	root, blocks := collect(t, dag)
	for name, test := range map[string]struct {
		archive func(int64, io.Reader) io.Reader
		singles int64
	}{
		"whole":  {nil, 4},
		"breaks": {cut(5 << 18), 70},
		"lies":   {flip(5 << 18), 75},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shelf{name: "shelf", blocks: blocks, archive: test.archive}
			visited := 0
			err := pool(s).Walk(t.Context(), root, fetch.Walk{Visit: func(cid.Cid, []byte) error { visited++; return nil }})
			if err != nil || visited != len(blocks) || s.archives.Load() > 3 || s.singles.Load() > test.singles {
				t.Errorf("%d of %d blocks by %d archives and %d blocks, error %v", visited, len(blocks), s.archives.Load(), s.singles.Load(), err)
			}
		})
	}
}

func small() chunker.Profile {
	p := chunker.UnixFSv1()
	p.ChunkBytes, p.Width = 256<<10, 40 // so that there are inner nodes
	return p
}
