package walk

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffers come in sizes of powers of two.
const (
	minBuffer = 64 << 10
	maxBuffer = batchBytes
)

// memory is what all walks together may hold, and the buffers that they use
// again.
type memory struct {
	left  account
	pools [16]sync.Pool // by the binary logarithm of the size over minBuffer
}

// account is how many bytes may still be held.
type account struct{ bytes atomic.Int64 }

// try takes n bytes off if there are so many.
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

// take takes n bytes off in any case, and give adds them.
func (a *account) take(n int64) { a.bytes.Add(-n) }
func (a *account) give(n int64) { a.bytes.Add(n) }

func newMemory(n int64) *memory {
	m := &memory{}
	m.left.give(n)
	return m
}

// buffer is a buffer that a walk holds.
type buffer struct {
	p      []byte
	charge int64 // taken off what is left
	spare  bool  // one that the walk may have in any case
}

// class is the size of the buffer for n bytes, and the pool it is from; -1 if
// it is from none.
func class(n int) (size, pool int) {
	if n > maxBuffer {
		return n, -1
	}
	pool = bits.Len(uint(max(n, minBuffer)-1)) - bits.Len(uint(minBuffer-1))
	return minBuffer << pool, pool
}

// try returns a buffer for n bytes if there is memory for it.
func (m *memory) try(n int) (buffer, bool) {
	size, pool := class(n)
	if !m.left.try(int64(size)) {
		return buffer{}, false
	}
	return buffer{p: m.take(size, pool)[:n], charge: int64(size)}, true
}

// beyond returns a buffer that is not counted: that of a walk which has no
// other.
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
