//go:build unix

package sqliteledger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock locks a file, or returns false if others have it locked. In any case
// it gives up a lock that f has already. The kernel releases the lock when the
// process ends, however it ends.
func tryLock(f *os.File, exclusive bool) (bool, error) {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, err
		}
	}
}

// tryClaim locks a byte of a file, or returns false if another process has
// locked it.
func tryClaim(f *os.File, at int64) (bool, error) {
	err := lockByte(f, at, unix.F_WRLCK)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, err
}

// unclaim unlocks a byte.
func unclaim(f *os.File, at int64) error { return lockByte(f, at, unix.F_UNLCK) }

func lockByte(f *os.File, at int64, how int16) error {
	for {
		err := unix.FcntlFlock(f.Fd(), setByteLock, &unix.Flock_t{Type: how, Start: at, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writable returns an error that says why a file cannot be written. It does not
// open the file: closing it would release the locks that SQLite has on it.
func writable(path string) error {
	if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}
