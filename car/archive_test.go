package car_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	commp "github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
)

// vectorFile is the part of testdata/vectors/unixfs.json about archives.
type vectorFile struct {
	CarVectors []struct {
		ID        string
		Root      string
		Order     string
		Roots     int
		Blocks    int
		Size      int64
		SHA256    string
		CarCid    string
		HeaderHex string
	}
	CarMalformed []struct {
		Name, Hex, GoCar, IpldCar string
	}
}

func readVectors(t testing.TB) vectorFile {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "unixfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v vectorFile
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// vectorBlocks makes the DAG with this vector id.
func vectorBlocks(t testing.TB, id string) car.Blocks {
	t.Helper()
	version := 1
	if strings.HasPrefix(id, "v0/") {
		version = 0
	}
	switch _, rest, _ := strings.Cut(id, "/"); rest {
	case "c1024-w4/mod251/5000":
		return boxoFile(t, mod251(5000), 1024, 4, version)
	case "c1024-w4/zero/20000":
		return boxoFile(t, make([]byte, 20000), 1024, 4, version)
	case "hello":
		return boxoFile(t, []byte("hello world"), 1<<20, 1024, version)
	case "empty":
		return boxoFile(t, nil, 1<<20, 1024, version)
	}
	t.Fatalf("vector %q", id)
	return nil
}

func postOrder(pre car.Blocks) car.Blocks {
	// Children follow their parent: a block is complete when a block that is
	// not deeper follows.
	var out, path car.Blocks
	for _, b := range pre {
		for len(path) > b.Depth {
			out = append(out, path[len(path)-1])
			path = path[:len(path)-1]
		}
		path = append(path, b)
	}
	slices.Reverse(path)
	return append(out, path...)
}

func TestVectors(t *testing.T) {
	t.Parallel()
	ran := 0
	for _, v := range readVectors(t).CarVectors {
		if v.Roots != 1 {
			continue // our archives always have a root
		}
		ran++
		blocks := vectorBlocks(t, v.ID)
		if blocks[0].Cid.String() != v.Root || len(blocks) != v.Blocks {
			t.Fatalf("%s: root %s of %d blocks", v.ID, blocks[0].Cid, len(blocks))
		}
		if v.Order == "post" {
			blocks = postOrder(blocks)
		}
		root := cid.MustParse(v.Root)
		data := pack(t, root, blocks)
		if int64(len(data)) != v.Size {
			t.Errorf("%s: %d bytes, want %d", v.ID, len(data), v.Size)
		}
		digest := sha256.Sum256(data)
		if got := hex.EncodeToString(digest[:]); got != v.SHA256 {
			t.Errorf("%s: SHA-256 %s, want %s", v.ID, got, v.SHA256)
		}
		if got := car.CID(digest).String(); got != v.CarCid {
			t.Errorf("%s: CID %s, want %s", v.ID, got, v.CarCid)
		}
		header := hex.EncodeToString(car.AppendHeader(nil, root))
		if header != v.HeaderHex || int64(len(header)) != 2*car.HeaderSize(root) {
			t.Errorf("%s: header %s, want %s", v.ID, header, v.HeaderHex)
		}
	}
	if ran < 10 {
		t.Errorf("%d vectors ran", ran)
	}
}

func TestHeaderOfAnyRoot(t *testing.T) {
	t.Parallel()
	for hash, size := range map[uint64]int64{
		multihash.SHA2_256: 59, multihash.SHA1: 47, multihash.SHA2_512: 91, multihash.BLAKE2B_MIN + 31: 61, multihash.IDENTITY: 0,
	} {
		c := sum(t, cid.DagCBOR, hash, []byte(strings.Repeat("x", 300)))
		header := car.AppendHeader([]byte("before"), c)
		if !bytes.HasPrefix(header, []byte("before")) {
			t.Fatal("what was there is gone")
		}
		header = header[6:]
		if size != 0 && int64(len(header)) != size {
			t.Errorf("%s: a header of %d bytes, want %d", c, len(header), size)
		}
		ours, err := car.NewReader(bytes.NewReader(header), car.ReaderOptions{})
		if err != nil || len(ours.Roots) != 1 || ours.Roots[0] != c || ours.Version != 1 {
			t.Errorf("%s: %+v, %v", c, ours, err)
		}
		theirs, err := carv2.NewBlockReader(bytes.NewReader(header))
		if err != nil || len(theirs.Roots) != 1 || theirs.Roots[0] != c {
			t.Errorf("%s: go-car reads %+v, %v", c, theirs, err)
		}
	}
}

func TestSectionSizeIsExact(t *testing.T) {
	t.Parallel()
	v1 := sum(t, cid.Raw, multihash.SHA2_256, nil)
	for _, row := range []struct {
		c    cid.Cid
		n    int
		want int64
	}{ // the figures of the common layouts
		{v1, 0, 37},
		{v1, 1 << 20, 1_048_615},
		{v1, 1 << 18, 262_183},
		{cid.NewCidV0(v1.Hash()), 262_158, 262_195},
		{v1, 127 - 36, 128},
		{v1, 128 - 36, 130},
		{v1, 1<<14 - 1 - 36, 1<<14 + 1},
		{v1, 1<<14 - 36, 1<<14 + 3},
	} {
		if got := car.SectionSize(row.c, row.n); got != row.want {
			t.Errorf("%s of %d bytes takes %d, want %d", row.c, row.n, got, row.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		data := make([]byte, rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(16_000, 17_000)).Draw(t, "size"))
		hash := rapid.SampledFrom([]uint64{multihash.SHA2_256, multihash.SHA2_512, multihash.SHA1}).Draw(t, "hash")
		mh, err := multihash.Sum(data, hash, -1)
		if err != nil {
			t.Fatal(err)
		}
		b := car.Block{Cid: cid.NewCidV1(rapid.Uint64Range(0, 1<<40).Draw(t, "codec"), mh), Head: data}
		a := car.NewArchive(b.Cid, car.Blocks{b})
		var p car.Packer
		n, err := p.Open(ctx, a).WriteTo(io.Discard)
		if err != nil || n != a.Size || n != car.HeaderSize(b.Cid)+b.SectionSize() {
			t.Fatalf("%d bytes, %v, want %d", n, err, a.Size)
		}
	})
}

// spread describes blocks as ranges of a source, and keeps some of their bytes
// in memory.
func spread(t testing.TB, blocks car.Blocks, wrap func(car.Source) car.Source) (car.Blocks, *memory) {
	t.Helper()
	src := &memory{name: "payloads"}
	var out car.Blocks
	for i, b := range blocks {
		data := b.Head
		head, tail := len(data)*(i%3)/10, len(data)*(i%4)/10
		b.Head, b.Tail = data[:head], data[len(data)-tail:]
		b.Offset, b.Length, b.Source = int64(len(src.data)), len(data)-head-tail, wrap(src)
		src.data = append(src.data, data[head:len(data)-tail]...)
		out = append(out, b)
	}
	return out, src
}

func same(s car.Source) car.Source { return s }

// counting counts opened and open files.
type counting struct {
	car.Source
	open, opened *atomic.Int64
}

func (c counting) Open() (car.SourceFile, error) {
	f, err := c.Source.Open()
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	c.opened.Add(1)
	return countedFile{f, c.open}, nil
}

type countedFile struct {
	car.SourceFile
	open *atomic.Int64
}

func (c countedFile) Close() error {
	c.open.Add(-1)
	return c.SourceFile.Close()
}

// The bytes of an archive do not depend on the sizes of reads.
func TestStreamReads(t *testing.T) {
	t.Parallel()
	// More than a batch, and blocks of all sizes.
	blocks := append(boxoFile(t, mod251(9<<20), 1<<20, 4, 1), boxoFile(t, mod251(100_000), 1000, 10, 0)...)
	root := blocks[0].Cid
	want := pack(t, root, blocks)
	var open, opened atomic.Int64
	fromSource, _ := spread(t, blocks, func(s car.Source) car.Source { return counting{s, &open, &opened} })
	a := car.NewArchive(root, fromSource)
	digest := sha256.Sum256(want)
	var p car.Packer
	for name, read := range map[string]func(s *car.Stream) ([]byte, error){
		"ReadAll":  func(s *car.Stream) ([]byte, error) { return io.ReadAll(s) },
		"1 byte":   func(s *car.Stream) ([]byte, error) { return io.ReadAll(iotest.OneByteReader(s)) },
		"half":     func(s *car.Stream) ([]byte, error) { return io.ReadAll(iotest.HalfReader(s)) },
		"7 bytes":  func(s *car.Stream) ([]byte, error) { return readSteps(s, 7) },
		"59 bytes": func(s *car.Stream) ([]byte, error) { return readSteps(s, 59) },
		"32 KiB":   func(s *car.Stream) ([]byte, error) { return readSteps(s, 32<<10) },
		"5 MiB":    func(s *car.Stream) ([]byte, error) { return readSteps(s, 5<<20) },
		"io.Copy": func(s *car.Stream) ([]byte, error) {
			var b bytes.Buffer
			_, err := io.Copy(&b, s)
			return b.Bytes(), err
		},
		"both ways": readThenWrite,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := p.Open(ctx, a)
			if _, ok := s.CID(); ok {
				t.Error("the CID is known before the first byte")
			}
			got, err := read(s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("other bytes")
			}
			if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %d, %v", n, err)
			}
			if c, ok := s.CID(); !ok || c != car.CID(digest) {
				t.Errorf("CID %s, %t, want %s", c, ok, car.CID(digest))
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if c, ok := s.CID(); !ok || c != car.CID(digest) {
				t.Errorf("CID %s, %t after Close", c, ok)
			}
		})
	}
	t.Cleanup(func() {
		if open.Load() != 0 || opened.Load() == 0 {
			t.Errorf("%d of %d sources are still open", open.Load(), opened.Load())
		}
	})
}

func readSteps(r io.Reader, step int) ([]byte, error) {
	var out []byte
	buf := make([]byte, step)
	for {
		n, err := r.Read(buf)
		out = append(out, buf[:n]...)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

func readThenWrite(s *car.Stream) ([]byte, error) {
	var b bytes.Buffer
	for _, n := range []int64{1, 1000, 3 << 20} {
		if _, err := io.CopyN(&b, struct{ io.Reader }{s}, n); err != nil {
			return nil, err
		}
	}
	_, err := s.WriteTo(&b)
	return b.Bytes(), err
}

// shortWriter fails after some bytes.
type shortWriter struct{ left int }

var errFull = errors.New("full")

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	if w.left -= n; n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestStreamWriteToAFullWriter(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(20_000), 1024, 4, 1)
	want := pack(t, blocks[0].Cid, blocks)
	var p car.Packer
	for _, room := range []int{0, 1, 58, 59, 1000, len(want) - 1} {
		s := p.Open(ctx, car.NewArchive(blocks[0].Cid, blocks))
		n, err := s.WriteTo(&shortWriter{room})
		if n != int64(room) || !errors.Is(err, errFull) {
			t.Errorf("room for %d: %d, %v", room, n, err)
		}
		if _, ok := s.CID(); ok {
			t.Errorf("room for %d: the CID is known", room)
		}
		rest, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(rest, want[room:]) {
			t.Errorf("room for %d: the rest is lost: %v", room, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStreamStops(t *testing.T) {
	t.Parallel()
	var open, opened atomic.Int64
	blocks, _ := spread(t, boxoFile(t, mod251(12<<20), 1<<20, 4, 1), func(s car.Source) car.Source { return counting{s, &open, &opened} })
	a := car.NewArchive(blocks[0].Cid, blocks)
	var p car.Packer

	cause := errors.New("enough")
	cancellable, cancel := context.WithCancelCause(ctx)
	s := p.Open(cancellable, a)
	if _, err := io.CopyN(io.Discard, s, 1000); err != nil {
		t.Fatal(err)
	}
	cancel(cause)
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{s}); !errors.Is(err, cause) || n >= a.Size-1000 {
		t.Errorf("cancelled: %d bytes more, %v", n, err)
	}
	if _, ok := s.CID(); ok {
		t.Error("cancelled: the CID is known")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}

	s = p.Open(ctx, a)
	if _, err := io.CopyN(io.Discard, s, 1000); err != nil {
		t.Fatal(err)
	}
	if open.Load() != 1 {
		t.Errorf("%d sources are open", open.Load())
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if n, err := s.Read(make([]byte, 10)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after Close: %d, %v", n, err)
	}
	if n, err := s.WriteTo(io.Discard); n != 0 || err == nil {
		t.Errorf("after Close: %d, %v", n, err)
	}
	if _, ok := s.CID(); ok {
		t.Error("after Close: the CID is known")
	}
	if open.Load() != 0 {
		t.Errorf("%d sources are still open", open.Load())
	}
}

func TestArchiveOfAnotherSize(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(5000), 1024, 4, 1)
	var p car.Packer
	for _, off := range []int64{-1, 1, -5000, 5000} {
		a := car.NewArchive(blocks[0].Cid, blocks)
		a.Size += off
		s := p.Open(ctx, a)
		data, err := io.ReadAll(s)
		if err == nil || int64(len(data)) > a.Size {
			t.Errorf("%+d: %d bytes of %d, %v", off, len(data), a.Size, err)
		}
		if _, ok := s.CID(); ok {
			t.Errorf("%+d: the CID is known", off)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCorruptMemoryIsNotSent(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(5000), 1024, 4, 1)
	for i := range blocks {
		bad := slices.Clone(blocks)
		bad[i].Head = bytes.Clone(bad[i].Head)
		bad[i].Head[len(bad[i].Head)/2] ^= 0x10
		var p car.Packer
		s := p.Open(ctx, car.NewArchive(blocks[0].Cid, bad))
		data, err := io.ReadAll(s)
		if !errors.Is(err, car.ErrCorrupt) || errors.Is(err, car.ErrSourceChanged) || !strings.Contains(err.Error(), blocks[i].Cid.String()) {
			t.Errorf("block %d: %v", i, err)
		}
		if bytes.Contains(data, bad[i].Head) {
			t.Errorf("block %d: its bytes are handed out", i)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownHashFunction(t *testing.T) {
	t.Parallel()
	mh, err := multihash.Encode(make([]byte, 32), 0x3fff)
	if err != nil {
		t.Fatal(err)
	}
	b := car.Block{Cid: cid.NewCidV1(cid.Raw, mh), Head: []byte("x")}
	var p car.Packer
	s := p.Open(ctx, car.NewArchive(b.Cid, car.Blocks{b}))
	defer s.Close()
	if _, err := io.ReadAll(s); err == nil || !strings.Contains(err.Error(), "0x3fff") {
		t.Errorf("%v", err)
	}
}

// changing is a source whose bytes are replaced after some reads.
type changing struct {
	*memory
	after  atomic.Int64
	change func(m *memory) (car.SourceFile, error)
}

func (c *changing) Open() (car.SourceFile, error) {
	if c.after.Add(-1) < 0 {
		return c.change(c.memory)
	}
	return c.memory.Open()
}

func TestChangedSource(t *testing.T) {
	t.Parallel()
	data := mod251(9 << 20)
	described := boxoFile(t, data, 1<<20, 16, 1)
	src := &memory{"in/put.bin", data}
	var blocks car.Blocks
	var at int64
	for _, b := range described {
		if b.Cid.Prefix().Codec == cid.Raw {
			b = car.Block{Cid: b.Cid, Depth: b.Depth, Offset: at, Length: len(b.Head)}
			at += int64(b.Length)
		}
		blocks = append(blocks, b)
	}
	const leaf = 1 << 20
	for name, row := range map[string]struct {
		change func(m *memory) (car.SourceFile, error)
		offset int64 // of the first range that differs
		reason string
	}{
		"cut in a leaf": {func(m *memory) (car.SourceFile, error) {
			return memoryFile{bytes.NewReader(m.data[:6*leaf+100])}, nil
		}, 6*leaf + 100, "ends there"},
		"cut between leaves": {func(m *memory) (car.SourceFile, error) {
			return memoryFile{bytes.NewReader(m.data[:7*leaf])}, nil
		}, 7 * leaf, "ends there"},
		"emptied": {func(*memory) (car.SourceFile, error) { return memoryFile{bytes.NewReader(nil)}, nil }, 0, "ends there"},
		"last bit": {func(m *memory) (car.SourceFile, error) {
			d := bytes.Clone(m.data)
			d[len(d)-1] ^= 1
			return memoryFile{bytes.NewReader(d)}, nil
		}, 8 * leaf, "no longer those of block"},
		"first bit": {func(m *memory) (car.SourceFile, error) {
			d := bytes.Clone(m.data)
			d[0] ^= 0x80
			return memoryFile{bytes.NewReader(d)}, nil
		}, 0, "no longer those of block"},
		"grown at the front": {func(m *memory) (car.SourceFile, error) {
			return memoryFile{bytes.NewReader(append([]byte("!"), m.data...))}, nil
		}, 0, "no longer those of block"},
		"replaced": {func(m *memory) (car.SourceFile, error) {
			return memoryFile{bytes.NewReader(make([]byte, len(m.data)))}, nil
		}, 0, "no longer those of block"},
		"deleted": {func(m *memory) (car.SourceFile, error) {
			return nil, &car.SourceChangedError{Name: m.name, Reason: "it is gone"}
		}, 0, "it is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := slices.Clone(blocks)
			s := &changing{memory: src, change: row.change}
			s.after.Store(0)
			for i := range changed {
				if changed[i].Length > 0 {
					changed[i].Source = s
				}
			}
			var p car.Packer
			stream := p.Open(ctx, car.NewArchive(blocks[0].Cid, changed))
			defer stream.Close()
			got, err := io.ReadAll(stream)
			var sce *car.SourceChangedError
			if !errors.Is(err, car.ErrSourceChanged) || errors.Is(err, car.ErrCorrupt) || !errors.As(err, &sce) {
				t.Fatalf("error %v", err)
			}
			if sce.Name != "in/put.bin" || sce.Offset != row.offset || !strings.Contains(err.Error(), row.reason) {
				t.Errorf("%v, want offset %d and %q", err, row.offset, row.reason)
			}
			// What was handed out is a prefix of the described archive.
			if !bytes.HasPrefix(pack(t, described[0].Cid, described), got) {
				t.Error("changed bytes are handed out")
			}
			if err2 := func() error { _, err := stream.Read(make([]byte, 1)); return err }(); !errors.Is(err2, car.ErrSourceChanged) {
				t.Errorf("the next read says %v", err2)
			}
		})
	}
}

func TestSourceErrors(t *testing.T) {
	t.Parallel()
	data := []byte("some bytes")
	bad := errors.New("disk on fire")
	for name, s := range map[string]car.Source{
		"open": &changing{memory: &memory{"f", data}, change: func(*memory) (car.SourceFile, error) { return nil, bad }},
		"read": &changing{memory: &memory{"f", data}, change: func(*memory) (car.SourceFile, error) { return failing{bad}, nil }},
	} {
		b := car.Block{Cid: sum(t, cid.Raw, multihash.SHA2_256, data), Source: s, Length: len(data)}
		var p car.Packer
		stream := p.Open(ctx, car.NewArchive(b.Cid, car.Blocks{b}))
		if _, err := io.ReadAll(stream); !errors.Is(err, bad) || errors.Is(err, car.ErrSourceChanged) {
			t.Errorf("%s: %v", name, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }
func (f failing) Close() error                      { return nil }

// byValue is a source that is not comparable.
type byValue struct {
	memory
	_ []byte
}

func (v byValue) Name() string                  { return v.memory.Name() }
func (v byValue) Size() int64                   { return v.memory.Size() }
func (v byValue) Open() (car.SourceFile, error) { return v.memory.Open() }

func TestUncomparableSource(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(3000), 1000, 8, 1)
	want := pack(t, blocks[0].Cid, blocks)
	fromSource, src := spread(t, blocks, same)
	for i := range fromSource {
		fromSource[i].Source = byValue{memory: *src}
	}
	a := car.NewArchive(blocks[0].Cid, fromSource)
	var p car.Packer
	s := p.Open(ctx, a)
	defer s.Close()
	if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Streams of one packer do not interfere with each other.
func TestPackerIsShared(t *testing.T) {
	t.Parallel()
	var p car.Packer
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			blocks, _ := spread(t, boxoFile(t, mod251(i*700_000+i), 1<<(12+i), 8, i%2), same)
			want := sha256.Sum256(pack(t, blocks[0].Cid, blocks))
			for range 3 {
				s := p.Open(ctx, car.NewArchive(blocks[0].Cid, blocks))
				if _, err := s.WriteTo(io.Discard); err != nil {
					t.Error(err)
				}
				if c, ok := s.CID(); !ok || c != car.CID(want) {
					t.Errorf("CID %s, %t", c, ok)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// An HTTP transport that knows the length reads no further than the last byte
// and closes the body. The next archive may then take the buffer. The CID of
// the first must still be right.
func TestCIDAfterClose(t *testing.T) {
	t.Parallel()
	one := car.Blocks{block(t, cid.Raw, multihash.SHA2_256, 0, bytes.Repeat([]byte("one "), 64<<10))}
	two := car.Blocks{block(t, cid.Raw, multihash.SHA2_256, 0, bytes.Repeat([]byte("two "), 64<<10))}
	var p car.Packer
	for range 20 { // a sync.Pool may drop a buffer
		a := car.NewArchive(one[0].Cid, one)
		s := p.Open(ctx, a)
		data := make([]byte, a.Size)
		if _, err := io.ReadFull(s, data); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		other := p.Open(ctx, car.NewArchive(two[0].Cid, two))
		if _, err := io.Copy(io.Discard, other); err != nil {
			t.Fatal(err)
		}
		got, ok := s.CID()
		if want := car.CID(sha256.Sum256(data)); !ok || got != want {
			t.Fatalf("CID %s, %v, want %s", got, ok, want)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The piece of an archive is the piece of its bytes, however they are read. It
// is computed only if the packer is asked to.
func TestStreamPiece(t *testing.T) {
	t.Parallel()
	packer := car.Packer{Pieces: true}
	for _, size := range []int{0, 60, 5000, 1 << 20, 5 << 20} {
		leaves := make(car.Blocks, 1+size>>20)
		for i := range leaves {
			leaves[i] = block(t, cid.Raw, multihash.SHA2_256, 0, bytes.Repeat([]byte{byte(i)}, size/len(leaves)))
		}
		a := car.NewArchive(leaves[0].Cid, leaves)
		data := pack(t, a.Root, leaves)
		var calc commp.Calc
		_, _ = calc.Write(data)
		digest, padded, err := calc.Digest()
		if err != nil {
			t.Fatal(err)
		}
		want := piece.Piece{Commitment: [32]byte(digest), RawSize: int64(len(data))}
		for name, read := range map[string]func(*car.Stream) error{
			"Read":    func(s *car.Stream) error { _, err := readSteps(s, 1000); return err },
			"WriteTo": func(s *car.Stream) error { _, err := s.WriteTo(io.Discard); return err },
			// As an HTTP transport that knows the length.
			"exact": func(s *car.Stream) error { _, err := io.ReadFull(s, make([]byte, a.Size)); return err },
		} {
			s := packer.Open(ctx, a)
			if p, ok := s.Piece(); ok {
				t.Errorf("%d bytes: piece %v before the first byte", size, p)
			}
			if err := read(s); err != nil {
				t.Fatal(err)
			}
			if name != "exact" { // either before Close or only after it
				s.Piece()
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if p, ok := s.Piece(); !ok || p != want || p.PaddedSize() != int64(padded) {
				t.Errorf("%d bytes, %s: piece %v, %t, want %v", size, name, p, ok, want)
			}
		}
		s := packer.Open(ctx, a)
		if _, err := io.CopyN(io.Discard, s, a.Size-1); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if p, ok := s.Piece(); ok {
			t.Errorf("%d bytes: piece %v without the last byte", size, p)
		}
		s = new(car.Packer).Open(ctx, a)
		if err := errors.Join(func() error { _, err := s.WriteTo(io.Discard); return err }(), s.Close()); err != nil {
			t.Fatal(err)
		}
		if p, ok := s.Piece(); ok {
			t.Errorf("%d bytes: piece %v that nobody asked for", size, p)
		}
	}
}
