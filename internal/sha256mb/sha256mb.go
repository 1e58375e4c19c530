// Package sha256mb computes SHA-256 of many independent messages at once on
// one core.
//
// One SHA-256 stream is bound by the latency of its round instruction and
// leaves most of a core idle. Independent messages can share the core: their
// rounds are interleaved in lanes. [Sum] hashes complete messages, [Update]
// advances running hashes together, and [Pool] lets goroutines that each feed
// one long stream share lanes with one another. [SumPairs] hashes a level of a
// binary tree of digests.
//
// Lanes need the SHA instructions of amd64 or arm64. How many are worth it, and
// with which code, is measured before the first message is hashed: [Ways] tells.
// Elsewhere, and with the build tag purego, everything here is crypto/sha256.
//
// Everything here is safe for concurrent use, except that one [Digest] belongs
// to one goroutine at a time. Nothing allocates per message. The answers are
// those of crypto/sha256, always.
package sha256mb

import (
	"crypto/sha256"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Sum writes the SHA-256 of msgs[i] to out[i]. The slices have equal lengths.
func Sum(out [][Size]byte, msgs [][]byte) {
	p := current()
	if p.width == 0 {
		for i, m := range msgs {
			out[i] = sha256.Sum256(m)
		}
		return
	}
	// The compiler leaves all this on the stack only while every address is
	// stored by its full name, not through a pointer or a method.
	var (
		work [maxLanes]struct {
			stream
			state [8]uint32
			tail  [2 * blockSize]byte
			out   *[Size]byte
		}
		lanes  [maxLanes]*stream
		loaded int
	)
	for {
		busy := false
		for i := range p.width {
			if !work[i].idle() {
				busy = true
				continue
			}
			if work[i].out != nil {
				putDigest(work[i].out, &work[i].state)
				work[i].out = nil
			}
			if loaded < len(msgs) {
				m := msgs[loaded]
				whole := len(m) &^ (blockSize - 1)
				tail := pad(&work[i].tail, m[whole:], uint64(len(m)))
				work[i].now, work[i].next = m[:whole], tail
				if whole == 0 {
					work[i].now, work[i].next = tail, nil
				}
				work[i].state = initial
				work[i].h = &work[i].state
				work[i].out = &out[loaded]
				lanes[i] = &work[i].stream
				loaded++
				busy = true
			}
		}
		if !busy {
			return
		}
		p.move(&lanes, maxStep)
	}
}

// Update writes data[i] to ds[i], advancing all of them together. The slices
// have equal lengths and the digests are distinct.
func Update(ds []*Digest, data [][]byte) {
	p := current()
	if p.width == 0 {
		for i, d := range ds {
			_, _ = d.Write(data[i])
		}
		return
	}
	var work [maxLanes]update
	var lanes [maxLanes]*stream
	for i := range p.width {
		lanes[i] = &work[i].stream
	}
	loaded := 0
	for {
		busy := false
		for i := range p.width {
			w := &work[i]
			// A loop: what only fills a digest's buffer is done at once.
			for w.idle() {
				w.finish()
				if loaded == len(ds) {
					break
				}
				w.begin(ds[loaded], data[loaded])
				loaded++
			}
			busy = busy || !w.idle()
		}
		if !busy {
			return
		}
		p.move(&lanes, maxStep)
	}
}
