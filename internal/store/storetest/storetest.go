// Package storetest makes DAGs and CARs for tests of the store and of the
// packages above it. It shares no code with what it tests.
package storetest

import (
	"bytes"
	"encoding/binary"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// Block is a block of a DAG.
type Block struct {
	CID  cid.Cid
	Data []byte
}

// BlockOf makes a block whose CID is the SHA-256 of data.
func BlockOf(codec uint64, data []byte) Block { return HashedBlock(codec, multihash.SHA2_256, data) }

// HashedBlock makes a block whose CID uses any hash function.
func HashedBlock(codec, hash uint64, data []byte) Block {
	mh, err := multihash.Sum(data, hash, -1)
	if err != nil {
		panic(err)
	}
	return Block{cid.NewCidV1(codec, mh), data}
}

// Raw makes a leaf.
func Raw(s string) Block { return BlockOf(cid.Raw, []byte(s)) }

// PBNode makes a DAG-PB node with these children. The tag tells it apart from
// other nodes with the same children.
func PBNode(tag string, children ...cid.Cid) Block {
	var p []byte
	field := func(dst []byte, n int, v []byte) []byte {
		dst = append(dst, byte(n<<3|2))
		dst = binary.AppendUvarint(dst, uint64(len(v)))
		return append(dst, v...)
	}
	for _, c := range children {
		l := field(nil, 1, c.Bytes())
		l = field(l, 2, nil)
		l = append(l, 3<<3, 100)
		p = field(p, 2, l)
	}
	return BlockOf(cid.DagProtobuf, field(p, 1, []byte(tag)))
}

// CBORNode makes a DAG-CBOR list of the tag and the children.
func CBORNode(tag string, children ...cid.Cid) Block {
	p := []byte{0x99, 0, 0}
	binary.BigEndian.PutUint16(p[1:], uint16(len(children)+1))
	if len(children)+1 < 256 {
		p = []byte{0x98, byte(len(children) + 1)}
		if len(children)+1 < 24 {
			p = []byte{0x80 | byte(len(children)+1)}
		}
	}
	p = append(append(p, 0x60|byte(len(tag))), tag...)
	for _, c := range children {
		p = append(p, 0xd8, 42, 0x58, byte(c.ByteLen()+1), 0)
		p = append(p, c.Bytes()...)
	}
	return BlockOf(cid.DagCBOR, p)
}

// CARFile makes a CARv1 without checking anything.
func CARFile(roots []cid.Cid, blocks ...Block) []byte {
	h := []byte{0xa2, 0x65, 'r', 'o', 'o', 't', 's', 0x80 | byte(len(roots))}
	for _, r := range roots {
		h = append(h, 0xd8, 42, 0x58, byte(r.ByteLen()+1), 0)
		h = append(h, r.Bytes()...)
	}
	h = append(h, 0x67, 'v', 'e', 'r', 's', 'i', 'o', 'n', 1)
	out := append(varint.ToUvarint(uint64(len(h))), h...)
	for _, b := range blocks {
		out = append(out, varint.ToUvarint(uint64(b.CID.ByteLen()+len(b.Data)))...)
		out = append(out, b.CID.Bytes()...)
		out = append(out, b.Data...)
	}
	return out
}

// CAROf makes a CAR whose root is the first block.
func CAROf(blocks ...Block) []byte { return CARFile([]cid.Cid{blocks[0].CID}, blocks...) }

// Flip returns a copy of p with one bit changed. A negative at counts from the
// end.
func Flip(p []byte, at int) []byte {
	p = bytes.Clone(p)
	if at < 0 {
		at += len(p)
	}
	p[at] ^= 1
	return p
}
