package piece

import (
	"encoding/binary"

	"github.com/carload/carload/internal/sha256mb"
)

type node = [nodeBytes]byte

// lastBits are the bits that may be set in the last byte of a node, which is a
// 254-bit number, lowest byte first.
const lastBits = 0x3f

// A strip is 32 KiB, and hashed in place, level by level, while it is in the
// fastest cache. Its top levels have too few nodes to fill the lanes, so a
// strip stops at stripKeep nodes, and the nodes of many strips are hashed
// together.
const (
	stripHeight = 10
	stripQuads  = 1 << stripHeight / 4
	stripKeep   = 4
	keepLevel   = stripHeight - 2
)

// A tile is what a goroutine hashes at a time: 1 MiB with padding.
const (
	tileHeight = 15
	tileRaw    = nodeBytes << tileHeight / quadPadded * quadRaw
	tileStrips = 1 << (tileHeight - stripHeight)
)

// zeros are the roots of all-zero trees, by height.
var zeros = func() (z [maxHeight + 1]node) {
	for i := range maxHeight {
		z[i+1] = join(&z[i], &z[i])
	}
	return z
}()

// join returns the parent of two nodes.
func join(left, right *node) (up node) {
	var pair [2 * nodeBytes]byte
	copy(pair[:], left[:])
	copy(pair[nodeBytes:], right[:])
	level(up[:], pair[:])
	return up
}

// level hashes the nodes of src in pairs. dst may overlap src.
func level(dst, src []byte) {
	sha256mb.SumPairs(dst, src)
	for i := nodeBytes - 1; i < len(dst); i += nodeBytes {
		dst[i] &= lastBits
	}
}

// climb computes the nodes of level to from those of level from, in place. A
// node without a neighbour is joined with zeros, for which nodes must have
// room.
func climb(nodes []byte, from, to int) []byte {
	for ; from < to; from++ {
		if len(nodes)%(2*nodeBytes) != 0 {
			nodes = append(nodes, zeros[from][:]...)
		}
		up := nodes[:len(nodes)/2]
		level(up, nodes)
		nodes = up
	}
	return nodes
}

// scratch is the working memory for hashing a tile.
type scratch struct {
	strip [nodeBytes << stripHeight]byte
	kept  [(tileStrips*stripKeep + 1) * nodeBytes]byte
}

// root returns the root of the tree of height top over raw, padded with zeros.
// raw is at least one byte, at most a tile, and fits into the tree.
func (s *scratch) root(raw []byte, top int) node {
	if top < stripHeight {
		return node(climb(s.expand(raw, 1<<(top-2)), 0, top))
	}
	kept := s.kept[:0]
	for len(raw) > 0 {
		n := min(len(raw), stripQuads*quadRaw)
		kept = append(kept, climb(s.expand(raw[:n], stripQuads), 0, keepLevel)...)
		raw = raw[n:]
	}
	return node(climb(kept, keepLevel, top))
}

// expand writes raw bytes to the strip, followed by zeros, as so many quads.
func (s *scratch) expand(raw []byte, quads int) []byte {
	whole := len(raw) / quadRaw
	out := s.strip[:quads*quadPadded]
	expand(out, raw[:whole*quadRaw])
	if rest := raw[whole*quadRaw:]; len(rest) > 0 {
		var last [quadRaw]byte
		copy(last[:], rest)
		expand(out[whole*quadPadded:], last[:])
		whole++
	}
	clear(out[whole*quadPadded:])
	return out
}

// expand turns each 127 bytes into four leaves: two zero bits follow each 254.
func expand(dst, src []byte) {
	const mask = 1<<62 - 1
	le := binary.LittleEndian
	for len(src) >= quadRaw && len(dst) >= quadPadded {
		in, out := (*[quadRaw]byte)(src), (*[quadPadded]byte)(dst)
		w3, w7, w11 := le.Uint64(in[24:]), le.Uint64(in[56:]), le.Uint64(in[88:])

		copy(out[:24], in[:24])
		le.PutUint64(out[24:], w3&mask)

		a, b, c := le.Uint64(in[32:]), le.Uint64(in[40:]), le.Uint64(in[48:])
		le.PutUint64(out[32:], w3>>62|a<<2)
		le.PutUint64(out[40:], a>>62|b<<2)
		le.PutUint64(out[48:], b>>62|c<<2)
		le.PutUint64(out[56:], (c>>62|w7<<2)&mask)

		a, b, c = le.Uint64(in[64:]), le.Uint64(in[72:]), le.Uint64(in[80:])
		le.PutUint64(out[64:], w7>>60|a<<4)
		le.PutUint64(out[72:], a>>60|b<<4)
		le.PutUint64(out[80:], b>>60|c<<4)
		le.PutUint64(out[88:], (c>>60|w11<<4)&mask)

		a, b, c = le.Uint64(in[96:]), le.Uint64(in[104:]), le.Uint64(in[112:])
		last := le.Uint64(in[119:]) >> 8 // seven bytes are left
		le.PutUint64(out[96:], w11>>58|a<<6)
		le.PutUint64(out[104:], a>>58|b<<6)
		le.PutUint64(out[112:], b>>58|c<<6)
		le.PutUint64(out[120:], (c>>58|last<<6)&mask)

		src, dst = src[quadRaw:], dst[quadPadded:]
	}
}
