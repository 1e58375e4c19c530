package chunker

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"strings"

	"github.com/multiformats/go-varint"
	"github.com/spaolacci/murmur3"

	"github.com/carload/carload/car"
)

// shard is a node of a HAMT. Its entries are adjacent in DAG.entries, where the
// entries of the directory are sorted by the hash of their names. Its
// sub-shards follow it in DAG.shards, each followed by its own.
type shard struct {
	digest       [digestSize]byte
	tsize        int64
	first, count uint32 // range of DAG.entries
	end          uint32 // index in DAG.shards after the last sub-shard
	level        uint8
}

// shardLink is a link of a shard, to an entry or to a sub-shard.
type shardLink struct {
	bucket int
	sub    bool
	index  uint32 // index in DAG.nodes or DAG.shards
}

const murmur3x64 = 0x22 // multicodec of the name hash

// nameHash determines the place of a name in a HAMT: its top bits choose
// buckets.
func nameHash(name string) uint64 { return murmur3.Sum64([]byte(name)) }

// bucketBits is the number of hash bits that one level of a HAMT uses.
func (d *DAG) bucketBits() int { return bits.Len(uint(d.plain.Fanout - 1)) }

func (d *DAG) bucket(hash uint64, level uint8) int {
	n := d.bucketBits()
	return int(hash << (int(level) * n) >> (64 - n))
}

// entriesOf returns the entries of a directory.
func (d *DAG) entriesOf(dir *directory) []uint32 {
	return d.entries[dir.first : dir.first+dir.count]
}

// assemble builds symlinks and directories, once all files are described. It
// goes from children to parents; a parent has a lower number than its children,
// unless rename changed the order.
func (d *DAG) assemble(dropEmpty bool) error {
	var order []uint32
	if d.profile.changesNames() {
		order = d.rename()
	}
	d.collect()
	var buf []byte
	for j := range d.nodes.n {
		i := uint32(d.nodes.n - 1 - j)
		if order != nil {
			i = order[j]
		}
		n := d.nodes.at(i)
		if _, ok := n.body.(symlink); ok {
			buf = appendSymlink(buf[:0], n)
			n.digest, n.tsize = sha256.Sum256(buf), int64(len(buf))
			continue
		}
		dir, ok := n.body.(*directory)
		if !ok {
			continue
		}
		kids := d.entriesOf(dir)
		if dropEmpty || d.refused > 0 || order != nil {
			kids = slices.DeleteFunc(kids, func(k uint32) bool { return d.nodes.at(k).absent })
			dir.count = uint32(len(kids))
			n.absent = n.absent || dropEmpty && len(kids) == 0 && i > 0
		}
		for _, k := range kids {
			n.size += d.nodes.at(k).size
			n.tsize += d.nodes.at(k).tsize
		}
		var err error
		if d.overLimit(n, kids) {
			err = d.buildHAMT(n, dir)
		} else {
			buf, err = d.buildFlat(n, kids, buf[:0])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collect makes the entries of each directory adjacent in DAG.entries.
func (d *DAG) collect() {
	for i := 1; i < d.nodes.n; i++ {
		d.nodes.at(uint32(i)).parent.body.(*directory).count++
	}
	next := uint32(0)
	for i := range d.nodes.n {
		if dir, ok := d.nodes.at(uint32(i)).body.(*directory); ok {
			dir.first = next
			next += dir.count
			dir.count = 0
		}
	}
	d.entries = make([]uint32, next)
	for i := 1; i < d.nodes.n; i++ {
		dir := d.nodes.at(uint32(i)).parent.body.(*directory)
		d.entries[dir.first+dir.count] = uint32(i)
		dir.count++
	}
}

// overLimit reports whether a directory becomes a HAMT.
func (d *DAG) overLimit(n *node, kids []uint32) bool {
	rule := d.plain.HAMT
	switch rule.Rule {
	case LinksCount:
		return rule.exceeded(len(kids))
	case BlockBytes:
		return rule.exceeded(d.flatSize(n))
	case LinksBytes:
		size := 0
		for _, k := range kids {
			e := d.nodes.at(k)
			size += len(e.name) + len(d.plain.cidPrefix(e.raw)) + digestSize
		}
		return rule.exceeded(size)
	default:
		return false
	}
}

// flatSize is the exact size of the block of a flat directory.
func (d *DAG) flatSize(n *node) int {
	size := 0
	for _, k := range d.entriesOf(n.body.(*directory)) {
		e := d.nodes.at(k)
		size += linkSize(d.plain.cidPrefix(e.raw), len(e.name), e.tsize)
	}
	data := 2 + len(n.meta())
	return size + 1 + varint.UvarintSize(uint64(data)) + data
}

func (d *DAG) buildFlat(n *node, kids []uint32, buf []byte) ([]byte, error) {
	slices.SortFunc(kids, func(a, b uint32) int { return strings.Compare(d.nodes.at(a).name, d.nodes.at(b).name) })
	for i := 1; i < len(kids); i++ {
		if d.nodes.at(kids[i-1]).name == d.nodes.at(kids[i]).name {
			return nil, d.duplicate(kids[i-1], kids[i])
		}
	}
	buf = d.appendFlat(buf, n)
	if len(buf) > car.MaxBlockBytes {
		return nil, fmt.Errorf("directory %q has %d entries and would be a block of %d bytes, but the limit is %d: use a profile that shards it", d.path(n), len(kids), len(buf), car.MaxBlockBytes)
	}
	n.digest = sha256.Sum256(buf)
	n.tsize += int64(len(buf))
	return buf, nil
}

func (d *DAG) duplicate(j, k uint32) error {
	m, n := d.nodes.at(j), d.nodes.at(k)
	if a, b := d.path(m), d.path(n); a != b {
		return fmt.Errorf("%q and %q: both become %q in directory %q, and one %w %s", a, b, n.name, d.path(n.parent), ErrRenamed, d.profile.Name)
	}
	return fmt.Errorf("two entries of directory %q are called %q", d.path(n.parent), n.name)
}

// appendFlat appends the block of a flat directory.
func (d *DAG) appendFlat(dst []byte, n *node) []byte {
	for _, k := range d.entriesOf(n.body.(*directory)) {
		e := d.nodes.at(k)
		dst = appendLink(dst, d.plain.cidPrefix(e.raw), e.digest[:], "", e.name, e.tsize)
	}
	return appendBytes(dst, 1, string([]byte{0x08, typeDirectory})+n.meta())
}

// appendSymlink appends the block of a symlink. As in Kubo, it has a time but
// no mode.
func appendSymlink(dst []byte, n *node) []byte {
	msg := appendBytes([]byte{0x08, typeSymlink}, 2, string(n.body.(symlink)))
	if n.stat != nil {
		msg = Stat{ModTime: n.stat.ModTime}.append(msg)
	}
	return appendBytes(dst, 1, string(msg))
}

// hamt builds the HAMT of one directory.
type hamt struct {
	*DAG
	hashes []uint64 // of the entries
	first  uint32   // position of the first entry in DAG.entries
	buf    []byte
}

// buildHAMT sorts the entries by the hash of their names and splits them by its
// bits: a bucket with one entry becomes a link, one with more a sub-shard. The
// names alone determine the shape, so nothing is ever inserted.
func (d *DAG) buildHAMT(n *node, dir *directory) error {
	kids := d.entriesOf(dir)
	type hashed struct {
		hash uint64
		node uint32
	}
	sorted := make([]hashed, len(kids))
	for i, k := range kids {
		sorted[i] = hashed{nameHash(d.nodes.at(k).name), k}
	}
	slices.SortFunc(sorted, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	h := hamt{DAG: d, hashes: make([]uint64, len(kids)), first: dir.first}
	n.tsize = 0
	usable := 64 / d.bucketBits() * d.bucketBits()
	for i, s := range sorted {
		h.hashes[i], kids[i] = s.hash, s.node
		if i > 0 && (s.hash^sorted[i-1].hash)>>(64-usable) == 0 {
			a, b := d.nodes.at(sorted[i-1].node).name, d.nodes.at(s.node).name
			if a == b {
				return d.duplicate(sorted[i-1].node, s.node)
			}
			return fmt.Errorf("directory %q can't be sharded: the names %q and %q have the same hash: rename one of them", d.path(n), min(a, b), max(a, b))
		}
	}
	dir.sharded, dir.shard = true, uint32(len(d.shards))
	h.build(n, 0, len(kids), 0)
	root := &d.shards[dir.shard]
	n.digest, n.tsize = root.digest, root.tsize
	return nil
}

// build builds the shard of the entries from..to, and its sub-shards.
func (h *hamt) build(n *node, from, to int, level uint8) (tsize int64) {
	index := uint32(len(h.shards))
	h.shards = append(h.shards, shard{first: h.first + uint32(from), count: uint32(to - from), level: level})
	for i := from; i < to; {
		bucket := h.bucket(h.hashes[i], level)
		end := i + 1
		for end < to && h.bucket(h.hashes[end], level) == bucket {
			end++
		}
		if end == i+1 {
			tsize += h.nodes.at(h.entries[h.first+uint32(i)]).tsize
		} else {
			tsize += h.build(n, i, end, level+1)
		}
		i = end
	}
	s := &h.shards[index]
	s.end = uint32(len(h.shards))
	h.buf = h.appendShard(h.buf[:0], n, index)
	s.digest = sha256.Sum256(h.buf)
	s.tsize = tsize + int64(len(h.buf))
	return s.tsize
}

// links yields the links of a shard.
func (d *DAG) links(index uint32) iter.Seq[shardLink] {
	return func(yield func(shardLink) bool) {
		s := &d.shards[index]
		sub := index + 1
		for i := s.first; i < s.first+s.count; {
			entry := d.entries[i]
			link := shardLink{d.bucket(nameHash(d.nodes.at(entry).name), s.level), false, entry}
			i++
			if sub < s.end && d.shards[sub].first == i-1 {
				link.sub, link.index = true, sub
				i += d.shards[sub].count - 1
				sub = d.shards[sub].end
			}
			if !yield(link) {
				return
			}
		}
	}
}

// appendShard appends the block of one shard of the directory n.
func (d *DAG) appendShard(dst []byte, n *node, index uint32) []byte {
	const digits = "0123456789ABCDEF"
	bitmap := make([]byte, d.plain.Fanout/8)
	hex := make([]byte, (d.bucketBits()+3)/4)
	for link := range d.links(index) {
		bitmap[len(bitmap)-1-link.bucket/8] |= 1 << (link.bucket % 8)
		for i, v := len(hex)-1, link.bucket; i >= 0; i, v = i-1, v>>4 {
			hex[i] = digits[v&15]
		}
		if link.sub {
			s := &d.shards[link.index]
			dst = appendLink(dst, d.plain.cidPrefix(false), s.digest[:], string(hex), "", s.tsize)
		} else {
			e := d.nodes.at(link.index)
			dst = appendLink(dst, d.plain.cidPrefix(e.raw), e.digest[:], string(hex), e.name, e.tsize)
		}
	}
	msg := appendBytes([]byte{0x08, typeHAMTShard}, 2, string(bytes.TrimLeft(bitmap, "\x00")))
	msg = appendField(msg, 5, murmur3x64)
	msg = appendField(msg, 6, uint64(d.plain.Fanout))
	if d.shards[index].level == 0 {
		msg = append(msg, n.meta()...)
	}
	return appendBytes(dst, 1, string(msg))
}
