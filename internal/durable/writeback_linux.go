package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback asks the kernel to begin writing what was written, so that the
// sync at the end of a shard does not have to wait for all of it.
func startWriteback(f *os.File, off, n int64) {
	// Only a hint: the sync is what counts.
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
