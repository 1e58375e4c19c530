//go:build !linux

package chunker

import "io"

// mapping would be a file in the address space. It is not supported here.
type mapping struct{}

func newMapping(io.ReaderAt, int64) mapping            { return mapping{} }
func (mapping) close()                                 {}
func (mapping) populate([]extent) bool                 { return false }
func (mapping) use([]extent, func([][]byte)) (ok bool) { return false }
