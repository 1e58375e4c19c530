package durable

import (
	"io"

	"golang.org/x/sys/unix"
)

// ReadAhead tells the kernel which bytes of a file will be read next. The
// kernel does not recognize sequential reading by itself if the reader
// alternates between several places of a file, or pauses in between.
//
// For data that is in the page cache already, the kernel would look up every
// page. That takes about a twentieth of the time that hashing it does. So
// ReadAhead checks the last byte first, and takes the rest to be cached if that
// byte is.
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
		_ = unix.Fadvise(int(f.Fd()), from, min(adviceBytes, to-from), unix.FADV_WILLNEED) // advice only: errors don't matter
	}
}

// adviceBytes is the most that the kernel reads for one piece of advice, on
// most disks.
const adviceBytes = 1 << 20
