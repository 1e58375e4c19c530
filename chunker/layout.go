package chunker

import (
	"encoding/binary"
	"iter"

	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
)

// layout is the shape of the DAG of a file. Its nodes are numbered: leaves
// first, in file order, then inner nodes, children before parents, the root
// last. If leaves have a fixed size, everything but the digests follows from
// the size of the file, including the lengths of blocks.
type layout struct {
	profile *Profile
	size    int64
	meta    string  // fields to append to the root's UnixFS message
	leaves  int     // number of leaves
	ends    []int64 // end of each leaf; nil if all have the same size
	inner   []inner
}

// inner is a node with links: to the nodes from..to-1, then to those in more.
type inner struct {
	from, to int
	more     []int
	span
}

// span describes a node and everything below it.
type span struct {
	content int64 // bytes of the file below the node
	block   int   // bytes of the node's own block
	tsize   int64 // cumulative size of the blocks
}

// newLayout returns the layout of a file that is cut every ChunkBytes.
func newLayout(p *Profile, size int64, meta string) *layout {
	chunk := int64(p.ChunkBytes)
	l := &layout{profile: p, size: size, meta: meta, leaves: int((size + chunk - 1) / chunk)}
	if size == 0 && p.Layout == Balanced {
		l.leaves = 1
	}
	l.grow()
	return l
}

// newCutLayout returns the layout of a file whose leaves end at ends.
func newCutLayout(p *Profile, size int64, ends []int64, meta string) *layout {
	l := &layout{profile: p, size: size, meta: meta, leaves: len(ends), ends: ends}
	l.grow()
	return l
}

// grow adds inner nodes above the leaves.
func (l *layout) grow() {
	if l.profile.Layout == Trickle {
		l.trickle()
	} else {
		l.balance()
	}
	if len(l.inner) > 0 {
		root := &l.inner[len(l.inner)-1]
		root.span = l.innerSpan(root, true)
	}
}

// balance groups nodes by the width, level by level, until one node is left.
// Every group becomes a node, even a last group of one.
func (l *layout) balance() {
	width := l.profile.Width
	for from, to := 0, l.leaves; to-from > 1; from, to = to, l.nodes() {
		for i := from; i < to; i += width {
			l.add(inner{from: i, to: min(i+width, to)})
		}
	}
}

// trickleRepeat is the number of subtrees of each depth below a trickle node.
const trickleRepeat = 4

// trickle gives each node leaves up to the width, then four subtrees of depth
// 1, four of depth 2 and so on, as long as leaves are left. Only below the root
// is the depth unlimited. The root is never a leaf.
func (l *layout) trickle() {
	next, leaves := 0, l.leaves
	var fill func(maxDepth int) int
	fill = func(maxDepth int) int {
		n := inner{from: next, to: min(next+l.profile.Width, leaves)}
		next = n.to
		for depth := 1; (maxDepth < 0 || depth < maxDepth) && next < leaves; depth++ {
			for i := 0; i < trickleRepeat && next < leaves; i++ {
				n.more = append(n.more, fill(depth))
			}
		}
		return l.add(n)
	}
	fill(-1)
}

// add adds n and returns its number.
func (l *layout) add(n inner) int {
	n.span = l.innerSpan(&n, false)
	l.inner = append(l.inner, n)
	return l.root()
}

// nodes is the number of blocks, duplicates included.
func (l *layout) nodes() int { return l.leaves + len(l.inner) }

// root is the number of the root.
func (l *layout) root() int { return l.nodes() - 1 }

// raw reports whether a node is a raw block.
func (l *layout) raw(node int) bool { return node < l.leaves && l.profile.RawLeaves }

// children yields the numbers of the nodes that an inner node links to.
func (l *layout) children(node int) iter.Seq[int] { return l.inner[node-l.leaves].children() }

func (n *inner) children() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := n.from; i < n.to; i++ {
			if !yield(i) {
				return
			}
		}
		for _, i := range n.more {
			if !yield(i) {
				return
			}
		}
	}
}

// leaf returns where leaf i begins and ends in the file.
func (l *layout) leaf(i int) (from, to int64) {
	if l.ends == nil {
		chunk := int64(l.profile.ChunkBytes)
		return int64(i) * chunk, min(int64(i+1)*chunk, l.size)
	}
	if i > 0 {
		from = l.ends[i-1]
	}
	return from, l.ends[i]
}

// bigLeaves reports whether leaves are hashed in lockstep.
func (l *layout) bigLeaves() bool { return l.profile.ChunkBytes > bigLeafBytes }

// span returns the span of a node.
func (l *layout) span(node int) span {
	if node >= l.leaves {
		return l.inner[node-l.leaves].span
	}
	from, to := l.leaf(node)
	s := span{content: to - from, block: int(to - from)}
	if !l.profile.RawLeaves {
		s.block += leafFrameSize(s.content, l.leafMeta())
	}
	s.tsize = int64(s.block)
	return s
}

// leafMeta returns the metadata of a leaf, which it has only if it is the root.
func (l *layout) leafMeta() string {
	if l.nodes() == 1 {
		return l.meta
	}
	return ""
}

// leafType is the UnixFS type of leaves.
func (p *Profile) leafType() byte {
	if p.Layout == Trickle {
		return typeRaw
	}
	return typeFile
}

// innerSpan computes the span of an inner node.
func (l *layout) innerSpan(n *inner, isRoot bool) span {
	var s span
	data := 2
	for child := range n.children() {
		c := l.span(child)
		s.content += c.content
		s.tsize += c.tsize
		s.block += linkSize(l.profile.cidPrefix(l.raw(child)), 0, c.tsize)
		data += 1 + varint.UvarintSize(uint64(c.content))
	}
	data += 1 + varint.UvarintSize(uint64(s.content))
	if isRoot {
		data += len(l.meta)
	}
	s.block += 1 + varint.UvarintSize(uint64(data)) + data
	s.tsize += int64(s.block)
	return s
}

// appendInner appends the block of an inner node: a dag-pb node with its links
// first, each with an empty name, then the UnixFS message.
func (l *layout) appendInner(dst []byte, node int, digests []byte) []byte {
	n := &l.inner[node-l.leaves]
	data := appendField([]byte{0x08, typeFile}, 3, uint64(n.content))
	for child := range n.children() {
		c := l.span(child)
		dst = appendLink(dst, l.profile.cidPrefix(l.raw(child)), digestAt(digests, child), "", "", c.tsize)
		data = appendField(data, 4, uint64(c.content))
	}
	if node == l.root() {
		data = append(data, l.meta...)
	}
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

func digestAt(digests []byte, i int) []byte { return digests[i*digestSize : (i+1)*digestSize] }

// block describes a node of the file src.
func (l *layout) block(src car.Source, node int, digests []byte) car.Block {
	b := car.Block{Cid: makeCID(l.profile.cidPrefix(l.raw(node)), digestAt(digests, node))}
	if node >= l.leaves {
		b.Head = l.appendInner(make([]byte, 0, l.span(node).block), node, digests)
		return b
	}
	from, to := l.leaf(node)
	return l.profile.leafBlock(b, src, from, to, l.leafMeta())
}

// leafBlock completes the block of a leaf.
func (p *Profile) leafBlock(b car.Block, src car.Source, from, to int64, meta string) car.Block {
	b.Offset, b.Length = from, int(to-from)
	if !p.RawLeaves {
		frame := appendLeafHead(make([]byte, 0, leafFraming), p.leafType(), to-from, meta)
		n := len(frame)
		frame = appendLeafTail(frame, to-from, meta)
		b.Head, b.Tail = frame[:n:n], frame[n:]
	}
	if b.Length > 0 {
		b.Source = src
	}
	return b
}

// appendLeafHead appends what precedes the payload of a leaf that is not raw:
// the start of a dag-pb node whose Data is {Type, Data, filesize}.
func appendLeafHead(dst []byte, typ byte, content int64, meta string) []byte {
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(leafData(content, meta)))
	dst = append(dst, 0x08, typ)
	if content > 0 {
		dst = append(dst, 0x12)
		dst = binary.AppendUvarint(dst, uint64(content))
	}
	return dst
}

// appendLeafTail appends what follows the payload of a leaf that is not raw.
func appendLeafTail(dst []byte, content int64, meta string) []byte {
	return append(appendField(dst, 3, uint64(content)), meta...)
}

// leafFrameSize is the number of bytes in the head and tail of a leaf.
func leafFrameSize(content int64, meta string) int {
	n := leafData(content, meta)
	return 1 + varint.UvarintSize(uint64(n)) + n - int(content)
}

// leafData is the length of the UnixFS message of a leaf.
func leafData(content int64, meta string) int {
	n := 2 + 1 + varint.UvarintSize(uint64(content)) + len(meta)
	if content > 0 {
		n += 1 + varint.UvarintSize(uint64(content)) + int(content)
	}
	return n
}
