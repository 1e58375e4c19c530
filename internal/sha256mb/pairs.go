package sha256mb

import "crypto/sha256"

// pairSize is the length of a message of SumPairs: two digests, one block.
const pairSize = 2 * Size

// pairEnd is the second block of every message of SumPairs.
var pairEnd = func() (end [blockSize]byte) {
	end[0] = 0x80
	end[blockSize-2] = pairSize * 8 >> 8
	return end
}()

// SumPairs writes the SHA-256 of each 64 bytes of src to the next 32 bytes of
// dst. This computes one level of a binary tree of digests. It panics unless
// src holds n times 64 bytes and dst n times 32. If dst starts where src does,
// the level replaces the one below; otherwise the two must not overlap.
func SumPairs(dst, src []byte) {
	n := len(src) / pairSize
	if len(src) != n*pairSize || len(dst) != n*Size {
		panic("sha256mb: SumPairs: lengths do not fit")
	}
	pl := current()
	if pl.width == 0 {
		for ; n > 0; n-- {
			sum := sha256.Sum256(src[:pairSize])
			copy(dst, sum[:])
			dst, src = dst[Size:], src[pairSize:]
		}
		return
	}
	var (
		states [maxLanes][8]uint32
		h      [maxLanes]*[8]uint32
		p, end [maxLanes]*byte
	)
	for i := range h {
		h[i], end[i] = &states[i], &pairEnd[0]
	}
	for n > 0 {
		w := pl.advance[min(n, maxLanes)]
		k := pl.kernels[w]
		if done := pairs(k.kernel, dst, src); done > 0 {
			dst, src, n = dst[done*Size:], src[done*pairSize:], n-done
			continue
		}
		for i := range k.lanes {
			states[i] = initial
			p[i] = &src[min(i, w-1)*pairSize]
		}
		blocks(k.kernel, &h, &p, 1)
		blocks(k.kernel, &h, &end, 1)
		for i := range w {
			putDigest((*[Size]byte)(dst[i*Size:]), &states[i])
		}
		dst, src, n = dst[w*Size:], src[w*pairSize:], n-w
	}
}
