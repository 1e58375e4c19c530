package sha256mb

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

const blockSize = sha256.BlockSize

var initial = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

// Digest is a running SHA-256. The zero value is ready to use.
type Digest struct {
	state  [8]uint32       // not set while length is 0
	buf    [blockSize]byte // the last length%blockSize bytes
	length uint64
	std    hash.Hash // replaces the other fields on machines without a kernel
}

// Reset restarts d with an empty message.
func (d *Digest) Reset() {
	d.length = 0
	if d.std != nil {
		d.std.Reset()
	}
}

// Write adds data to the message, on the calling goroutine. It never fails.
func (d *Digest) Write(data []byte) (int, error) {
	p := current()
	if p.width == 0 {
		if d.std == nil {
			d.std = sha256.New()
		}
		return d.std.Write(data)
	}
	var u update
	u.begin(d, data)
	for lanes := [maxLanes]*stream{&u.stream}; !u.idle(); {
		p.move(&lanes, maxStep)
	}
	u.finish()
	return len(data), nil
}

// Sum256 returns the digest of what was written so far. It leaves d unchanged.
func (d *Digest) Sum256() [Size]byte {
	if d.std != nil {
		return [Size]byte(d.std.Sum(nil))
	}
	if d.length == 0 {
		return sha256.Sum256(nil)
	}
	var (
		out   [Size]byte
		tail  [2 * blockSize]byte
		state = d.state
	)
	last := pad(&tail, d.buf[:d.length%blockSize], d.length)
	lanes := [maxLanes]*stream{{h: &state, now: last}}
	for p := current(); !lanes[0].idle(); {
		p.move(&lanes, maxStep)
	}
	putDigest(&out, &state)
	return out
}

// update is one write to a digest while it occupies a lane.
type update struct {
	stream
	d    *Digest
	rest []byte
}

// begin starts the write of p to d. When u is idle, call finish.
func (u *update) begin(d *Digest, p []byte) {
	u.d = d
	if d.length == 0 {
		d.state = initial
	}
	u.h = &d.state
	held := int(d.length % blockSize)
	d.length += uint64(len(p))
	n := 0
	if held > 0 {
		n = copy(d.buf[held:], p)
		if held+n < blockSize {
			return
		}
	}
	whole := n + (len(p)-n)&^(blockSize-1)
	u.now, u.next, u.rest = p[n:whole], nil, p[whole:]
	if held > 0 {
		u.now, u.next = d.buf[:], u.now
	}
}

// finish copies the bytes that did not fill a block into the digest's buffer,
// which is free now. It also drops the pointer to the digest, so that an update
// kept for reuse does not keep the digest's owner in memory.
func (u *update) finish() {
	if u.d != nil {
		copy(u.d.buf[:], u.rest)
	}
	u.d, u.h, u.rest = nil, nil, nil
}

// pad writes the end of a message to buf: rest, which is not hashed yet, and
// the padding for a message of length bytes. It returns the one or two blocks
// that this takes.
func pad(buf *[2 * blockSize]byte, rest []byte, length uint64) []byte {
	n := copy(buf[:], rest)
	end := blockSize
	if n+1+8 > blockSize {
		end = 2 * blockSize
	}
	buf[n] = 0x80
	clear(buf[n+1 : end-8])
	binary.BigEndian.PutUint64(buf[end-8:], length*8)
	return buf[:end]
}

func putDigest(out *[Size]byte, state *[8]uint32) {
	for i, v := range state {
		binary.BigEndian.PutUint32(out[4*i:], v)
	}
}
