package copying_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/copying"
	"github.com/carload/carload/uploader/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a source of blocks that counts requests.
type memory struct {
	mu     sync.Mutex
	blocks map[string][]byte // by multihash
	asked  map[string]int
}

func newMemory() *memory { return &memory{blocks: map[string][]byte{}, asked: map[string]int{}} }

func (m *memory) String() string { return "memory" }

func (m *memory) FetchBlock(_ context.Context, c cid.Cid, _ int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked[string(c.Hash())]++
	data, ok := m.blocks[string(c.Hash())]
	if !ok {
		return nil, uploader.ErrNotFound
	}
	return data, nil
}

// add adds the blocks of an archive.
func (m *memory) add(t *testing.T, archive []byte) (root cid.Cid) {
	t.Helper()
	r, err := car.NewReader(bytes.NewReader(archive), car.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Roots[0]
		}
		if err != nil {
			t.Fatal(err)
		}
		m.blocks[string(s.Cid.Hash())] = bytes.Clone(s.Data)
	}
}

// withArchives is a source that also returns whole DAGs.
type withArchives struct{ *memory }

func (w withArchives) FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked["archives"]++
	list := blocksBelow(w.memory, root, map[string]bool{})
	var p car.Packer
	return p.Open(ctx, car.NewArchive(root, list)), nil
}

func blocksBelow(m *memory, c cid.Cid, seen map[string]bool) car.Blocks {
	if seen[c.KeyString()] {
		return nil
	}
	seen[c.KeyString()] = true
	out := car.Blocks{{Cid: c, Head: m.blocks[string(c.Hash())]}}
	if c.Prefix().Codec == cid.DagProtobuf {
		n, err := merkledag.DecodeProtobuf(m.blocks[string(c.Hash())])
		if err != nil {
			return out
		}
		for _, l := range n.Links() {
			out = append(out, blocksBelow(m, l.Cid, seen)...)
		}
	}
	return out
}

// packed returns the whole DAG of a path in one archive.
func packed(t *testing.T, path string, p chunker.Profile) []byte {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	var in uploader.Input
	if info.IsDir() {
		tree := chunker.NewTree()
		if err := tree.AddDisk("", path); err != nil {
			t.Fatal(err)
		}
		in = uploader.Tree(path, tree, chunker.Options{Profile: p})
	} else if in, err = uploader.File(path, chunker.Options{Profile: p}); err != nil {
		t.Fatal(err)
	}
	dag, err := in.Describe(t.Context(), new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	var packer car.Packer
	return readAll(t, packer.Open(t.Context(), car.NewArchive(dag.Root(), dag)))
}

func readAll(t *testing.T, s *car.Stream) []byte {
	t.Helper()
	var out bytes.Buffer
	_, err := s.WriteTo(&out)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func with(t *testing.T, p chunker.Profile, parts ...string) chunker.Profile {
	t.Helper()
	p, err := chunker.ProfileNamed(p.Name + "+" + strings.Join(parts, "+"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t *testing.T, path string, seed byte, size int) {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// archives returns DAGs of many shapes, by name.
func archives(t *testing.T) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big"), 1, 5_000_000)
	write(t, filepath.Join(dir, "small"), 2, 100)
	write(t, filepath.Join(dir, "empty"), 2, 0)
	tree := filepath.Join(dir, "tree")
	for i := range 40 {
		write(t, filepath.Join(tree, fmt.Sprintf("d%d", i%3), fmt.Sprint("f", i)), byte(i/2), 1+i*i*100) // each twice
	}
	write(t, filepath.Join(tree, "d0", "large"), 77, 2_500_000)
	write(t, filepath.Join(tree, "d2", "large again"), 77, 2_500_000)
	write(t, filepath.Join(tree, "d2", "nothing"), 77, 0)
	if err := os.WriteFile(filepath.Join(tree, "zeros"), make([]byte, 3_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	many := filepath.Join(dir, "many")
	for i := range 300 {
		write(t, filepath.Join(many, fmt.Sprintf("file %03d", i)), byte(i), 15_000+i)
	}
	v1, v0 := chunker.UnixFSv1(), chunker.UnixFSv0()
	all := map[string][]byte{
		"file":                 packed(t, filepath.Join(dir, "big"), with(t, v1, "size-40000", "width-7")),
		"file in large leaves": packed(t, filepath.Join(dir, "big"), v1),
		"file of version 0":    packed(t, filepath.Join(dir, "big"), with(t, v0, "size-65536", "width-5")),
		"one block":            packed(t, filepath.Join(dir, "small"), v1),
		"one node":             packed(t, filepath.Join(dir, "small"), v0),
		"nothing":              packed(t, filepath.Join(dir, "empty"), v1),
		"trickle":              packed(t, filepath.Join(dir, "big"), with(t, v0, "trickle", "size-65536")),
		"tree":                 packed(t, tree, v1),
		"tree of version 0":    packed(t, tree, with(t, v0, "size-65536")),
		"sharded directory":    packed(t, many, with(t, v1, "hamt-links-count>=20", "fanout-16")),
	}
	for _, name := range []string{"ti3", "inl-dir", "inline-root", "identity-root", "bs-fewer", "no-blocksizes", "bs-none-nosize", "no-filesize", "mtime-neg", "name-300"} {
		p, err := os.ReadFile(filepath.Join("..", "..", "testdata", "awkward", name+".car"))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = p
	}
	all["DAG-CBOR"] = cborOver(t, all["file"], all["one block"])
	all["DAG-CBOR of much"] = cborOver(t, all["file"], all["tree"], all["file of version 0"])
	return all
}

// cborOver returns a DAG-CBOR list of the roots of archives, with everything
// below.
func cborOver(t *testing.T, archives ...[]byte) []byte {
	t.Helper()
	m := newMemory()
	list := []byte{0x80 | byte(len(archives))}
	var below car.Blocks
	seen := map[string]bool{}
	for _, a := range archives {
		root := m.add(t, a)
		list = append(list, 0xd8, 42, 0x58, byte(1+root.ByteLen()), 0)
		list = append(list, root.Bytes()...)
	}
	for _, a := range archives {
		below = append(below, blocksBelow(m, m.add(t, a), seen)...)
	}
	mh, err := multihash.Sum(list, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	root := cid.NewCidV1(cid.DagCBOR, mh)
	var p car.Packer
	return readAll(t, p.Open(t.Context(), car.NewArchive(root, append(car.Blocks{{Cid: root, Head: list}}, below...))))
}

// file is an archive as a source.
type file []byte

func (file) Name() string                    { return "archive" }
func (f file) Size() int64                   { return int64(len(f)) }
func (f file) Open() (car.SourceFile, error) { return readerAt{bytes.NewReader(f)}, nil }

type readerAt struct{ *bytes.Reader }

func (readerAt) Close() error { return nil }

// TestShardsAreThoseOfTheArchive copies DAGs of many shapes. Their lists and
// shards are the same as from the archive of the same DAG.
func TestShardsAreThoseOfTheArchive(t *testing.T) {
	t.Parallel()
	const limit = 1_200_000
	for name, archive := range archives(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := car.Import(t.Context(), file(archive))
			if err != nil {
				t.Fatal(err)
			}
			m := newMemory()
			root := m.add(t, archive)
			for kind, src := range map[string]gateway.Source{"blocks": m, "archives": withArchives{m}} {
				pool := gateway.NewPool(gateway.Options{Retries: -1}, src)
				for _, exact := range []bool{false, true} {
					if exact && kind == "archives" {
						continue // it requests single blocks
					}
					clear(m.asked)
					in := copying.NewInput(t.Context(), pool, root, copying.Options{MaxShardBytes: limit, Exact: exact})
					dag, err := in.Describe(t.Context(), new(atomic.Int64))
					if err != nil {
						t.Fatalf("%s: %v", kind, err)
					}
					same(t, want, dag)
					compareShards(t, want, dag, limit)
					if kind == "blocks" && !exact && dag.Size() > 4<<20 && want.Root().Prefix().Codec == cid.DagProtobuf {
						m.leavesOnce(t, want)
					}
					again(t, in, dag, want)
				}
			}
		})
	}
}

// leavesOnce checks that leaves were requested only in pass 2, and only in the
// shard that they are in.
func (m *memory) leavesOnce(t *testing.T, want *car.DAG) {
	t.Helper()
	for i := range want.Len() {
		b := want.At(i)
		if n := m.asked[string(b.Cid.Hash())]; b.Cid.Prefix().Codec == cid.Raw && b.Size() > 0 && n != 1 {
			t.Errorf("block %d, %s of %d bytes, was asked for %d times", i, b.Cid, b.Size(), n)
		}
	}
}

func same(t *testing.T, want, got uploader.DAG) {
	t.Helper()
	if !got.Root().Equals(want.Root()) || got.Size() != want.Size() || got.Len() != want.Len() {
		t.Fatalf("%s of %d bytes in %d blocks, want %s of %d in %d", got.Root(), got.Size(), got.Len(), want.Root(), want.Size(), want.Len())
	}
	for i := range want.Len() {
		w, g := want.At(i), got.At(i)
		if !g.Cid.Equals(w.Cid) || g.Depth != w.Depth || g.Size() != w.Size() {
			t.Fatalf("block %d is %s, %d deep, of %d bytes, want %s, %d, %d", i, g.Cid, g.Depth, g.Size(), w.Cid, w.Depth, w.Size())
		}
	}
}

func compareShards(t *testing.T, want, got uploader.DAG, limit int64) {
	t.Helper()
	wantPlan, err := splitter.Split(want, splitter.Options{MaxShardBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	gotPlan, err := splitter.Split(got, splitter.Options{MaxShardBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	var p car.Packer
	for i := range wantPlan.Shards {
		a, b := readAll(t, p.Open(t.Context(), wantPlan.Archive(i))), readAll(t, p.Open(t.Context(), gotPlan.Archive(i)))
		if !bytes.Equal(a, b) {
			t.Fatalf("shard %d of %d has %d other bytes", i, len(wantPlan.Shards), len(b))
		}
	}
}

// again makes the DAG from its description, and from damaged ones.
func again(t *testing.T, in *copying.Input, dag, want uploader.DAG) {
	t.Helper()
	m, ok := dag.(interface{ MarshalBinary() ([]byte, error) })
	if !ok {
		if dag.Size() > 4<<20 {
			t.Error("a large DAG can't be kept")
		}
		return
	}
	plan, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	restored, err := in.Restore(plan)
	if err != nil {
		return // the input is exact, so it rejects descriptions
	}
	same(t, want, restored)
	for _, at := range []int{0, 1, len(plan) / 2, len(plan) - 1} {
		bad := slices.Clone(plan)
		bad[at] ^= 1
		if _, err := in.Restore(bad); err == nil {
			t.Errorf("a plan with another byte at %d is taken", at)
		}
		if _, err := in.Restore(plan[:at]); err == nil {
			t.Errorf("%d bytes of a plan are taken", at)
		}
	}
}

// liar makes a file whose node states wrong sizes of its leaves.
func liar(t *testing.T, m *memory, said func(i int, size uint64) (tsize, blocksize uint64), leaf func(data []byte) []byte, codec uint64) (root, first cid.Cid) {
	t.Helper()
	fs := unixfs.NewFSNode(unixfs.TFile)
	node := new(merkledag.ProtoNode)
	put := func(codec uint64, data []byte) cid.Cid {
		mh, err := multihash.Sum(data, multihash.SHA2_256, -1)
		if err != nil {
			t.Fatal(err)
		}
		m.blocks[string(mh)] = data
		return cid.NewCidV1(codec, mh)
	}
	for i := range 12 {
		data := make([]byte, 500_000)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		data = leaf(data)
		c := put(codec, data)
		if i == 0 {
			first = c
		}
		tsize, blocksize := said(i, uint64(len(data)))
		fs.AddBlockSize(blocksize)
		if err := node.AddRawLink("", &format.Link{Size: tsize, Cid: c}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := fs.GetBytes()
	if err != nil {
		t.Fatal(err)
	}
	node.SetData(p)
	return put(cid.DagProtobuf, node.RawData()), first
}

// TestLies: nodes may state wrong sizes of what is below them. The error names
// the block, and an input that relies on the blocks themselves succeeds.
func TestLies(t *testing.T) {
	t.Parallel()
	raw := func(p []byte) []byte { return p }
	honest := func(_ int, n uint64) (uint64, uint64) { return n, n }
	nested := newMemory()
	_, inner := liar(t, nested, honest, raw, cid.Raw)
	for name, test := range map[string]struct {
		said  func(int, uint64) (uint64, uint64)
		leaf  func([]byte) []byte
		codec uint64
		found bool
	}{
		"no lie":            {honest, raw, cid.Raw, false},
		"too small":         {func(_ int, n uint64) (uint64, uint64) { return n - 1, n - 1 }, raw, cid.Raw, true},
		"too large":         {func(_ int, n uint64) (uint64, uint64) { return n + 100, n + 100 }, raw, cid.Raw, true},
		"no sizes":          {func(int, uint64) (uint64, uint64) { return 0, 0 }, raw, cid.Raw, false},
		"beyond all blocks": {func(int, uint64) (uint64, uint64) { return 1 << 40, 1 << 40 }, raw, cid.Raw, false},
		"a leaf with links": {func(_ int, n uint64) (uint64, uint64) { return n, n - 10 }, func(p []byte) []byte {
			node := merkledag.NodeWithData(unixfs.FilePBData(p, uint64(len(p))))
			if err := node.AddRawLink("", &format.Link{Size: 500_000, Cid: inner}); err != nil {
				t.Fatal(err)
			}
			return node.RawData()
		}, cid.DagProtobuf, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			for k, v := range nested.blocks {
				m.blocks[k] = v
			}
			root, first := liar(t, m, test.said, test.leaf, test.codec)
			pool := gateway.NewPool(gateway.Options{Retries: -1}, m)
			read := func(exact bool) error {
				in := copying.NewInput(t.Context(), pool, root, copying.Options{Exact: exact})
				dag, err := in.Describe(t.Context(), new(atomic.Int64))
				if err != nil {
					t.Fatal(err)
				}
				var p car.Packer
				s := p.Open(t.Context(), car.NewArchive(root, dag))
				_, err = io.Copy(io.Discard, s)
				return errors.Join(err, s.Close())
			}
			var lie *copying.SizeError
			err := read(false)
			if errors.As(err, &lie) != test.found || !test.found && err != nil {
				t.Errorf("believed: %v", err)
			}
			if test.found && (!lie.Block.Equals(first) || !errors.Is(err, car.ErrSourceChanged)) {
				t.Errorf("believed: %v, want one of block %s", err, first)
			}
			if err := read(true); err != nil {
				t.Errorf("exact: %v", err)
			}
		})
	}
}

// TestLongShard reads shards longer than the input's MaxShardBytes.
func TestLongShard(t *testing.T) {
	t.Parallel()
	for name, archive := range archives(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := car.Import(t.Context(), file(archive))
			if err != nil {
				t.Fatal(err)
			}
			m := newMemory()
			root := m.add(t, archive)
			in := copying.NewInput(t.Context(), gateway.NewPool(gateway.Options{Retries: -1}, m), root, copying.Options{MaxShardBytes: 300_000})
			dag, err := in.Describe(t.Context(), new(atomic.Int64))
			if err != nil {
				t.Fatal(err)
			}
			compareShards(t, want, dag, 4_000_000)
		})
	}
}

// TestMissing: a block that no source has ends a copy, in either pass.
func TestMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), 1, 9_000_000)
	archive := packed(t, filepath.Join(dir, "f"), chunker.UnixFSv1())
	m := newMemory()
	root := m.add(t, archive)
	pool := gateway.NewPool(gateway.Options{Retries: -1}, m)
	in := copying.NewInput(t.Context(), pool, root, copying.Options{})
	dag, err := in.Describe(t.Context(), new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	delete(m.blocks, string(dag.At(dag.Len()-1).Cid.Hash()))
	var p car.Packer
	s := p.Open(t.Context(), car.NewArchive(root, dag))
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("pass 2: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	delete(m.blocks, string(root.Hash()))
	if _, err := in.Describe(t.Context(), new(atomic.Int64)); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("pass 1: %v", err)
	}
}

// The same bytes are a different block under each codec, including private ones
// (from 0x300000 on).
func TestCodecsOfPrivateUse(t *testing.T) {
	t.Parallel()
	m := newMemory()
	hash, err := multihash.Sum([]byte("x"), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	m.blocks[string(hash)] = []byte("x")
	var n merkledag.ProtoNode
	want := []cid.Cid{cid.NewCidV1(0x300000, hash), cid.NewCidV1(0x300001, hash)}
	for i, c := range want {
		if err := n.AddRawLink(fmt.Sprint(i), &format.Link{Size: 1, Cid: c}); err != nil {
			t.Fatal(err)
		}
	}
	m.blocks[string(n.Cid().Hash())] = n.RawData()
	dag, err := copying.NewInput(t.Context(), gateway.NewPool(gateway.Options{}, m), n.Cid(), copying.Options{}).Describe(t.Context(), new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	if dag.Len() != 3 || dag.At(1).Cid != want[0] || dag.At(2).Cid != want[1] {
		t.Errorf("%d blocks", dag.Len())
	}
}
