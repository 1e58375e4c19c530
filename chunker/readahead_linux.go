package chunker

import (
	"io"

	"golang.org/x/sys/unix"
)

// readAhead tells the kernel which bytes of a file come next. Workers read at
// several places of a file in turn, which the kernel does not take for the
// sequential reading that it is.
func readAhead(src io.ReaderAt, from, to int64) {
	if f, ok := src.(interface{ Fd() uintptr }); ok {
		_ = unix.Fadvise(int(f.Fd()), from, to-from, unix.FADV_WILLNEED) // no more than advice
	}
}
