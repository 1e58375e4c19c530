package car_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
)

// manySources makes one block in each of n sources.
func manySources(t testing.TB, n int, open, opened *atomic.Int64) (car.Blocks, [][]byte) {
	t.Helper()
	var blocks car.Blocks
	var payloads [][]byte
	for i := range n {
		data := fmt.Appendf(nil, "payload %d", i)
		b := block(t, cid.Raw, multihash.SHA2_256, 0, data)
		b.Head, b.Length, b.Source = nil, len(data), counting{&memory{fmt.Sprint(i), data}, open, opened}
		blocks = append(blocks, b)
		payloads = append(payloads, data)
	}
	return blocks, payloads
}

func TestLoader(t *testing.T) {
	t.Parallel()
	var open, opened atomic.Int64
	blocks, want := manySources(t, 100, &open, &opened)
	var l car.Loader
	for range 3 {
		got, err := l.LoadAll(ctx, blocks)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("payload %d is %q", i, got[i])
			}
		}
		if n := open.Load(); n == 0 || n > 16 {
			t.Errorf("%d sources are open", n)
		}
	}
	before := opened.Load()
	for i := range 100 {
		k := i % 10 // the same few again and again
		got, err := l.Load(ctx, blocks[k])
		if err != nil || !bytes.Equal(got, want[k]) {
			t.Fatalf("payload %d is %q, %v", k, got, err)
		}
	}
	if n := opened.Load() - before; n > 10 {
		t.Errorf("10 sources were opened %d times", n)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("%d sources are open after Close", n)
	}
	if got, err := l.Load(ctx, blocks[1]); err != nil || !bytes.Equal(got, want[1]) {
		t.Errorf("after Close: %q, %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLoaderChecks(t *testing.T) {
	t.Parallel()
	good := block(t, cid.Raw, multihash.SHA2_256, 0, []byte("good"))
	bad := good
	bad.Head = nil
	bad.Source, bad.Length = &memory{"f", []byte("evil")}, 4
	var l car.Loader
	defer l.Close()
	if _, err := l.LoadAll(ctx, []car.Block{good, bad}); !errors.Is(err, car.ErrSourceChanged) {
		t.Errorf("changed: %v", err)
	}
	bad.Claimed = true
	if _, err := l.Load(ctx, bad); !errors.Is(err, car.ErrCorrupt) || !strings.Contains(err.Error(), good.Cid.String()) {
		t.Errorf("claimed: %v", err)
	}
	if p, err := l.Read(bad, make([]byte, 0, 1)); err != nil || string(p) != "evil" {
		t.Errorf("read as it is: %q, %v", p, err)
	}
	if got, err := l.Load(ctx, good); err != nil || string(got) != "good" {
		t.Errorf("after errors: %q, %v", got, err)
	}
}

func TestMismatch(t *testing.T) {
	t.Parallel()
	var cids []cid.Cid
	var payloads [][]byte
	for i, hash := range []uint64{multihash.SHA2_256, multihash.SHA2_512, multihash.SHA2_256, multihash.BLAKE3, multihash.SHA1, multihash.SHA2_256} {
		p := []byte{byte(i)}
		payloads = append(payloads, p)
		cids = append(cids, sum(t, cid.Raw, hash, p))
	}
	if bad, err := car.Mismatch(cids, payloads); bad != -1 || err != nil {
		t.Errorf("all right: %d, %v", bad, err)
	}
	for i := range payloads {
		payloads[i][0] ^= 0x80
		if bad, err := car.Mismatch(cids, payloads); bad != i || err != nil {
			t.Errorf("payload %d: %d, %v", i, bad, err)
		}
		payloads[i][0] ^= 0x80
	}
	for name, mh := range map[string]string{"an unknown function": "\xff\x7f\x20" + strings.Repeat("x", 32), "a digest of nothing": "\x12\x00"} {
		cids[3] = cid.NewCidV1(cid.Raw, multihash.Multihash(mh))
		if bad, err := car.Mismatch(cids, payloads); bad != 3 || err == nil {
			t.Errorf("%s: %d, %v", name, bad, err)
		}
	}
	if bad, err := car.Mismatch(nil, nil); bad != -1 || err != nil {
		t.Errorf("nothing: %d, %v", bad, err)
	}
}

// Shards are indexed together, and one index serves many goroutines.
func TestIndexOfShards(t *testing.T) {
	t.Parallel()
	want := boxoFile(t, mod251(300_000), 1024, 8, 1)
	root := want[0]
	x := new(car.Index)
	sections := 0
	for from := 1; from < len(want); from += 40 {
		part := append(car.Blocks{root}, want[from:min(from+40, len(want))]...)
		c, err := x.Add(ctx, &memory{fmt.Sprintf("%d.car", from), pack(t, root.Cid, part)})
		if err != nil {
			t.Fatal(err)
		}
		if sections > 0 && c.Duplicates < 1 {
			t.Errorf("%d duplicates", c.Duplicates)
		}
		sections += c.Sections
	}
	if x.Len() != len(want) {
		t.Errorf("%d blocks, want %d", x.Len(), len(want))
	}
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			d, err := x.DAG(ctx, root.Cid)
			if err != nil {
				return err
			}
			if d.Len() != len(want) {
				return fmt.Errorf("%d blocks", d.Len())
			}
			var p car.Packer
			s := p.Open(ctx, car.NewArchive(root.Cid, d))
			defer s.Close()
			_, err = s.WriteTo(new(bytes.Buffer))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	for _, c := range []cid.Cid{cid.Undef, sum(t, cid.Raw, multihash.SHA2_256, []byte("other")), sum(t, cid.Raw, multihash.SHA2_512, []byte("other"))} {
		if b, ok := x.Find(c); ok {
			t.Errorf("%s is found at %d", c, b.Offset)
		}
	}
	if _, ok := new(car.Index).Find(root.Cid); ok {
		t.Error("an empty index finds a block")
	}
}

func TestIndexOfTooManyKinds(t *testing.T) {
	t.Parallel()
	var blocks car.Blocks
	for i := range 5000 {
		blocks = append(blocks, block(t, uint64(0x300000+i), multihash.SHA2_256, 0, []byte{byte(i), byte(i >> 8)}))
	}
	x := new(car.Index)
	if _, err := x.Add(ctx, &memory{"x.car", pack(t, blocks[0].Cid, blocks)}); !errors.Is(err, car.ErrMalformed) {
		t.Errorf("%v", err)
	}
}

// sections is an archive of many blocks, which is made as it is read.
type sections struct {
	n, size int
	header  []byte
}

func (s *sections) Name() string                  { return "made up" }
func (s *sections) section() int64                { return int64(2 + 36 + s.size) }
func (s *sections) Size() int64                   { return int64(len(s.header)) + int64(s.n)*s.section() }
func (s *sections) Open() (car.SourceFile, error) { return s, nil }
func (s *sections) Close() error                  { return nil }

func (s *sections) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		at := off + int64(i)
		if at < int64(len(s.header)) {
			p[i] = s.header[at]
			continue
		}
		at -= int64(len(s.header))
		number, in := at/s.section(), at%s.section()
		body := uint64(36 + s.size)
		switch {
		case in == 0:
			p[i] = byte(body) | 0x80
		case in == 1:
			p[i] = byte(body >> 7)
		case in < 6:
			p[i] = "\x01\x55\x12\x20"[in-2]
		case in < 14:
			p[i] = byte(uint64(number) * 0x9e3779b97f4a7c15 >> (8 * (in - 6)))
		default:
			p[i] = 0
		}
	}
	return len(p), nil
}

// An index takes some 60 bytes a block.
func TestIndexMemory(t *testing.T) {
	root := sum(t, cid.Raw, multihash.SHA2_256, []byte("root"))
	src := &sections{n: 200_000, size: 130, header: car.AppendHeader(nil, root)}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := new(car.Index)
	c, err := x.Add(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if c.Sections != src.n || x.Len() != src.n || c.Payload != int64(src.n*src.size) {
		t.Errorf("%+v", c)
	}
	perBlock := float64(after.HeapAlloc-before.HeapAlloc) / float64(src.n)
	if perBlock > 64 {
		t.Errorf("%.1f bytes a block", perBlock)
	}
	runtime.KeepAlive(x)
}
