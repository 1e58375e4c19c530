//go:build !linux

package chunker

import "io"

// readAhead would tell the kernel which bytes of a file come next.
func readAhead(io.ReaderAt, int64, int64) {}
