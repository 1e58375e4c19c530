// Package piece computes Filecoin piece CIDs: what storage providers and deals
// call a piece of data by, such as one CAR file.
//
// A piece is its bytes and then zeros, so many that the padded size is a power
// of two. Padding is fr32: each 254 bits become 256, for the field elements of
// Filecoin's proofs have no more. The commitment is the root of a binary tree
// over the 32-byte leaves of that, hashed with SHA-256 of which two bits are
// cleared. A [Hasher] is an io.Writer that computes it as the bytes stream by;
// the hashers of one [Pool] share the machine's cores and a bounded number of
// buffers.
//
// A piece CID comes in two versions. Version 1 (baga6ea4seaq…) has the
// commitment alone; who uses it passes the padded size along. Version 2
// (bafkzcib…) is that of FRC-0069 and has the sizes in it.
package piece

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// What a piece CID is made of.
const (
	codecUnsealed = 0xf101 // fil-commitment-unsealed
	hashV1        = 0x1012 // sha2-256-trunc254-padded
	hashV2        = 0x1011 // fr32-sha256-trunc254-padbintree
)

const (
	nodeBytes  = 32
	quadRaw    = 127 // bytes that become four leaves
	quadPadded = 128

	minHeight = 2  // of a tree over one quad
	maxHeight = 31 // 64 GiB, the largest sector
)

// MaxRawSize is how many bytes the largest piece has, one of 64 GiB.
const MaxRawSize = nodeBytes << maxHeight / quadPadded * quadRaw

// ErrTooLarge means more bytes than the largest piece has.
var ErrTooLarge = errors.New("larger than the largest Filecoin piece")

// Piece is the commitment to some bytes.
type Piece struct {
	Commitment [nodeBytes]byte
	RawSize    int64 // of the bytes
}

// PaddedSize is the size on which deals are made: with the zeros and the bits
// of fr32, a power of two. It is at least 128.
func (p Piece) PaddedSize() int64 { return PaddedSize(p.RawSize) }

// PaddedSize is the padded size of a piece of n bytes.
func PaddedSize(n int64) int64 { return nodeBytes << height(n) }

// MaxRaw is how many bytes fit into a piece of this padded size, a power of two.
func MaxRaw(padded int64) int64 { return padded / quadPadded * quadRaw }

// height is that of the tree over n bytes.
func height(n int64) int {
	quads := uint64(n+quadRaw-1) / quadRaw
	if quads <= 1 {
		return minHeight
	}
	return minHeight + bits.Len64(quads-1)
}

// V1 is the piece CID of version 1. It does not tell the size.
func (p Piece) V1() cid.Cid {
	return cid.NewCidV1(codecUnsealed, encode(hashV1, p.Commitment[:]))
}

// V2 is the piece CID of version 2, which tells both sizes.
func (p Piece) V2() cid.Cid {
	h := height(p.RawSize)
	digest := binary.AppendUvarint(nil, uint64(MaxRaw(nodeBytes<<h)-p.RawSize))
	digest = append(digest, byte(h))
	return cid.NewCidV1(cid.Raw, encode(hashV2, append(digest, p.Commitment[:]...)))
}

func encode(code uint64, digest []byte) multihash.Multihash {
	mh := binary.AppendUvarint(nil, code)
	mh = binary.AppendUvarint(mh, uint64(len(digest)))
	return append(mh, digest...)
}

// ErrNotPiece means a CID that is not that of a piece.
var ErrNotPiece = errors.New("not a piece CID")

// Parse takes a piece CID of either version apart. Of version 1 the raw size is
// not known, and -1. The error matches [ErrNotPiece].
func Parse(c cid.Cid) (Piece, error) {
	fail := func(why string) (Piece, error) { return Piece{}, fmt.Errorf("%s: %w: %s", c, ErrNotPiece, why) }
	if !c.Defined() {
		return Piece{}, ErrNotPiece
	}
	mh, err := multihash.Decode(c.Hash())
	if err != nil {
		return fail(err.Error())
	}
	p := Piece{RawSize: -1}
	switch {
	case c.Type() == codecUnsealed && mh.Code == hashV1:
		if len(mh.Digest) != nodeBytes {
			return fail(fmt.Sprintf("a commitment of %d bytes", len(mh.Digest)))
		}
		copy(p.Commitment[:], mh.Digest)
	case c.Type() == cid.Raw && mh.Code == hashV2:
		padding, n, err := varint.FromUvarint(mh.Digest)
		if err != nil {
			return fail(err.Error())
		}
		if len(mh.Digest) != n+1+nodeBytes {
			return fail(fmt.Sprintf("a digest of %d bytes", len(mh.Digest)))
		}
		h := mh.Digest[n]
		if h < minHeight || h > maxHeight {
			return fail(fmt.Sprintf("a tree of height %d", h))
		}
		full := MaxRaw(nodeBytes << h)
		// With more padding than that the tree would be lower.
		if padding > uint64(full) || height(full-int64(padding)) != int(h) {
			return fail(fmt.Sprintf("%d bytes of padding in a tree of height %d", padding, h))
		}
		p.RawSize = full - int64(padding)
		copy(p.Commitment[:], mh.Digest[n+1:])
	default:
		return fail(fmt.Sprintf("codec 0x%x, hash function 0x%x", c.Type(), mh.Code))
	}
	if p.Commitment[nodeBytes-1]&^lastBits != 0 {
		return fail("a commitment of more than 254 bits")
	}
	return p, nil
}
