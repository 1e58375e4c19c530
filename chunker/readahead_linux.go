package chunker

import (
	"io"

	"golang.org/x/sys/unix"
)

// readAhead tells the kernel which bytes of a file come next. Workers read at
// several places of a file in turn, which the kernel does not take for the
// sequential reading that it is.
//
// Advice on what is in the page cache anyway is looked up there page by page.
// That would take a twentieth of the time for hashing it, so the last byte
// stands for all.
func readAhead(src io.ReaderAt, from, to int64) {
	f, ok := src.(interface{ Fd() uintptr })
	if !ok {
		return
	}
	var last [1]byte
	if n, err := unix.Preadv2(int(f.Fd()), [][]byte{last[:]}, to-1, unix.RWF_NOWAIT); n != 1 || err != nil {
		_ = unix.Fadvise(int(f.Fd()), from, to-from, unix.FADV_WILLNEED) // no more than advice
	}
}
