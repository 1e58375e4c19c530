package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// setDirect turns O_DIRECT on or off and reports whether it could.
func setDirect(f *os.File, on bool) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
	return err == nil
}

// isMisaligned tells how a file system refuses a direct write: it wants another
// alignment, or none do. At a limit to the size of files, what is left of the
// piece has none either.
func isMisaligned(err error) bool { return errors.Is(err, unix.EINVAL) }

// startWriteback asks the kernel to begin writing what was written, so that the
// sync at the end of a shard does not have to wait for all of it.
func startWriteback(f *os.File, off, n int64) {
	// Only a hint: the sync is what counts.
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// Evict asks the system to forget what it keeps in memory of a file, so that what
// is read next comes from the disk.
func Evict(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
