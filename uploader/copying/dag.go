package copying

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// DAG is a description of a DAG that takes some 50 bytes for each block. It is
// also the source of the payloads, one after the other, as if they were a file.
// Each opened file fetches what is read from it.
type DAG struct {
	in      *Input
	head    []byte // payload of the root, if its CID contains it
	cids    []byte // concatenated
	entries []entry
}

// entry is a block. It begins where the previous one ends.
type entry struct {
	end   int64  // of its payload
	cid   uint32 // end of its CID in cids
	depth uint16
	leaf  bool // has no links
}

func newDAG(in *Input) *DAG { return &DAG{in: in} }

var errTooManyBlocks = errors.New("the DAG has more blocks than can be copied at once")

// add adds a block. Only the first may be contained in its CID.
func (d *DAG) add(c cid.Cid, size, depth int, leaf bool) error {
	if len(d.cids)+c.ByteLen() > 1<<32-1 {
		return errTooManyBlocks
	}
	if data, ok := links.Identity(c); ok {
		d.head, size = data, 0
	}
	d.cids = append(d.cids, c.KeyString()...)
	d.entries = append(d.entries, entry{d.start(len(d.entries)) + int64(size), uint32(len(d.cids)), uint16(depth), leaf})
	return nil
}

// start returns the offset of the payload of block i.
func (d *DAG) start(i int) int64 {
	if i == 0 {
		return 0
	}
	return d.entries[i-1].end
}

// length returns the length of the payload of block i, unless its CID contains
// it.
func (d *DAG) length(i int) int { return int(d.entries[i].end - d.start(i)) }

func (d *DAG) cid(i int) cid.Cid {
	from := uint32(0)
	if i > 0 {
		from = d.entries[i-1].cid
	}
	_, c, err := cid.CidFromBytes(d.cids[from:d.entries[i].cid])
	if err != nil {
		panic(err) // it was a CID when it was added
	}
	return c
}

// section returns the size of block i in an archive.
func (d *DAG) section(i int) int64 {
	b := d.At(i)
	return b.SectionSize()
}

// Root returns the root CID.
func (d *DAG) Root() cid.Cid { return d.in.root }

// Size is the number of payload bytes, each block counted once.
func (d *DAG) Size() int64 { return int64(len(d.head)) + d.start(len(d.entries)) }

// Len implements [car.List].
func (d *DAG) Len() int { return len(d.entries) }

// At implements [car.List].
func (d *DAG) At(i int) car.Block {
	b := car.Block{Cid: d.cid(i), Depth: int(d.entries[i].depth)}
	if i == 0 && d.head != nil {
		b.Head = d.head
		return b
	}
	b.Source, b.Offset, b.Length = (*source)(d), d.start(i), d.length(i)
	return b
}

// find returns the block whose payload has this offset and size.
func (d *DAG) find(off int64, size int) (int, error) {
	i := sort.Search(len(d.entries), func(i int) bool { return d.entries[i].end >= off+int64(size) && d.start(i) >= off })
	if i == len(d.entries) || d.start(i) != off || d.length(i) != size {
		return 0, fmt.Errorf("no block of %d bytes begins at offset %d", size, off)
	}
	return i, nil
}

// planVersion is the first byte of an encoded DAG.
const planVersion = 1

// MarshalBinary implements [encoding.BinaryMarshaler].
func (d *DAG) MarshalBinary() ([]byte, error) {
	p := []byte{planVersion}
	p = binary.AppendUvarint(p, uint64(len(d.entries)))
	for i, e := range d.entries {
		flags := uint64(e.depth) << 1
		if e.leaf {
			flags |= 1
		}
		p = binary.AppendUvarint(p, flags)
		p = binary.AppendUvarint(p, uint64(d.length(i)))
		p = append(p, d.cid(i).KeyString()...)
	}
	return binary.BigEndian.AppendUint32(p, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))), nil
}

var errPlan = errors.New("not a description of this DAG")

// unmarshal is the inverse of MarshalBinary.
func (d *DAG) unmarshal(p []byte) error {
	if len(p) < 6 || p[0] != planVersion {
		return errPlan
	}
	body, sum := p[:len(p)-4], binary.BigEndian.Uint32(p[len(p)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return errPlan
	}
	rest := body[1:]
	next := func() uint64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 {
			rest = nil
			return 0
		}
		rest = rest[n:]
		return v
	}
	for range next() {
		flags, size := next(), next()
		n, c, err := cid.CidFromBytes(rest)
		if err != nil || size > car.MaxBlockBytes || flags>>1 > links.MaxDepth {
			return errPlan
		}
		rest = rest[n:]
		if err := d.add(c, int(size), int(flags>>1), flags&1 != 0); err != nil {
			return err
		}
	}
	if len(rest) > 0 || len(d.entries) == 0 || !d.cid(0).Equals(d.in.root) {
		return errPlan
	}
	return nil
}
