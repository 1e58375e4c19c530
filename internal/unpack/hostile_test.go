package unpack_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/spaolacci/murmur3"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

// crafted is a node that no honest program makes.
type crafted struct {
	typ    uint64
	data   string
	size   *uint64
	sizes  []uint64
	hash   uint64
	fanout uint64
	links  []link
}

type link struct {
	name string
	to   car.Block
}

func field(p []byte, number int, value string) []byte {
	p = binary.AppendUvarint(p, uint64(number)<<3|2)
	p = binary.AppendUvarint(p, uint64(len(value)))
	return append(p, value...)
}

func varintField(p []byte, number int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(p, uint64(number)<<3), v)
}

func (c crafted) payload() []byte {
	var p, m []byte
	for _, l := range c.links {
		var e []byte
		e = field(e, 1, l.to.Cid.KeyString())
		e = field(e, 2, l.name)
		p = field(p, 2, string(e))
	}
	m = varintField(m, 1, c.typ)
	if c.data != "" {
		m = field(m, 2, c.data)
	}
	if c.size != nil {
		m = varintField(m, 3, *c.size)
	}
	for _, s := range c.sizes {
		m = varintField(m, 4, s)
	}
	if c.fanout != 0 {
		m = varintField(m, 5, c.hash)
		m = varintField(m, 6, c.fanout)
	}
	return field(p, 1, string(m))
}

// dag collects the blocks of a crafted DAG. The last one is its root.
type dag struct{ blocks car.Blocks }

func (d *dag) add(codec uint64, payload []byte) car.Block {
	sum := sha256.Sum256(payload)
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic(err)
	}
	b := car.Block{Cid: cid.NewCidV1(codec, mh), Head: payload}
	d.blocks = append(d.blocks, b)
	return b
}

func (d *dag) raw(data string) car.Block   { return d.add(cid.Raw, []byte(data)) }
func (d *dag) node(c crafted) car.Block    { return d.add(cid.DagProtobuf, c.payload()) }
func (d *dag) dir(links ...link) car.Block { return d.node(crafted{typ: 1, links: links}) }
func (d *dag) symlink(to string) car.Block { return d.node(crafted{typ: 4, data: to}) }

func (d *dag) file(sizes []uint64, children ...car.Block) car.Block {
	return d.node(crafted{typ: 2, sizes: sizes, links: unnamed(children)})
}

func unnamed(children []car.Block) []link {
	var out []link
	for _, c := range children {
		out = append(out, link{"", c})
	}
	return out
}

// shard makes a directory shard. Links are named by bucket and name.
func (d *dag) shard(fanout uint64, links ...link) car.Block {
	digits := len(fmt.Sprintf("%X", fanout-1))
	bitmap := make([]byte, fanout/8)
	for _, l := range links {
		var bucket int
		if _, err := fmt.Sscanf(l.name[:digits], "%x", &bucket); err == nil && bucket < int(fanout) {
			bitmap[len(bitmap)-1-bucket/8] |= 1 << (bucket % 8)
		}
	}
	return d.node(crafted{typ: 5, data: string(bitmap), hash: 0x22, fanout: fanout, links: links})
}

// bucketOf returns the name of a link to an entry in the topmost shard.
func bucketOf(name string) string {
	return fmt.Sprintf("%02X", murmur3.Sum64([]byte(name))>>56) + name
}

func ptr(v uint64) *uint64 { return &v }

// Each DAG is refused. Nothing appears outside the directory, and inside only
// what the defect does not concern.
func TestHostile(t *testing.T) {
	t.Parallel()
	rows := map[string]struct {
		build func(d *dag)
		is    error
		text  string
	}{}
	row := func(name string, is error, text string, build func(d *dag)) {
		rows[name] = struct {
			build func(d *dag)
			is    error
			text  string
		}{build, is, text}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc/x", "../x", "a\x00b", "..\x00"} {
		row(fmt.Sprintf("name %q", name), unixfs.ErrInvalid, "", func(d *dag) { d.dir(link{name, d.raw("x")}) })
		row(fmt.Sprintf("name %q in a shard", name), unixfs.ErrInvalid, "", func(d *dag) {
			if name == "" { // would be a link to a sub-shard
				d.shard(256, link{"00", d.raw("x")})
				return
			}
			d.shard(256, link{bucketOf(name), d.raw("x")})
		})
	}
	row("file through a symlink", unixfs.ErrInvalid, "twice", func(d *dag) {
		d.dir(link{"l", d.symlink("../..")}, link{"l", d.dir(link{"x", d.raw("x")})})
	})
	row("name twice", unixfs.ErrInvalid, "twice", func(d *dag) { d.dir(link{"a", d.raw("x")}, link{"b", d.raw("x")}, link{"a", d.raw("y")}) })
	row("no UnixFS", unixfs.ErrInvalid, "codec", func(d *dag) { d.dir(link{"a", d.add(cid.DagCBOR, []byte{0xa0})}) })
	row("root of CBOR", unixfs.ErrInvalid, "codec", func(d *dag) { d.add(cid.DagCBOR, []byte{0xa0}) })
	row("empty node", unixfs.ErrInvalid, "without data", func(d *dag) { d.add(cid.DagProtobuf, nil) })
	row("no type", unixfs.ErrInvalid, "type", func(d *dag) { d.add(cid.DagProtobuf, field(nil, 1, "\x12\x01x")) })
	row("metadata", unixfs.ErrInvalid, "type 3", func(d *dag) { d.node(crafted{typ: 3}) })
	row("huge type", unixfs.ErrInvalid, "type", func(d *dag) { d.node(crafted{typ: 1 << 63}) })
	row("symlink with links", unixfs.ErrInvalid, "symlink", func(d *dag) { d.node(crafted{typ: 4, data: "x", links: unnamed([]car.Block{d.raw("x")})}) })

	row("file size", unixfs.ErrInvalid, "file size of 7", func(d *dag) { d.node(crafted{typ: 2, data: "hello", size: ptr(7)}) })
	row("file size of sum", unixfs.ErrInvalid, "file size of 6", func(d *dag) {
		d.node(crafted{typ: 2, size: ptr(6), sizes: []uint64{5}, links: unnamed([]car.Block{d.raw("hello")})})
	})
	row("block size of raw", unixfs.ErrInvalid, "stands for 5 bytes, but its parent says 4", func(d *dag) { d.file([]uint64{4}, d.raw("hello")) })
	row("block size of a node", unixfs.ErrInvalid, "stands for 5 bytes, but its parent says 9", func(d *dag) { d.file([]uint64{9}, d.file([]uint64{5}, d.raw("hello"))) })
	row("block size of zero", unixfs.ErrInvalid, "stands for 5 bytes", func(d *dag) { d.file([]uint64{0}, d.file([]uint64{5}, d.raw("hello"))) })
	row("overflow", unixfs.ErrInvalid, "more than a file can have", func(d *dag) {
		d.file([]uint64{1 << 63, 1 << 63, 5}, d.raw(""), d.raw(""), d.raw("hello"))
	})
	row("directory in a file", unixfs.ErrInvalid, "", func(d *dag) { d.file([]uint64{0}, d.dir()) })
	row("deep file", unixfs.ErrInvalid, "nested too deep", func(d *dag) {
		b := d.raw("x")
		for range 600 {
			b = d.file([]uint64{1}, b)
		}
	})
	row("deep directories", unixfs.ErrInvalid, "nested too deep", func(d *dag) {
		b := d.dir()
		for range 600 {
			b = d.dir(link{"d", b})
		}
	})

	row("bytes by reference", unpack.ErrTooLarge, "", func(d *dag) {
		b, size := d.raw(strings.Repeat("x", 1000)), uint64(1000)
		for range 7 {
			sizes := slices.Repeat([]uint64{size}, 100)
			b, size = d.file(sizes, slices.Repeat([]car.Block{b}, 100)...), size*100
		}
	})
	row("entries by reference", unpack.ErrTooLarge, "", func(d *dag) {
		b := d.dir()
		for range 20 {
			var ls []link
			for i := range 50 {
				ls = append(ls, link{fmt.Sprint(i), b})
			}
			b = d.dir(ls...)
		}
	})
	row("nothing by reference", nil, "", func(d *dag) {
		b := d.raw("")
		for range 30 {
			b = d.file(make([]uint64, 50), slices.Repeat([]car.Block{b}, 50)...)
		}
		d.dir(link{"a", b})
	})

	sub := func(d *dag) car.Block { return d.shard(256, link{"00sub", d.raw("x")}) }
	row("shard of another hash", unixfs.ErrInvalid, "hash function", func(d *dag) {
		d.node(crafted{typ: 5, hash: 0x12, fanout: 256})
	})
	for _, fanout := range []uint64{1, 4, 255, 2048, 1 << 62} {
		row(fmt.Sprintf("fan-out %d", fanout), unixfs.ErrInvalid, "fan-out", func(d *dag) { d.node(crafted{typ: 5, hash: 0x22, fanout: fanout}) })
	}
	row("no fan-out", unixfs.ErrInvalid, "", func(d *dag) { d.node(crafted{typ: 5}) })
	row("long bitmap", unixfs.ErrInvalid, "bitmap of 33", func(d *dag) {
		d.node(crafted{typ: 5, data: strings.Repeat("\x00", 33), hash: 0x22, fanout: 256})
	})
	row("bitmap of more", unixfs.ErrInvalid, "1 links and 2 bits", func(d *dag) {
		d.node(crafted{typ: 5, data: "\x03", hash: 0x22, fanout: 256, links: []link{{"00", sub(d)}}})
	})
	row("bitmap of others", unixfs.ErrInvalid, "out of place", func(d *dag) {
		d.node(crafted{typ: 5, data: "\x02", hash: 0x22, fanout: 256, links: []link{{"00", sub(d)}}})
	})
	row("lower case", unixfs.ErrInvalid, "out of place", func(d *dag) { d.shard(256, link{"ab", sub(d)}) })
	row("order", unixfs.ErrInvalid, "out of place", func(d *dag) { d.shard(256, link{"02", sub(d)}, link{"01", sub(d)}) })
	row("short name", unixfs.ErrInvalid, "", func(d *dag) {
		d.node(crafted{typ: 5, data: "\x01", hash: 0x22, fanout: 256, links: []link{{"0", sub(d)}}})
	})
	row("wrong bucket", unixfs.ErrInvalid, "hash does not belong", func(d *dag) { d.shard(256, link{"00hello", d.raw("x")}) })
	row("sub-shard of another fan-out", unixfs.ErrInvalid, "not a shard", func(d *dag) { d.shard(256, link{"00", d.shard(16)}) })
	row("directory for a sub-shard", unixfs.ErrInvalid, "not a shard", func(d *dag) { d.shard(256, link{"00", d.dir(link{"x", d.raw("x")})}) })
	row("sub-shard twice", unixfs.ErrInvalid, "links to twice", func(d *dag) {
		b := d.shard(256)
		d.shard(256, link{"00", b}, link{"01", b})
	})
	row("deep shards", unixfs.ErrInvalid, "", func(d *dag) {
		b := d.shard(8)
		for range 30 {
			var ls []link
			for i := range 8 {
				ls = append(ls, link{fmt.Sprintf("%X", i), b})
			}
			b = d.shard(8, ls...)
		}
	})

	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var d dag
			row.build(&d)
			slices.Reverse(d.blocks)
			x := indexOf(t, d.blocks)
			parent := t.TempDir()
			dir := filepath.Join(parent, "in", "dir")
			for _, keepGoing := range []bool{false, true} {
				_, err := unpack.Restore(ctx, x, d.blocks[0].Cid, dir, unpack.Options{
					MaxBytes: 1 << 20, MaxEntries: 2000, Force: true, KeepGoing: keepGoing,
				})
				if row.is == nil && err != nil || !errors.Is(err, row.is) || err != nil && !strings.Contains(err.Error(), row.text) {
					t.Errorf("error %v, want %v with %q", err, row.is, row.text)
				}
			}
			got := readTree(t, parent)
			for p := range got {
				if p != "in/" && !strings.HasPrefix(p, "in/dir/") || strings.Contains(p, ".carload-") {
					t.Errorf("%q is there", p)
				}
			}
			if errors.Is(row.is, unpack.ErrTooLarge) {
				return // these options do not limit a listing
			}
			var listed error
			for _, err := range unpack.List(ctx, x, d.blocks[0].Cid) {
				listed = errors.Join(listed, err)
			}
			contentOnly := row.is == nil || strings.Contains(row.text, "parent says") || strings.Contains(row.text, "stands for") || strings.HasPrefix(name, "deep file") || name == "directory in a file"
			if (listed == nil) != contentOnly {
				t.Errorf("listing: %v", listed)
			}
		})
	}
}

// A symlink in an archive may point anywhere, but nothing is ever written or
// changed through it.
func TestSymlinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	outside := filepath.Join(parent, "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	var d dag
	d.dir(link{"l", d.symlink("../outside")}, link{"m", d.symlink(outside)}, link{"e", d.symlink("")}, link{"d", d.symlink("..")})
	slices.Reverse(d.blocks)
	root := d.blocks[0].Cid
	var e dag
	e.dir(link{"l", e.raw("overwritten")}, link{"m", e.raw("overwritten")}, link{"d", e.dir(link{"outside", e.raw("overwritten")})})
	slices.Reverse(e.blocks)
	x := indexOf(t, append(d.blocks, e.blocks...))

	dir := filepath.Join(parent, "dir")
	_, err := unpack.Restore(ctx, x, root, dir, unpack.Options{KeepGoing: true})
	if err == nil {
		t.Error("an empty symlink can't be made")
	}
	if _, err := unpack.Restore(ctx, x, e.blocks[0].Cid, dir, unpack.Options{Force: true}); err == nil {
		t.Error("a directory behind a symlink is entered")
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "precious" {
		t.Errorf("outside there is now %q, %v", data, err)
	}
}
