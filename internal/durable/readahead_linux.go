package durable

import (
	"io"

	"golang.org/x/sys/unix"
)

// ReadAhead tells the kernel which bytes of a file come next. Whoever reads at
// several places of a file in turn, or is busy in between, is not taken for the
// sequential reader that he is.
//
// Advice on what is in the page cache anyway is looked up there page by page.
// That would take a twentieth of the time for hashing it, so the last byte
// stands for all.
func ReadAhead(src io.ReaderAt, from, to int64) {
	f, ok := src.(interface{ Fd() uintptr })
	if !ok {
		return
	}
	var last [1]byte
	if n, err := unix.Preadv2(int(f.Fd()), [][]byte{last[:]}, to-1, unix.RWF_NOWAIT); n == 1 && err == nil {
		return
	}
	for ; from < to; from += adviceBytes {
		_ = unix.Fadvise(int(f.Fd()), from, min(adviceBytes, to-from), unix.FADV_WILLNEED) // no more than advice
	}
}

// adviceBytes is how much the kernel takes advice on at once, on most disks.
const adviceBytes = 1 << 20
