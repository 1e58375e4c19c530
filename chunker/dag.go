package chunker

import (
	"encoding/binary"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// DAG is a described DAG: the digest of every block, and where its bytes can
// be read again. It holds no payload. It is a [car.List] of its blocks: depth
// first, parents before children, each CID once. It does not change, and may
// be used by several goroutines at a time.
type DAG struct {
	profile Profile
	plain   Profile // recipe of nodes without metadata
	framed  Profile // recipe of nodes with metadata: never raw leaves

	nodes   nodes
	entries []uint32 // nodes in the order of the links of their directories
	shards  []shard
	mounts  map[*node]string // where on disk the files under a node are
	skipped []Skipped
	refused int64 // entries that were left out because they can't be taken

	filtered int64 // entries on disk that the options left out

	once  sync.Once
	order []ref  // the blocks as a list
	depth uint32 // of the deepest one

	described time.Time // when the last byte had been read

	// Every shard asks for the blocks on the path to its first new one, and
	// those with many links take a while and much memory to make again.
	recent atomic.Pointer[recentBlock]
}

// recentBlock is what At made last of what is worth keeping.
type recentBlock struct {
	at    int
	block car.Block
}

const recentMinBytes = 4 << 10

// node is a file, a directory or a symlink. There can be millions: it takes
// 104 bytes, and one of a small file on disk refers to nothing but its name.
type node struct {
	name   string
	digest [digestSize]byte // of its root block
	size   int64            // bytes of the files under it
	tsize  int64            // cumulative size of its blocks
	body   any              // nil: on disk, one leaf; or car.Source (one leaf), *file, *directory, symlink
	stat   *Stat            // if it is stored
	parent *node            // nil if it is the root
	raw    bool             // the root block is a raw leaf
	absent bool             // left out of its directory
}

// file is the body of a node whose blocks are more than one leaf.
type file struct {
	source  car.Source
	layout  *layout
	digests []byte // by number of the node, 32 bytes each
}

// directory is the body of a node with entries.
type directory struct {
	first, count uint32 // of DAG.entries
	shard        uint32 // its root in DAG.shards, if sharded
	sharded      bool
}

// symlink is the body of a node that is one: its target.
type symlink string

// nodes is a list whose elements stay where they are while it grows.
type nodes struct {
	blocks [][]node
	n      int
}

const nodesPerBlock = 1 << 10

func (s *nodes) add(n node) *node {
	if s.n%nodesPerBlock == 0 {
		s.blocks = append(s.blocks, make([]node, nodesPerBlock))
	}
	p := s.at(uint32(s.n))
	s.n++
	*p = n
	return p
}

func (s *nodes) at(i uint32) *node { return &s.blocks[i/nodesPerBlock][i%nodesPerBlock] }

// ref is a block: its node, and which of the node's blocks: a number of its
// layout, or an index of DAG.shards.
type ref struct{ node, block, depth uint32 }

// Skipped is something that a tree on disk has and UnixFS has no room for.
type Skipped struct {
	Path   string
	Reason string
}

// Profile is the recipe the DAG was built with.
func (d *DAG) Profile() Profile { return d.profile }

// Root is the CID of the DAG.
func (d *DAG) Root() cid.Cid {
	n := d.nodes.at(0)
	return makeCID(d.plain.cidPrefix(n.raw), n.digest[:])
}

// Size is the number of payload bytes described.
func (d *DAG) Size() int64 { return d.nodes.at(0).size }

// TotalSize is the cumulative size of the blocks, duplicates counted each
// time: what IPFS calls Tsize.
func (d *DAG) TotalSize() int64 { return d.nodes.at(0).tsize }

// Skipped lists what was found on disk and left out because it is neither a
// file nor a directory nor a symlink, ordered by path. [Options.Refused] is told
// of it instead, if it is set.
func (d *DAG) Skipped() []Skipped { return d.skipped }

// Len implements [car.List].
func (d *DAG) Len() int {
	d.once.Do(d.list)
	return len(d.order)
}

// At implements [car.List].
func (d *DAG) At(i int) car.Block {
	d.once.Do(d.list)
	if r := d.recent.Load(); r != nil && r.at == i {
		return r.block
	}
	r := d.order[i]
	n := d.nodes.at(r.node)
	var b car.Block
	switch body := n.body.(type) {
	case *file:
		b = body.layout.block(d.source(n), int(r.block), body.digests)
	case *directory:
		if body.sharded {
			b.Cid = makeCID(d.plain.cidPrefix(false), d.shards[r.block].digest[:])
			b.Head = d.appendShard(nil, n, r.block)
		} else {
			b.Cid = makeCID(d.plain.cidPrefix(false), n.digest[:])
			b.Head = d.appendFlat(make([]byte, 0, d.flatSize(n)), n)
		}
	case symlink:
		b.Cid = makeCID(d.plain.cidPrefix(false), n.digest[:])
		b.Head = appendSymlink(nil, n)
	default:
		p := d.recipe(n)
		b.Cid = makeCID(p.cidPrefix(n.raw), n.digest[:])
		b = p.leafBlock(b, d.source(n), 0, n.size, n.meta())
	}
	b.Depth = int(r.depth)
	if len(b.Head) >= recentMinBytes {
		d.recent.Store(&recentBlock{i, b})
	}
	return b
}

// recipe is the profile of a file.
func (d *DAG) recipe(n *node) *Profile {
	if n.stat != nil {
		return &d.framed
	}
	return &d.plain
}

// meta is what the metadata of a node adds to its UnixFS message.
func (n *node) meta() string {
	if n.stat == nil {
		return ""
	}
	return string(n.stat.append(nil))
}

// source is where the bytes of a file are.
func (d *DAG) source(n *node) car.Source {
	switch body := n.body.(type) {
	case car.Source:
		return body
	case *file:
		if body.source != nil {
			return body.source
		}
	}
	return diskFile{d, n}
}

// diskFile is a file of a tree on disk as a [car.Source]. Its path is put
// together when it is needed.
type diskFile struct {
	dag  *DAG
	node *node
}

func (f diskFile) Name() string                  { return f.dag.path(f.node) }
func (f diskFile) Size() int64                   { return f.node.size }
func (f diskFile) Open() (car.SourceFile, error) { return reopen(f.Name(), f.node.size) }

// path is where a node is on disk, or in the DAG if it is not on disk.
func (d *DAG) path(n *node) string {
	if base, ok := d.mounts[n]; ok {
		return base
	}
	if n.parent == nil {
		return n.name
	}
	return filepath.Join(d.path(n.parent), n.name)
}

// Filtered is how many entries of directories on disk were left out because the
// options say so. Of a directory that is left out nothing below it is counted.
func (d *DAG) Filtered() int64 { return d.filtered }

// Entry is an entry of a directory.
type Entry struct {
	Name   string
	Path   string      // below the root, with slashes; ends with the name
	Type   fs.FileMode // 0 for a file, [fs.ModeDir] or [fs.ModeSymlink]
	Cid    cid.Cid
	Size   int64  // bytes of the file, or of the files in it
	Target string // of a symlink
}

// Entries iterates over the entries of the root, if that is a directory, in the
// order of its links.
func (d *DAG) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		dir, ok := d.nodes.at(0).body.(*directory)
		if !ok {
			return
		}
		for _, i := range d.entriesOf(dir) {
			if !yield(d.entry("", d.nodes.at(i))) {
				return
			}
		}
	}
}

// AllEntries iterates over everything below the root: a directory comes after
// what is in it, and entries of the same directory come in the order of their
// names, byte by byte. It needs memory for the path that it is at, and 4 bytes
// for each entry of the directories on it.
func (d *DAG) AllEntries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) { d.entriesBelow("", d.nodes.at(0), yield) }
}

func (d *DAG) entriesBelow(path string, n *node, yield func(Entry) bool) bool {
	dir, ok := n.body.(*directory)
	if !ok {
		return true
	}
	kids := d.entriesOf(dir)
	if dir.sharded { // its links have the order of a hash
		kids = slices.Clone(kids)
		slices.SortFunc(kids, func(a, b uint32) int { return strings.Compare(d.nodes.at(a).name, d.nodes.at(b).name) })
	}
	for _, i := range kids {
		kid := d.nodes.at(i)
		e := d.entry(path, kid)
		if !d.entriesBelow(e.Path, kid, yield) || !yield(e) {
			return false
		}
	}
	return true
}

func (d *DAG) entry(dir string, n *node) Entry {
	e := Entry{Name: n.name, Path: n.name, Cid: makeCID(d.recipe(n).cidPrefix(n.raw), n.digest[:]), Size: n.size}
	if dir != "" {
		e.Path = dir + "/" + n.name
	}
	switch body := n.body.(type) {
	case *directory:
		e.Type = fs.ModeDir
	case symlink:
		e.Type, e.Target = fs.ModeSymlink, string(body)
	}
	return e
}

// Blocks iterates over the blocks in the order of the list.
func (d *DAG) Blocks() iter.Seq[car.Block] {
	return func(yield func(car.Block) bool) {
		for i := range d.Len() {
			if !yield(d.At(i)) {
				return
			}
		}
	}
}

// list works out the order of the blocks and leaves out what was met before.
func (d *DAG) list() {
	// A list that grows leaves several of its size behind, which is most of the
	// memory of a file of many tiny blocks.
	most := len(d.shards)
	for i := range d.nodes.n {
		most++
		if f, ok := d.nodes.at(uint32(i)).body.(*file); ok {
			most += f.layout.nodes()
		}
	}
	slots := 64
	for slots < 2*most {
		slots *= 2
	}
	d.order = make([]ref, 0, most)
	d.walk(&seen{dag: d, table: make([]uint32, slots)}, 0, 0)
}

func (d *DAG) walk(s *seen, i, depth uint32) {
	switch body := d.nodes.at(i).body.(type) {
	case *file:
		d.walkFile(s, body.layout, ref{i, uint32(body.layout.root()), depth})
	case *directory:
		if body.sharded {
			d.walkShard(s, ref{i, body.shard, depth})
		} else if s.add(ref{i, 0, depth}) {
			for _, child := range d.entriesOf(body) {
				d.walk(s, child, depth+1)
			}
		}
	default:
		s.add(ref{i, 0, depth})
	}
}

func (d *DAG) walkFile(s *seen, l *layout, r ref) {
	if !s.add(r) {
		return // and neither are its children new
	}
	if int(r.block) < l.leaves {
		return
	}
	for child := range l.children(int(r.block)) {
		d.walkFile(s, l, ref{r.node, uint32(child), r.depth + 1})
	}
}

func (d *DAG) walkShard(s *seen, r ref) {
	if !s.add(r) {
		return
	}
	for link := range d.links(r.block) {
		if link.sub {
			d.walkShard(s, ref{r.node, link.index, r.depth + 1})
		} else {
			d.walk(s, link.index, r.depth+1)
		}
	}
}

// key is what makes a block the same as another: its digest and whether it is
// a raw leaf, since one digest can stand for two CIDs.
func (d *DAG) key(r ref) (digest []byte, raw bool) {
	n := d.nodes.at(r.node)
	switch body := n.body.(type) {
	case *file:
		return digestAt(body.digests, int(r.block)), body.layout.raw(int(r.block))
	case *directory:
		if body.sharded {
			return d.shards[r.block].digest[:], false
		}
	}
	return n.digest[:], n.raw
}

// seen is the set of blocks listed so far. It is a hash table of positions in
// the list, at 8 to 16 bytes a block; a digest is its own hash.
type seen struct {
	dag   *DAG
	table []uint32 // 1 + position; 0 is free
}

// add lists the block unless it was listed before.
func (s *seen) add(r ref) bool {
	slot, found := s.find(r)
	if found {
		return false
	}
	s.dag.order = append(s.dag.order, r)
	s.dag.depth = max(s.dag.depth, r.depth)
	s.table[slot] = uint32(len(s.dag.order))
	if 2*len(s.dag.order) > len(s.table) {
		s.table = make([]uint32, 2*len(s.table))
		for i, r := range s.dag.order {
			slot, _ := s.find(r)
			s.table[slot] = uint32(i + 1)
		}
	}
	return true
}

func (s *seen) find(r ref) (slot int, found bool) {
	digest, raw := s.dag.key(r)
	mask := len(s.table) - 1
	for slot = int(binary.LittleEndian.Uint32(digest)) & mask; s.table[slot] != 0; slot = (slot + 1) & mask {
		other, otherRaw := s.dag.key(s.dag.order[s.table[slot]-1])
		if string(other) == string(digest) && raw == otherRaw {
			return slot, true
		}
	}
	return slot, false
}
