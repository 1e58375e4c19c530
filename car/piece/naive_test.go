package piece_test

import (
	"crypto/sha256"
	"math/bits"
)

// naive computes a commitment as the specification describes it, bit by bit and
// node by node.
func naive(raw []byte) (root [32]byte, padded int) {
	quads := max(1, (len(raw)+126)/127)
	leaves := 4 << bits.Len(uint(quads-1))
	level := make([][32]byte, leaves)
	for i := range len(raw) * 8 {
		if raw[i/8]>>(i%8)&1 == 1 {
			leaf, bit := i/254, i%254
			level[leaf][bit/8] |= 1 << (bit % 8)
		}
	}
	for len(level) > 1 {
		up := make([][32]byte, len(level)/2)
		for i := range up {
			up[i] = sha256.Sum256(append(level[2*i][:], level[2*i+1][:]...))
			up[i][31] &= 0b0011_1111
		}
		level = up
	}
	return level[0], leaves * 32
}
