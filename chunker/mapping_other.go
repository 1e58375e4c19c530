//go:build !linux

package chunker

import "io"

// mapping would be a file in the address space.
type mapping struct{}

func newMapping(io.ReaderAt, int64) mapping              { return mapping{} }
func (mapping) close()                                   {}
func (mapping) populate(int64, int64) bool               { return false }
func (mapping) use(int64, int64, func([]byte)) (ok bool) { return false }
