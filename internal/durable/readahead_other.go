//go:build !linux

package durable

import "io"

// ReadAhead does nothing on this system.
func ReadAhead(io.ReaderAt, int64, int64) {}
