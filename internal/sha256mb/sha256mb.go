// Package sha256mb computes SHA-256 of many independent messages at once on one
// core.
//
// The speed of a single SHA-256 stream is limited by the latency of its round
// instruction, which leaves most of a core idle. Independent messages can share
// the core: their rounds are interleaved in lanes. [Sum] hashes complete
// messages, [Update] advances running hashes together, and [Pool] lets
// goroutines that each feed one long stream share lanes. [SumPairs] hashes one
// level of a binary tree of digests.
//
// Lanes need the SHA instructions of amd64 or arm64. Before the first message
// is hashed, the package measures how many lanes pay off, and with which code;
// see [Ways]. On other machines, and with the build tag purego, crypto/sha256
// does all the work.
//
// Everything here is safe for concurrent use, except that a [Digest] may be
// used by only one goroutine at a time. Nothing allocates per message. The
// results always equal those of crypto/sha256.
package sha256mb

import (
	"crypto/sha256"
)

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Width returns how many messages it takes to make the most of a core.
func Width() int { return max(1, current().width) }

// Sum writes the SHA-256 of msgs[i] to out[i]. The slices must have equal
// lengths.
func Sum(out [][Size]byte, msgs [][]byte) {
	p := current()
	if p.width == 0 {
		for i, m := range msgs {
			out[i] = sha256.Sum256(m)
		}
		return
	}
	sum(p, nil, out, msgs)
}

// sum is Sum with the lanes of a plan. If pool is not nil, it also runs writes
// that were started there.
func sum(p *plan, pool *Pool, out [][Size]byte, msgs [][]byte) {
	// The compiler keeps all this on the stack only if every address is stored
	// by its full name, not through a pointer or a method.
	var (
		work [maxLanes]struct {
			stream
			state [8]uint32
			tail  [2 * blockSize]byte
			out   *[Size]byte // nil if the lane is free
		}
		guests [maxLanes]*Write
		loaded int       // messages put into lanes so far
		active int       // messages in lanes now
		n      int       // guests: writes of the pool in lanes now
		most   = p.width // messages in lanes at a time
		since  = maxStep
	)
	for {
		for i := range work {
			if work[i].out != nil && work[i].idle() {
				putDigest(work[i].out, &work[i].state)
				work[i].out = nil
				active--
			}
		}
		left := active + len(msgs) - loaded
		if pool != nil && (left == 0 || since >= maxStep || anyIdle(guests[:n])) {
			n, most = pool.share(p, &guests, n, p.width-active, left)
			since = 0
		}
		if left == 0 {
			return
		}
		for i := 0; i < len(work) && loaded < len(msgs) && active < min(most, p.width-n); i++ {
			if work[i].out != nil {
				continue
			}
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
			loaded++
			active++
		}
		var lanes [maxLanes]*stream
		at := 0
		for i := range work {
			if work[i].out != nil {
				lanes[at] = &work[i].stream
				at++
			}
		}
		for i := range n {
			lanes[at] = &guests[i].stream
			at++
		}
		since += p.move(&lanes, maxStep)
	}
}

func anyIdle(ws []*Write) bool {
	for _, w := range ws {
		if w.idle() {
			return true
		}
	}
	return false
}

// Update writes data[i] to ds[i], advancing all digests together. The slices
// must have equal lengths, and the digests must be distinct.
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
			// Repeat, since a short write only fills the digest's buffer and is
			// done at once.
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
