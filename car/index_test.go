package car_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/codec/dagjson"
	"github.com/ipld/go-ipld-prime/datamodel"
	"github.com/ipld/go-ipld-prime/fluent/qp"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

var ctx = context.Background()

// wrapV2 makes a CARv2 of a CARv1, with go-car's index and this much padding
// before and after the data.
func wrapV2(t testing.TB, v1 []byte, before, after int) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "v2.car"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := carv2.WrapV1(bytes.NewReader(v1), f); err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	const header = 11 + 40
	out := bytes.Clone(plain[:header])
	binary.LittleEndian.PutUint64(out[11+16:], uint64(header+before))
	binary.LittleEndian.PutUint64(out[11+32:], uint64(header+before+len(v1)+after))
	out = append(out, make([]byte, before)...)
	out = append(out, v1...)
	out = append(out, make([]byte, after)...)
	return append(out, plain[header+len(v1):]...)
}

func sameBlocks(t testing.TB, got, want car.List) {
	t.Helper()
	if got.Len() != want.Len() {
		t.Fatalf("%d blocks, want %d", got.Len(), want.Len())
	}
	for i := range got.Len() {
		g, w := got.At(i), want.At(i)
		if g.Cid != w.Cid || g.Depth != w.Depth || g.Size() != w.Size() {
			t.Fatalf("block %d is %s at depth %d with %d bytes, want %s, %d, %d", i, g.Cid, g.Depth, g.Size(), w.Cid, w.Depth, w.Size())
		}
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	for _, v := range []int{0, 1} {
		for _, size := range []int{0, 1, 1024, 1025, 5000, 100_000} {
			t.Run(fmt.Sprintf("v%d/%d", v, size), func(t *testing.T) {
				t.Parallel()
				want := boxoFile(t, mod251(size), 1024, 4, v)
				root := want[0].Cid
				v1 := pack(t, root, want)

				shuffled := slices.Clone(want)
				rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
				twice := append(slices.Clone(shuffled), shuffled...)

				for name, data := range map[string][]byte{
					"as written":      v1,
					"any order":       pack(t, root, shuffled),
					"duplicates":      pack(t, root, twice),
					"v2":              wrapV2(t, v1, 0, 0),
					"v2 with padding": wrapV2(t, v1, 1413, 99),
				} {
					d, err := car.Import(ctx, &memory{"x.car", data})
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					sameBlocks(t, d, want)
					if got := pack(t, d.Root(), d); !bytes.Equal(got, v1) {
						t.Errorf("%s: packed again it is another archive", name)
					}
					var n int64
					for _, b := range want {
						n += int64(b.Size())
					}
					if d.Size() != n {
						t.Errorf("%s: %d bytes, want %d", name, d.Size(), n)
					}
				}
			})
		}
	}
}

func sum(t testing.TB, codec, hash uint64, data []byte) cid.Cid {
	t.Helper()
	mh, err := multihash.Sum(data, hash, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(codec, mh)
}

func block(t testing.TB, codec, hash uint64, depth int, data []byte) car.Block {
	return car.Block{Cid: sum(t, codec, hash, data), Depth: depth, Head: data}
}

func linkList(t testing.TB, cids ...cid.Cid) datamodel.Node {
	t.Helper()
	n, err := qp.BuildMap(basicnode.Prototype.Any, -1, func(ma datamodel.MapAssembler) {
		qp.MapEntry(ma, "links", qp.List(-1, func(la datamodel.ListAssembler) {
			for _, c := range cids {
				qp.ListEntry(la, qp.Link(cidlink.Link{Cid: c}))
			}
		}))
		qp.MapEntry(ma, "text", qp.String("no link: "+cids[0].String()))
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func encode(t testing.TB, codec uint64, n datamodel.Node) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := dagcbor.Encode
	if codec == cid.DagJSON {
		enc = dagjson.Encode
	}
	if err := enc(n, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Links are followed through every codec that has them, and through CIDs that
// contain their block. Any hash function will do.
func TestImportFollowsLinks(t *testing.T) {
	t.Parallel()
	a := block(t, cid.Raw, multihash.SHA2_512, 4, []byte("a"))
	b := block(t, cid.Raw, multihash.BLAKE2B_MIN+31, 3, []byte("b"))
	c := block(t, cid.Raw, multihash.SHA2_256, 2, []byte("c"))
	e := block(t, 0x300000, multihash.SHA1, 1, []byte("a codec nobody knows"))
	inner := block(t, cid.DagJSON, multihash.SHA2_512, 3, encode(t, cid.DagJSON, linkList(t, a.Cid)))
	inline := sum(t, cid.DagCBOR, multihash.IDENTITY, encode(t, cid.DagCBOR, linkList(t, b.Cid, inner.Cid)))
	file := boxoFile(t, mod251(3000), 1024, 4, 0)
	for i := range file {
		file[i].Depth += 2
	}
	middle := block(t, cid.DagCBOR, multihash.SHA2_256, 1, encode(t, cid.DagCBOR, linkList(t, c.Cid, inline, file[0].Cid, c.Cid)))
	b.Depth, inner.Depth, a.Depth = 2, 2, 3
	root := block(t, cid.DagJSON, multihash.SHA2_256, 0, encode(t, cid.DagJSON, linkList(t, middle.Cid, e.Cid, c.Cid, a.Cid)))
	want := append(car.Blocks{root, middle, c, b, inner, a}, append(file, e)...)
	junk := block(t, cid.Raw, multihash.SHA2_256, 0, []byte("not part of the DAG"))
	data := pack(t, root.Cid, append(slices.Clone(want), junk))

	d, err := car.Import(ctx, &memory{"mixed.car", data})
	if err != nil {
		t.Fatal(err)
	}
	sameBlocks(t, d, want)
	if got := pack(t, d.Root(), d); !bytes.Equal(got, pack(t, root.Cid, want)) {
		t.Error("packed again it is another archive")
	}

	x := new(car.Index)
	contents, err := x.Add(ctx, &memory{"mixed.car", data})
	if err != nil {
		t.Fatal(err)
	}
	if contents.Sections != len(want)+1 || contents.Codecs[cid.DagJSON] != 2 || contents.Codecs[0x300000] != 1 {
		t.Errorf("contents %+v", contents)
	}
	for i, w := range append(want, junk) {
		if got := x.At(i); got.Cid != w.Cid || got.Size() != w.Size() {
			t.Errorf("block %d of the index is %s, want %s", i, got.Cid, w.Cid)
		}
		got, ok := x.Find(w.Cid)
		if !ok || got.Cid != w.Cid {
			t.Errorf("%s is not found", w.Cid)
		}
		data, err := new(car.Loader).Load(ctx, got)
		if err != nil || !bytes.Equal(data, w.Head) {
			t.Errorf("%s is loaded as %q, %v", w.Cid, data, err)
		}
	}
}

// A link and a section may name a block by CIDs that share only the multihash.
// The DAG uses the CID of the link.
func TestImportTakesTheCIDOfTheLink(t *testing.T) {
	t.Parallel()
	want := boxoFile(t, mod251(5000), 1024, 4, 0)
	stored := slices.Clone(want)
	for i := range stored {
		stored[i].Cid = cid.NewCidV1(cid.DagProtobuf, stored[i].Cid.Hash())
	}
	stored[0].Cid = want[0].Cid
	d, err := car.Import(ctx, &memory{"x.car", pack(t, want[0].Cid, stored)})
	if err != nil {
		t.Fatal(err)
	}
	sameBlocks(t, d, want)

	// A block that is data for one parent and a node for another appears as
	// both.
	leaf := block(t, cid.Raw, multihash.SHA2_256, 2, []byte("leaf"))
	node := block(t, cid.DagCBOR, multihash.SHA2_256, 1, encode(t, cid.DagCBOR, linkList(t, leaf.Cid)))
	asRaw := node
	asRaw.Cid = cid.NewCidV1(cid.Raw, node.Cid.Hash())
	root := block(t, cid.DagCBOR, multihash.SHA2_256, 0, encode(t, cid.DagCBOR, linkList(t, asRaw.Cid, node.Cid, asRaw.Cid)))
	d, err = car.Import(ctx, &memory{"x.car", pack(t, root.Cid, car.Blocks{leaf, asRaw, root})})
	if err != nil {
		t.Fatal(err)
	}
	sameBlocks(t, d, car.Blocks{root, asRaw, node, leaf})
}

func TestImportErrors(t *testing.T) {
	t.Parallel()
	file := boxoFile(t, mod251(50_000), 1024, 4, 1)
	root := file[0].Cid
	whole := pack(t, root, file)
	flipped := func(at int) []byte {
		d := bytes.Clone(whole)
		d[at] ^= 1
		return d
	}
	noRoots := append([]byte("\x11\xa2\x65roots\x80\x67version\x01"), whole[59:]...)
	for name, row := range map[string]struct {
		data []byte
		is   error
		text string
	}{
		"no root":           {noRoots, nil, "has 0 roots; it needs exactly one"},
		"not an archive":    {[]byte("PK\x03\x04"), car.ErrMalformed, `archive "x.car"`},
		"empty file":        {nil, car.ErrMalformed, "the file is empty"},
		"cut in a block":    {whole[:len(whole)-1], car.ErrMalformed, "beyond the end"},
		"cut after length":  {whole[:len(whole)-1024-36], car.ErrMalformed, ""},
		"cut at a section":  {whole[:59+file[0].SectionSize()], car.ErrIncomplete, "4 missing: " + file[1].Cid.String()},
		"header only":       {whole[:59], car.ErrIncomplete, "1 missing: " + root.String()},
		"zeros, and more":   {append(bytes.Clone(whole), 0, 0, 1), car.ErrMalformed, "not only zeros"},
		"root corrupt":      {flipped(59 + 60), car.ErrCorrupt, root.String()},
		"v2 of wrong size":  {wrongSizeV2(t, whole), car.ErrMalformed, ""},
		"v2 data elsewhere": {wrongOffsetV2(t, whole), car.ErrMalformed, ""},
	} {
		_, err := car.Import(ctx, &memory{"x.car", row.data})
		if err == nil || row.is != nil && !errors.Is(err, row.is) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, row.is, row.text)
		}
	}

	// Leaves are read only when they are packed. A corrupt one is found then.
	d, err := car.Import(ctx, &memory{"x.car", flipped(len(whole) - 1)})
	if err != nil {
		t.Fatal(err)
	}
	var p car.Packer
	s := p.Open(ctx, car.NewArchive(root, d))
	defer s.Close()
	if _, err := s.WriteTo(new(bytes.Buffer)); !errors.Is(err, car.ErrCorrupt) || errors.Is(err, car.ErrSourceChanged) {
		t.Errorf("a corrupt leaf is reported as %v", err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := car.Import(cancelled, &memory{"x.car", whole}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func wrongSizeV2(t testing.TB, v1 []byte) []byte {
	d := wrapV2(t, v1, 0, 0)
	binary.LittleEndian.PutUint64(d[11+24:], uint64(len(d)))
	return d
}

func wrongOffsetV2(t testing.TB, v1 []byte) []byte {
	d := wrapV2(t, v1, 0, 0)
	binary.LittleEndian.PutUint64(d[11+16:], 50)
	return d
}

func TestIncompleteErrorCountsDistinctBlocks(t *testing.T) {
	t.Parallel()
	var cids []cid.Cid
	for i := range 500 {
		c := sum(t, cid.Raw, multihash.SHA2_256, []byte{byte(i), byte(i >> 8)})
		cids = append(cids, c, c)
	}
	root := block(t, cid.DagCBOR, multihash.SHA2_256, 0, encode(t, cid.DagCBOR, linkList(t, cids...)))
	_, err := car.Import(ctx, &memory{"x.car", pack(t, root.Cid, car.Blocks{root})})
	var incomplete *car.IncompleteError
	if !errors.As(err, &incomplete) || incomplete.Count != 500 || incomplete.More || len(incomplete.Missing) != 10 || incomplete.Missing[1] != cids[2] {
		t.Errorf("%v", err)
	}
}

// An extremely deep chain is refused without recursion. So is a chain one link
// deeper than the limit.
func TestImportDepth(t *testing.T) {
	t.Parallel()
	chain := func(n int) car.Blocks {
		blocks := car.Blocks{block(t, cid.Raw, multihash.SHA2_256, n, []byte("end"))}
		for i := range n {
			link := "\xd8\x2a\x58\x25\x00" + blocks[i].Cid.KeyString() // as DAG-CBOR
			blocks = append(blocks, block(t, cid.DagCBOR, multihash.SHA2_256, n-1-i, []byte(link)))
		}
		slices.Reverse(blocks)
		return blocks
	}
	want := chain(links.MaxDepth)
	d, err := car.Import(ctx, &memory{"x.car", pack(t, want[0].Cid, want)})
	if err != nil {
		t.Fatal(err)
	}
	sameBlocks(t, d, want)
	for _, n := range []int{links.MaxDepth + 1, 65_537} {
		deep := chain(n)
		if _, err := car.Import(ctx, &memory{"x.car", pack(t, deep[0].Cid, deep)}); !errors.Is(err, car.ErrTooDeep) {
			t.Errorf("a chain of %d links: %v", n, err)
		}
	}
}

// An archive can claim any digests. A hundred thousand that agree in the bytes
// a hash table might look at are indexed as fast as any others.
func TestIndexOfCraftedDigests(t *testing.T) {
	t.Parallel()
	const n = 100_000
	data := car.AppendHeader(nil, block(t, cid.Raw, multihash.SHA2_256, 0, nil).Cid)
	crafted := func(i int) cid.Cid {
		var digest [32]byte
		binary.BigEndian.PutUint64(digest[24:], uint64(i))
		mh, err := multihash.Encode(digest[:], multihash.SHA2_256)
		if err != nil {
			t.Fatal(err)
		}
		return cid.NewCidV1(cid.Raw, mh)
	}
	for i := range n {
		c := crafted(i)
		data = binary.AppendUvarint(data, uint64(c.ByteLen()))
		data = append(data, c.KeyString()...)
	}
	var x car.Index
	if _, err := x.Add(ctx, &memory{"crafted.car", data}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if _, ok := x.Find(crafted(i)); !ok {
			t.Fatalf("block %d is not found", i)
		}
	}
}
