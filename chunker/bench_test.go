package chunker_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/chunker"
)

// nowhere is a DAG service that stores nothing: all that an importer needs, and
// the fastest possible.
type nowhere struct{ ipld.DAGService }

func (nowhere) Add(context.Context, ipld.Node) error       { return nil }
func (nowhere) AddMany(context.Context, []ipld.Node) error { return nil }

// boxoTree imports the files of one directory with boxo.
func boxoTree(ctx context.Context, dir string, p chunker.Profile) (cid.Cid, error) {
	prefix := cid.Prefix{Version: uint64(p.CidVersion), Codec: cid.DagProtobuf, MhType: multihash.SHA2_256, MhLength: -1}
	d, err := uio.NewDirectory(nowhere{}, uio.WithCidBuilder(prefix), uio.WithMaxHAMTFanout(p.Fanout), uio.WithSizeEstimationMode(uio.SizeEstimationBlock))
	if err != nil {
		return cid.Undef, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return cid.Undef, err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return cid.Undef, err
		}
		params := helpers.DagBuilderParams{Maxlinks: p.Width, RawLeaves: p.RawLeaves, CidBuilder: prefix, Dagserv: nowhere{}}
		db, err := params.New(chunk.NewSizeSplitter(f, int64(p.ChunkBytes)))
		if err != nil {
			return cid.Undef, err
		}
		nd, err := balanced.Layout(db)
		if err != nil {
			return cid.Undef, err
		}
		if err := f.Close(); err != nil {
			return cid.Undef, err
		}
		if err := d.AddChild(ctx, e.Name(), nd); err != nil {
			return cid.Undef, err
		}
	}
	nd, err := d.GetNode()
	if err != nil {
		return cid.Undef, err
	}
	return nd.Cid(), nil
}

// smallFiles makes a directory of n files of 4 KiB, in memory if possible.
func smallFiles(b *testing.B, n int) string {
	b.Helper()
	dir := b.TempDir()
	content := bytes.Repeat([]byte("carload."), 512)
	for i := range n {
		copy(content, fmt.Sprintf("%08d", i))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.json", i)), content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// BenchmarkSmallFiles describes directories of files of 4 KiB, with carload and
// with boxo. The roots must agree.
func BenchmarkSmallFiles(b *testing.B) {
	p := chunker.UnixFSv1()
	for _, n := range []int{10_000, 100_000} {
		var dir, root string // shared by the two sides
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			dir = smallFiles(b, n)
			side := func(name string, f func() (cid.Cid, error)) {
				b.Run(name, func(b *testing.B) {
					b.SetBytes(int64(n) * 4096)
					b.ReportAllocs()
					for b.Loop() {
						c, err := f()
						if err != nil {
							b.Fatal(err)
						}
						if root == "" {
							root = c.String()
						}
						if c.String() != root {
							b.Fatalf("root %s, want %s", c, root)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/file")
				})
			}
			side("carload", func() (cid.Cid, error) {
				d, err := chunker.BuildTree(b.Context(), dir, chunker.Options{})
				if err != nil {
					return cid.Undef, err
				}
				return d.Root(), nil
			})
			side("boxo", func() (cid.Cid, error) { return boxoTree(b.Context(), dir, p) })
		})
	}
}
