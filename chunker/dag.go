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

// DAG is a described DAG: the digest of every block, and where its bytes can be
// read again. It holds no payload. It is a [car.List] of its blocks: depth
// first, parents before children, each CID once. It is immutable and safe for
// concurrent use.
type DAG struct {
	profile Profile
	plain   Profile // of nodes without metadata
	framed  Profile // of nodes with metadata, which never have raw leaves

	nodes   nodes
	entries []uint32 // indexes of nodes, directory by directory, in the order of links
	shards  []shard
	mounts  map[*node]string // where on disk the files below a node are
	skipped []Skipped
	refused int64 // number of entries left out because they could not be taken

	filtered int64 // number of entries on disk left out because of the options

	once  sync.Once
	order []ref  // the blocks as a list
	depth uint32 // of the deepest block

	described time.Time // when all bytes had been read

	// Every shard asks for the blocks on the path to its first new block.
	// Blocks with many links are expensive to make, so the last one is kept.
	recent atomic.Pointer[recentBlock]
}

// recentBlock is the last block worth keeping that At made.
type recentBlock struct {
	at    int
	block car.Block
}

const recentMinBytes = 4 << 10

// node is a file, a directory or a symlink. There can be millions, so it takes
// only 104 bytes, and a small file on disk refers to nothing but its name.
type node struct {
	name   string
	digest [digestSize]byte // of its root block
	size   int64            // bytes of the file, or of all files below
	tsize  int64            // cumulative size of its blocks
	body   any              // nil: one leaf on disk; or car.Source (one leaf), *file, *directory, symlink
	stat   *Stat            // metadata to store, or nil
	parent *node            // nil for the root
	raw    bool             // whether the root block is a raw leaf
	absent bool             // whether its directory leaves it out
}

// file is the body of a file node with more than one leaf.
type file struct {
	source  car.Source
	layout  *layout
	digests []byte // 32 bytes each, by number in layout
}

// directory is the body of a directory node.
type directory struct {
	first, count uint32 // range of DAG.entries
	shard        uint32 // index of its root in DAG.shards, if sharded
	sharded      bool
}

// symlink is the body of a symlink node: the target.
type symlink string

// nodes is a list whose elements do not move while it grows.
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

// ref refers to a block: the node, and which of its blocks. For a file that is
// a number of its layout, for a sharded directory an index of DAG.shards.
type ref struct{ node, block, depth uint32 }

// Skipped is something in a tree on disk that UnixFS cannot represent.
type Skipped struct {
	Path   string
	Reason string
}

// Profile returns the profile that the DAG was built with.
func (d *DAG) Profile() Profile { return d.profile }

// Root returns the root CID.
func (d *DAG) Root() cid.Cid {
	n := d.nodes.at(0)
	return makeCID(d.plain.cidPrefix(n.raw), n.digest[:])
}

// Size is the number of payload bytes.
func (d *DAG) Size() int64 { return d.nodes.at(0).size }

// Skipped lists what was found on disk and left out because it is neither a
// file nor a directory nor a symlink, ordered by path. If [Options.Refused] is
// set, it is empty: Refused is called instead.
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
		p := d.profileOf(n)
		b.Cid = makeCID(p.cidPrefix(n.raw), n.digest[:])
		b = p.leafBlock(b, d.source(n), 0, n.size, n.meta())
	}
	b.Depth = int(r.depth)
	if len(b.Head) >= recentMinBytes {
		d.recent.Store(&recentBlock{i, b})
	}
	return b
}

// profileOf returns the profile that applies to a node.
func (d *DAG) profileOf(n *node) *Profile {
	if n.stat != nil {
		return &d.framed
	}
	return &d.plain
}

// meta returns the fields that a node's metadata add to its UnixFS message.
func (n *node) meta() string {
	if n.stat == nil {
		return ""
	}
	return string(n.stat.append(nil))
}

// source returns where the bytes of a file are.
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

// diskFile is a file of a tree on disk as a [car.Source]. Its path is built
// only when needed.
type diskFile struct {
	dag  *DAG
	node *node
}

func (f diskFile) Name() string                  { return f.dag.path(f.node) }
func (f diskFile) Size() int64                   { return f.node.size }
func (f diskFile) Open() (car.SourceFile, error) { return reopen(f.Name(), f.node.size) }

// path returns the path of a node on disk, or in the DAG if it is not on disk.
func (d *DAG) path(n *node) string {
	if base, ok := d.mounts[n]; ok {
		return base
	}
	if n.parent == nil {
		return n.name
	}
	return filepath.Join(d.path(n.parent), n.name)
}

// Filtered is the number of directory entries on disk that the options left
// out. A directory that is left out counts as one entry.
func (d *DAG) Filtered() int64 { return d.filtered }

// Entry is an entry of a directory.
type Entry struct {
	Name   string
	Path   string      // below the root, with slashes; ends in Name
	Type   fs.FileMode // 0 for a file, [fs.ModeDir] or [fs.ModeSymlink]
	Cid    cid.Cid
	Size   int64  // bytes of the file, or of all files below
	Target string // of a symlink
}

// Entries yields the entries of the root, if it is a directory, in the order of
// its links.
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

// AllEntries yields everything below the root. A directory follows what is in
// it, and the entries of a directory are ordered by name, byte by byte. It
// needs memory for the current path, and 4 bytes for each entry of the
// directories on that path.
func (d *DAG) AllEntries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) { d.entriesBelow("", d.nodes.at(0), yield) }
}

func (d *DAG) entriesBelow(path string, n *node, yield func(Entry) bool) bool {
	dir, ok := n.body.(*directory)
	if !ok {
		return true
	}
	kids := d.entriesOf(dir)
	if dir.sharded { // the links are in the order of a hash
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
	e := Entry{Name: n.name, Path: n.name, Cid: makeCID(d.profileOf(n).cidPrefix(n.raw), n.digest[:]), Size: n.size}
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

// Blocks yields the blocks in the order of the list.
func (d *DAG) Blocks() iter.Seq[car.Block] {
	return func(yield func(car.Block) bool) {
		for i := range d.Len() {
			if !yield(d.At(i)) {
				return
			}
		}
	}
}

// list determines the order of the blocks, and leaves out duplicates.
func (d *DAG) list() {
	// A growing slice leaves old copies behind. For a file of many tiny blocks
	// those would be most of the memory.
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
		return // then its children are not new either
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

// key identifies a block: its digest, and whether it is a raw leaf, since the
// same digest can belong to two CIDs.
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

// seen is the set of blocks listed so far: a hash table of positions in the
// list, at 8 to 16 bytes a block. A digest is its own hash.
type seen struct {
	dag   *DAG
	table []uint32 // 1 + position; 0 is a free slot
}

// add lists a block unless it is listed already. It reports whether it did.
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
