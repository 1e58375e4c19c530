package chunker

import (
	"encoding/binary"
	"iter"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// DAG is a described DAG: the digest of every block, and where its bytes can
// be read again. It holds no payload. It is a [car.List] of its blocks: depth
// first, parents before children, each CID once. It does not change, and may
// be used by several goroutines at a time.
type DAG struct {
	profile Profile
	root    cid.Cid
	size    int64
	tsize   int64
	files   []file

	once  sync.Once
	order []ref // the blocks as a list
}

// file is the part of a DAG that is made of one source.
type file struct {
	source  car.Source
	layout  *layout
	digests []byte // leaves, then each level above; 32 bytes a node
	depth   int    // of the file's root in the DAG
}

// ref is a block: the index of its file and its position in the digests.
type ref struct{ file, pos uint32 }

// Profile is the recipe the DAG was built with.
func (d *DAG) Profile() Profile { return d.profile }

// Root is the CID of the DAG.
func (d *DAG) Root() cid.Cid { return d.root }

// Size is the number of payload bytes described.
func (d *DAG) Size() int64 { return d.size }

// TotalSize is the cumulative size of the blocks, duplicates counted each
// time: what IPFS calls Tsize.
func (d *DAG) TotalSize() int64 { return d.tsize }

// Len implements [car.List].
func (d *DAG) Len() int {
	d.once.Do(d.list)
	return len(d.order)
}

// At implements [car.List].
func (d *DAG) At(i int) car.Block {
	d.once.Do(d.list)
	r := d.order[i]
	f := &d.files[r.file]
	level, index := f.layout.at(int(r.pos))
	b := f.layout.block(f.source, level, index, f.digests)
	b.Depth += f.depth
	return b
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
	seen := newSeen(d)
	for i := range d.files {
		l := d.files[i].layout
		d.walk(seen, uint32(i), l.top(), 0)
	}
}

func (d *DAG) walk(seen *seen, file uint32, level, i int) {
	l := d.files[file].layout
	if !seen.add(ref{file, uint32(l.level[level].first + i)}) {
		return // and neither are its children new
	}
	if level == 0 {
		return
	}
	from := i * l.profile.Width
	for k := from; k < from+l.children(level, i); k++ {
		d.walk(seen, file, level-1, k)
	}
}

// key is what makes a block the same as another: its digest and whether it is
// a raw leaf, since one digest can stand for two CIDs.
func (d *DAG) key(r ref) (digest []byte, raw bool) {
	f := &d.files[r.file]
	pos := int(r.pos)
	raw = f.layout.profile.RawLeaves && pos < f.layout.level[0].count
	return f.digests[pos*digestSize : (pos+1)*digestSize], raw
}

// seen is the set of blocks listed so far. It is a hash table of positions in
// the list, at 8 to 16 bytes a block; a digest is its own hash.
type seen struct {
	dag   *DAG
	table []uint32 // 1 + position; 0 is free
}

func newSeen(d *DAG) *seen { return &seen{dag: d, table: make([]uint32, 64)} }

// add lists the block unless it was listed before.
func (s *seen) add(r ref) bool {
	slot, found := s.find(r)
	if found {
		return false
	}
	s.dag.order = append(s.dag.order, r)
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
