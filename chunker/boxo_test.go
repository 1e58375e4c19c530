package chunker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	mdtest "github.com/ipfs/boxo/ipld/merkledag/test"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/boxo/ipld/unixfs/importer/trickle"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

// boxo applies a profile with IPFS's own code.
type boxo struct {
	p     chunker.Profile
	stat  chunker.Stat
	serve ipld.DAGService
}

func newBoxo(p chunker.Profile) boxo { return boxo{p: p, serve: mdtest.Mock()} }

func (x boxo) prefix() cid.Prefix {
	return cid.Prefix{Version: uint64(x.p.CidVersion), Codec: cid.DagProtobuf, MhType: multihash.SHA2_256, MhLength: -1}
}

func (x boxo) file(r io.Reader) (ipld.Node, error) {
	params := helpers.DagBuilderParams{
		Maxlinks: x.p.Width, RawLeaves: x.p.RawLeaves && x.stat == (chunker.Stat{}), CidBuilder: x.prefix(), Dagserv: x.serve,
		FileMode: x.stat.Mode, FileModTime: x.stat.ModTime,
	}
	spec := x.p.Chunker
	if spec == "" {
		spec = fmt.Sprintf("size-%d", x.p.ChunkBytes)
	}
	s, err := chunk.FromString(r, spec)
	if err != nil {
		return nil, err
	}
	db, err := params.New(s)
	if err != nil {
		return nil, err
	}
	if x.p.Layout == chunker.Trickle {
		return trickle.Layout(db)
	}
	return balanced.Layout(db)
}

func (x boxo) dir(ctx context.Context, entries map[string]ipld.Node) (ipld.Node, error) {
	opts := []uio.DirectoryOption{uio.WithCidBuilder(x.prefix()), uio.WithMaxHAMTFanout(x.p.Fanout), uio.WithStat(x.stat.Mode, x.stat.ModTime)}
	switch x.p.HAMT.Rule {
	case chunker.LinksCount:
		most := x.p.HAMT.Limit
		if x.p.HAMT.AtLimit {
			most--
		}
		opts = append(opts, uio.WithSizeEstimationMode(uio.SizeEstimationDisabled), uio.WithMaxLinks(most))
	case chunker.BlockBytes:
		opts = append(opts, uio.WithSizeEstimationMode(uio.SizeEstimationBlock))
	default:
		opts = append(opts, uio.WithSizeEstimationMode(uio.SizeEstimationLinks))
	}
	d, err := uio.NewDirectory(x.serve, opts...)
	if err != nil {
		return nil, err
	}
	if x.p.HAMT.Rule == chunker.LinksBytes || x.p.HAMT.Rule == chunker.BlockBytes {
		d.SetHAMTShardingSize(x.p.HAMT.Limit)
	}
	for name, nd := range entries {
		if err := d.AddChild(ctx, name, nd); err != nil {
			return nil, err
		}
	}
	nd, err := d.GetNode()
	if err != nil {
		return nil, err
	}
	return nd, x.serve.Add(ctx, nd)
}

func (x boxo) symlink(target string) (ipld.Node, error) {
	data, err := unixfs.SymlinkData(target)
	if err != nil {
		return nil, err
	}
	nd := merkledag.NodeWithData(data)
	return nd, nd.SetCidBuilder(x.prefix())
}

// bytesSource is a source in memory.
type bytesSource []byte

func (s bytesSource) Name() string                  { return fmt.Sprintf("%d bytes", len(s)) }
func (s bytesSource) Size() int64                   { return int64(len(s)) }
func (s bytesSource) Open() (car.SourceFile, error) { return nopCloser{bytes.NewReader(s)}, nil }

type nopCloser struct{ io.ReaderAt }

func (nopCloser) Close() error { return nil }

func random(n int, seed uint64) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	if _, err := rng.Read(p); err != nil {
		panic(err)
	}
	return p
}

func with(t *testing.T, name string, parts ...string) chunker.Profile {
	t.Helper()
	p, err := chunker.ProfileNamed(strings.Join(append([]string{name}, parts...), "+"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFilesLikeBoxo combines ways to cut and lay out a file with sizes around
// their boundaries.
func TestFilesLikeBoxo(t *testing.T) {
	t.Parallel()
	fixed := func(chunk, width int) []int {
		sizes := []int{0, 1}
		for _, n := range []int{chunk, 2 * chunk, width * chunk, (width + 1) * chunk, 5 * width * chunk, width * width * chunk, 5 * width * width * chunk} {
			sizes = append(sizes, n-1, n, n+1)
		}
		return sizes
	}
	big := []int{0, 1, 16, 87_380, 87_381, 87_382, 131_071, 131_072, 131_073, 262_144, 524_288, 524_289, 2_500_000}
	for _, tt := range []struct {
		parts []string
		sizes []int
	}{
		{[]string{"size-100", "width-3"}, fixed(100, 3)},
		{[]string{"size-100", "width-3", "trickle"}, fixed(100, 3)},
		{[]string{"size-37", "width-2", "trickle"}, fixed(37, 2)},
		{[]string{"rabin"}, big},
		{[]string{"rabin-16384"}, big},
		{[]string{"rabin-16-32-64", "width-5"}, []int{0, 15, 16, 17, 64, 1000, 4999, 50_000}},
		{[]string{"rabin-1000-3000-9000", "width-4", "trickle"}, []int{0, 999, 1000, 1001, 9000, 300_000}},
		{[]string{"buzhash"}, big},
		{[]string{"buzhash", "width-3", "trickle"}, big},
	} {
		for _, name := range []string{"unixfs-v1-2025", "unixfs-v0-2015", "unixfs-v0-2015+raw-leaves"} {
			p := with(t, name, tt.parts...)
			t.Run(p.Name, func(t *testing.T) {
				t.Parallel()
				for i, size := range tt.sizes {
					data := random(size, uint64(i))
					want, err := newBoxo(p).file(bytes.NewReader(data))
					if err != nil {
						t.Fatal(err)
					}
					d, err := chunker.Build(t.Context(), bytesSource(data), chunker.Options{Profile: p})
					if err != nil {
						t.Fatal(err)
					}
					// The same file in a tree takes another code path.
					tree := chunker.NewTree()
					if err := tree.AddFile("f", bytesSource(data), chunker.Stat{}); err != nil {
						t.Fatal(err)
					}
					td, err := tree.Build(t.Context(), chunker.Options{Profile: p})
					if err != nil {
						t.Fatal(err)
					}
					tsize, err := want.Size()
					if err != nil {
						t.Fatal(err)
					}
					if !d.Root().Equals(want.Cid()) || d.TotalSize() != int64(tsize) || d.Size() != int64(size) {
						t.Errorf("%d bytes: root %s, tsize %d, want %s, %d", size, d.Root(), d.TotalSize(), want.Cid(), tsize)
					}
					if b := td.At(1); !b.Cid.Equals(want.Cid()) {
						t.Errorf("%d bytes: in a tree it is %s, want %s", size, b.Cid, want.Cid())
					}
					checkList(t, d)
				}
			})
		}
	}
}

// TestTreesLikeBoxo compares directories around the limits at which they
// become a HAMT, under all profiles and fan-outs.
func TestTreesLikeBoxo(t *testing.T) {
	t.Parallel()
	profiles := chunker.Profiles()
	profiles = append(profiles,
		with(t, "kubo-cidv1", "fanout-8", "hamt-links-count>10"), with(t, "kubo-cidv1", "fanout-1024", "hamt-links-count>10"),
		with(t, "unixfs-v0-2015", "fanout-16", "hamt-block-bytes>1000"), with(t, "unixfs-v1-2025", "hamt-links-bytes>1000", "trickle"))
	for _, p := range profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			for _, n := range []int{0, 1, 10, 11, 998, 999, 1000, 1001, 5000} {
				x := newBoxo(p)
				tree := chunker.NewTree()
				entries := map[string]ipld.Node{}
				for i := range n {
					name := fmt.Sprintf("%d-%s.", i, strings.Repeat([]string{"a", "é", "\uff5e", "😀", " \n"}[i%5], i%40)) // no trailing blank, which two profiles refuse
					var nd ipld.Node
					var err error
					if i%7 == 3 {
						if nd, err = x.symlink(name); err == nil {
							err = tree.AddSymlink(name, name, chunker.Stat{})
						}
					} else {
						if nd, err = x.file(strings.NewReader(name)); err == nil {
							err = tree.AddFile(name, bytesSource(name), chunker.Stat{})
						}
					}
					if err != nil {
						t.Fatal(err)
					}
					entries[name] = nd
				}
				want, err := x.dir(t.Context(), entries)
				if err != nil {
					t.Fatal(err)
				}
				d, err := tree.Build(t.Context(), chunker.Options{Profile: p})
				if err != nil {
					t.Fatal(err)
				}
				tsize, err := want.Size()
				if err != nil {
					t.Fatal(err)
				}
				if !d.Root().Equals(want.Cid()) || d.TotalSize() != int64(tsize) {
					t.Errorf("%d entries: root %s, tsize %d, want %s, %d", n, d.Root(), d.TotalSize(), want.Cid(), tsize)
				}
				checkList(t, d)
			}
		})
	}
}

// TestStatLikeBoxo stores modes and times in files, directories and HAMTs.
func TestStatLikeBoxo(t *testing.T) {
	t.Parallel()
	for _, stat := range stats() {
		for _, n := range []int{3, 50} {
			for _, size := range []int{0, 5, 100, 1000} {
				p := with(t, "kubo-cidv1", "size-100", "width-4", "hamt-links-count>10")
				x := newBoxo(p)
				x.stat = stat
				data := random(size, uint64(size))
				nd, err := x.file(bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				tree := chunker.NewTree()
				entries := map[string]ipld.Node{}
				for i := range n {
					name := fmt.Sprint(i)
					entries[name] = nd
					if err := tree.AddFile(name, bytesSource(data), stat); err != nil {
						t.Fatal(err)
					}
				}
				want, err := x.dir(t.Context(), entries)
				if err != nil {
					t.Fatal(err)
				}
				if err := tree.AddDir("", stat); err != nil {
					t.Fatal(err)
				}
				d, err := tree.Build(t.Context(), chunker.Options{Profile: p})
				if err != nil {
					t.Fatal(err)
				}
				if !d.Root().Equals(want.Cid()) {
					t.Errorf("%v, %d entries of %d bytes: root %s, want %s", stat, n, size, d.Root(), want.Cid())
				}
				checkList(t, d)
			}
		}
	}
}
