package chunker

import "os"

// UseMapped calls use with the first size bytes of a file while it is mapped,
// and reports whether it could read them all.
func UseMapped(f *os.File, size int64, use func([]byte)) bool {
	m := newMapping(f, size)
	defer m.close()
	return m.populate(0, size) && m.use(0, size, use)
}
