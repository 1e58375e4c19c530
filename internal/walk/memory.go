package walk

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// The sizes of buffers are powers of two.
const (
	minBuffer = 64 << 10
	maxBuffer = batchBytes
)

// memory counts the bytes that all walks together may still hold, and keeps
// their buffers for reuse.
type memory struct {
	left  account
	pools [16]sync.Pool // index i holds buffers of minBuffer<<i bytes
}

// account is a number of bytes that may still be held.
type account struct{ bytes atomic.Int64 }

// try takes n bytes off if there are as many.
func (a *account) try(n int64) bool {
	for {
		was := a.bytes.Load()
		if was < n {
			return false
		}
		if a.bytes.CompareAndSwap(was, was-n) {
			return true
		}
	}
}

// take takes n bytes off in any case. The method give adds them again.
func (a *account) take(n int64) { a.bytes.Add(-n) }
func (a *account) give(n int64) { a.bytes.Add(n) }

func newMemory(n int64) *memory {
	m := &memory{}
	m.left.give(n)
	return m
}

// buffer is a buffer of a walk.
type buffer struct {
	p      []byte
	charge int64 // taken off memory.left
	spare  bool  // the one uncounted buffer that a walk may always have
}

// class returns the size of a buffer for n bytes, and the index of its pool, or
// -1 if it is too large for any.
func class(n int) (size, pool int) {
	if n > maxBuffer {
		return n, -1
	}
	pool = bits.Len(uint(max(n, minBuffer)-1)) - bits.Len(uint(minBuffer-1))
	return minBuffer << pool, pool
}

// try returns a buffer for n bytes if there is memory left.
func (m *memory) try(n int) (buffer, bool) {
	size, pool := class(n)
	if !m.left.try(int64(size)) {
		return buffer{}, false
	}
	return buffer{p: m.take(size, pool)[:n], charge: int64(size)}, true
}

// beyond returns a buffer that is not counted. It is for a walk that has no
// other buffer.
func (m *memory) beyond(n int) buffer {
	return buffer{p: m.take(class(n))[:n]}
}

func (m *memory) take(size, pool int) []byte {
	if pool >= 0 {
		if p, ok := m.pools[pool].Get().(*[]byte); ok {
			return *p
		}
	}
	return make([]byte, size)
}

func (m *memory) put(b buffer) {
	if b.p == nil {
		return
	}
	if b.charge > 0 {
		m.left.give(b.charge)
	}
	p := b.p[:cap(b.p)]
	if size, pool := class(len(p)); pool >= 0 && size == len(p) {
		m.pools[pool].Put(&p)
	}
}
