package chunker

import (
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// mapping is a file in the address space, so that workers can hash it in the
// page cache. The zero value maps nothing.
type mapping struct{ data []byte }

// newMapping maps the first size bytes of src, if it is a file that can be
// mapped. It reads nothing yet.
func newMapping(src io.ReaderAt, size int64) mapping {
	// Only a file itself: what wraps a file may read something else.
	f, isFile := src.(*os.File)
	if !isFile || int64(int(size)) != size {
		return mapping{}
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return mapping{}
	}
	return mapping{data}
}

func (m mapping) close() {
	if m.data != nil {
		_ = unix.Munmap(m.data) // fails only if not mapped
	}
}

// pages returns the pages of the mapping that hold the bytes from..to.
func (m mapping) pages(from, to int64) []byte { return m.data[from&^int64(os.Getpagesize()-1) : to] }

// advise gives advice about extents, which are in order. Adjacent extents take
// one call.
func (m mapping) advise(extents []extent, advice int) error {
	for len(extents) > 0 {
		n := 1
		for n < len(extents) && extents[n].from == extents[n-1].to {
			n++
		}
		if err := unix.Madvise(m.pages(extents[0].from, extents[n-1].to), advice); err != nil {
			return err
		}
		extents = extents[n:]
	}
	return nil
}

// populate makes extents of the file accessible, and reports whether it
// succeeded. Reading from disk happens here, where the scheduler sees a system
// call instead of a goroutine that computes.
func (m mapping) populate(extents []extent) bool {
	return m.data != nil && m.advise(extents, unix.MADV_POPULATE_READ) == nil
}

// use calls f with extents of the file and then unmaps their pages, so that
// they no longer count as memory of this process; the page cache keeps them.
// The bytes can disappear at any time, if the file is truncated or its disk
// fails. use reports whether f could read them all. It is safe for concurrent
// use.
func (m mapping) use(extents []extent, f func([][]byte)) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil && !isFault(r) {
			panic(r)
		}
		_ = m.advise(extents, unix.MADV_DONTNEED)
	}()
	data := make([][]byte, len(extents))
	for i, e := range extents {
		data[i] = m.data[e.from:e.to]
	}
	f(data)
	return true
}

// isFault reports whether a panic value is a memory fault.
func isFault(r any) bool {
	_, is := r.(interface {
		runtime.Error
		Addr() uintptr
	})
	return is
}
