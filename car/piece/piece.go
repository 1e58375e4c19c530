// Package piece computes Filecoin piece CIDs, by which storage providers and
// deals refer to a piece of data such as a CAR file.
//
// A piece is its bytes, padded with zeros until the padded size is a power of
// two. Padding also includes fr32: every 254 bits become 256, because the field
// elements of Filecoin's proofs hold no more. The commitment is the root of a
// binary tree over the resulting 32-byte leaves. Its hash function is SHA-256
// with the two top bits cleared. A [Hasher] is an io.Writer that computes the
// commitment as bytes stream through it. The hashers of one [Pool] share the
// machine's cores and a bounded number of buffers.
//
// There are two versions of piece CIDs. Version 1 (baga6ea4seaq…) contains only
// the commitment, so the padded size has to be passed along with it. Version 2
// (bafkzcib…), defined by FRC-0069, contains the sizes as well.
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

// The codec and hash functions of piece CIDs.
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

// MaxRawSize is the number of bytes in the largest piece, whose padded size is
// 64 GiB.
const MaxRawSize = nodeBytes << maxHeight / quadPadded * quadRaw

// ErrTooLarge means that there are more bytes than the largest piece holds.
var ErrTooLarge = errors.New("larger than the largest Filecoin piece")

// Piece is the commitment to a sequence of bytes.
type Piece struct {
	Commitment [nodeBytes]byte
	RawSize    int64 // number of bytes before padding; -1 if unknown
}

// PaddedSize is the size that deals use: a power of two, with zeros and fr32
// padding included. It is at least 128.
func (p Piece) PaddedSize() int64 { return PaddedSize(p.RawSize) }

// PaddedSize is the padded size of a piece of n bytes.
func PaddedSize(n int64) int64 { return nodeBytes << height(n) }

// MaxRaw is the number of bytes that fit into a piece of this padded size,
// which must be a power of two.
func MaxRaw(padded int64) int64 { return padded / quadPadded * quadRaw }

// height is the height of the tree over n bytes.
func height(n int64) int {
	quads := uint64(n+quadRaw-1) / quadRaw
	if quads <= 1 {
		return minHeight
	}
	return minHeight + bits.Len64(quads-1)
}

// V1 returns the piece CID of version 1, which does not contain the size.
func (p Piece) V1() cid.Cid {
	return cid.NewCidV1(codecUnsealed, encode(hashV1, p.Commitment[:]))
}

// V2 returns the piece CID of version 2, which contains both sizes.
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

// ErrNotPiece means that a CID is not a piece CID.
var ErrNotPiece = errors.New("not a piece CID")

// Parse decodes a piece CID of either version. RawSize is -1 for version 1,
// which does not contain it. Errors match [ErrNotPiece].
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
		// With more padding than this, a lower tree would do.
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
