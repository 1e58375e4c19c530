package chunker

import "os"

// UseMapped calls use with the first size bytes of a file while it is mapped,
// and reports whether it could read them all.
func UseMapped(f *os.File, size int64, use func([]byte)) bool {
	m := newMapping(f, size)
	defer m.close()
	whole := []extent{{0, size}}
	return m.populate(whole) && m.use(whole, func(data [][]byte) { use(data[0]) })
}
