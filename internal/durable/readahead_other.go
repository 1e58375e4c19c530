//go:build !linux

package durable

import "io"

// ReadAhead would tell the kernel which bytes of a file come next.
func ReadAhead(io.ReaderAt, int64, int64) {}
