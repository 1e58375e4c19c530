package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// setDirect turns O_DIRECT on or off. It reports whether that worked.
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

// isMisaligned reports whether a file system refused a direct write. It may
// want another alignment, or support no direct writes at all. The error is the
// same for the unaligned rest of a write that reached the limit on file size.
func isMisaligned(err error) bool { return errors.Is(err, unix.EINVAL) }

// startWriteback asks the kernel to start writing out part of a file, so that
// the sync at the end has less to wait for.
func startWriteback(f *os.File, off, n int64) {
	// This is only a hint: the sync at the end is what counts.
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// Evict asks the system to drop a file from the page cache, so that the next
// read comes from the disk.
func Evict(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
