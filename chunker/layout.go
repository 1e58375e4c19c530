package chunker

import (
	"github.com/carload/carload/car"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

const digestSize = 32

// layout is the balanced DAG of a file of a given size. With chunks of a fixed
// size everything but the digests follows from the size alone: the number of
// nodes on each level, the bytes under each node, the length of each block.
//
// Level 0 is the leaves; a node of level k+1 takes the next width nodes of
// level k; the last level has one node. Every group becomes a node, also a
// last group of one. All nodes of a level are full but the last.
type layout struct {
	profile *Profile
	size    int64
	meta    []byte // fields to append to the root's UnixFS message
	level   []levelLayout
}

type levelLayout struct {
	count      int // nodes
	first      int // nodes of the levels below
	full, last span
}

// span is what lies under a node.
type span struct {
	content int64 // bytes of the file
	block   int   // bytes of the node's own block
	tsize   int64 // cumulative size of the DAG
}

func newLayout(p *Profile, size int64, meta []byte) *layout {
	l := &layout{profile: p, size: size, meta: meta}
	chunk := int64(p.ChunkBytes)
	count := max(1, int((size+chunk-1)/chunk))
	l.level = append(l.level, levelLayout{count: count, full: l.leafSpan(chunk, false), last: l.leafSpan(size-int64(count-1)*chunk, count == 1)})
	for count > 1 {
		level := len(l.level)
		below := &l.level[level-1]
		lastGroup := (count-1)%p.Width + 1
		count = (count + p.Width - 1) / p.Width
		l.level = append(l.level, levelLayout{
			count: count,
			first: below.first + below.count,
			full:  l.innerSpan(p.Width, below.full, below.full, level, false),
			last:  l.innerSpan(lastGroup, below.full, below.last, level, count == 1),
		})
	}
	return l
}

// nodes is the number of blocks, duplicates counted.
func (l *layout) nodes() int {
	top := &l.level[l.top()]
	return top.first + top.count
}

// top is the level of the root.
func (l *layout) top() int { return len(l.level) - 1 }

// root is what lies under the root.
func (l *layout) root() span { return l.level[l.top()].last }

// span is what lies under node i of a level.
func (l *layout) span(level, i int) *span {
	lv := &l.level[level]
	if i == lv.count-1 {
		return &lv.last
	}
	return &lv.full
}

// children is the number of links of node i of a level above 0.
func (l *layout) children(level, i int) int {
	return min(l.profile.Width, l.level[level-1].count-i*l.profile.Width)
}

// at tells level and index of the node at a position of the digests.
func (l *layout) at(pos int) (level, i int) {
	for pos >= l.level[level].first+l.level[level].count {
		level++
	}
	return level, pos - l.level[level].first
}

func (l *layout) leafSpan(content int64, isRoot bool) span {
	block := int(content)
	if !l.profile.RawLeaves {
		head, tail := l.leafFrame(content, isRoot)
		block += len(head) + len(tail)
	}
	return span{content: content, block: block, tsize: int64(block)}
}

// leafFrame is what UnixFS puts before and after the payload of a leaf that is
// not raw: a dag-pb node whose Data is {Type: File, Data, filesize}.
func (l *layout) leafFrame(content int64, isRoot bool) (head, tail []byte) {
	tail = appendField(nil, 3, uint64(content))
	if isRoot {
		tail = append(tail, l.meta...)
	}
	n := 2 + len(tail)
	if content > 0 {
		n += 1 + varint.UvarintSize(uint64(content)) + int(content)
	}
	head = append(head, 0x0a)
	head = appendUvarint(head, uint64(n))
	head = append(head, 0x08, typeFile)
	if content > 0 {
		head = append(head, 0x12)
		head = appendUvarint(head, uint64(content))
	}
	return head, tail
}

// Types of UnixFS nodes (https://specs.ipfs.tech/unixfs/).
const typeFile = 2

// innerSpan is what lies under a node of n children, all like full but the
// last.
func (l *layout) innerSpan(n int, full, last span, level int, isRoot bool) span {
	s := span{
		content: int64(n-1)*full.content + last.content,
		tsize:   int64(n-1)*full.tsize + last.tsize,
	}
	links := (n-1)*l.linkSize(level-1, full.tsize) + l.linkSize(level-1, last.tsize)
	s.block = links + 1 + varint.UvarintSize(uint64(l.dataSize(n, full, last, s.content, isRoot))) + l.dataSize(n, full, last, s.content, isRoot)
	s.tsize += int64(s.block)
	return s
}

// linkSize is the encoded length of a link to a node of a level.
func (l *layout) linkSize(level int, tsize int64) int {
	n := 2 + len(l.cidPrefix(level)) + digestSize + 2 + 1 + varint.UvarintSize(uint64(tsize))
	return 1 + varint.UvarintSize(uint64(n)) + n
}

// dataSize is the length of the UnixFS message of an inner node.
func (l *layout) dataSize(n int, full, last span, content int64, isRoot bool) int {
	size := 2 + 1 + varint.UvarintSize(uint64(content)) +
		(n-1)*(1+varint.UvarintSize(uint64(full.content))) + 1 + varint.UvarintSize(uint64(last.content))
	if isRoot {
		size += len(l.meta)
	}
	return size
}

// appendInner appends the block of node i of a level above 0: dag-pb, links
// first, each with an empty name, then the UnixFS message.
func (l *layout) appendInner(dst []byte, level, i int, digests []byte) []byte {
	n := l.children(level, i)
	prefix := l.cidPrefix(level - 1)
	from := i * l.profile.Width
	below := &l.level[level-1]
	for k := from; k < from+n; k++ {
		tsize := l.span(level-1, k).tsize
		dst = append(dst, 0x12)
		dst = appendUvarint(dst, uint64(2+len(prefix)+digestSize+2+1+varint.UvarintSize(uint64(tsize))))
		dst = append(dst, 0x0a, byte(len(prefix)+digestSize))
		dst = append(dst, prefix...)
		pos := (below.first + k) * digestSize
		dst = append(dst, digests[pos:pos+digestSize]...)
		dst = append(dst, 0x12, 0)
		dst = appendField(dst, 3, uint64(tsize))
	}
	s := l.span(level, i)
	isRoot := level == l.top()
	dst = append(dst, 0x0a)
	dst = appendUvarint(dst, uint64(l.dataSize(n, below.full, *l.span(level-1, from+n-1), s.content, isRoot)))
	dst = append(dst, 0x08, typeFile)
	dst = appendField(dst, 3, uint64(s.content))
	for k := from; k < from+n; k++ {
		dst = appendField(dst, 4, uint64(l.span(level-1, k).content))
	}
	if isRoot {
		dst = append(dst, l.meta...)
	}
	return dst
}

// cidPrefix is what precedes the digest in the binary CID of a node.
func (l *layout) cidPrefix(level int) string {
	switch {
	case level == 0 && l.profile.RawLeaves:
		return prefixRaw
	case l.profile.CidVersion == 0:
		return prefixV0
	default:
		return prefixV1
	}
}

const (
	prefixRaw = "\x01\x55\x12\x20" // version 1, raw, sha2-256, 32 bytes
	prefixV1  = "\x01\x70\x12\x20" // version 1, dag-pb
	prefixV0  = "\x12\x20"
)

// makeCID is the CID with one of the prefixes above.
func makeCID(prefix string, digest []byte) cid.Cid {
	mh := make([]byte, 0, 2+digestSize)
	mh = append(mh, multihash.SHA2_256, digestSize)
	mh = append(mh, digest...)
	switch prefix {
	case prefixV0:
		return cid.NewCidV0(mh)
	case prefixRaw:
		return cid.NewCidV1(cid.Raw, mh)
	default:
		return cid.NewCidV1(cid.DagProtobuf, mh)
	}
}

// block describes node i of a level of the file that src is.
func (l *layout) block(src car.Source, level, i int, digests []byte) car.Block {
	pos := (l.level[level].first + i) * digestSize
	b := car.Block{
		Cid:   makeCID(l.cidPrefix(level), digests[pos:pos+digestSize]),
		Depth: l.top() - level,
	}
	if level > 0 {
		b.Head = l.appendInner(make([]byte, 0, l.span(level, i).block), level, i, digests)
		return b
	}
	s := l.span(0, i)
	b.Offset, b.Length = int64(i)*int64(l.profile.ChunkBytes), int(s.content)
	if !l.profile.RawLeaves {
		b.Head, b.Tail = l.leafFrame(s.content, l.top() == 0)
	}
	if b.Length > 0 {
		b.Source = src
	}
	return b
}

// appendField appends a varint field of a protobuf message.
func appendField(dst []byte, field byte, v uint64) []byte {
	return appendUvarint(append(dst, field<<3), v)
}

func appendUvarint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}
