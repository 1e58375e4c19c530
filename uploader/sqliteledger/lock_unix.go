//go:build unix

package sqliteledger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock locks a file, or reports false if others have it locked. What is
// locked already is let go of, whatever comes of it. The kernel lets go when
// the process ends, however it ends.
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

// writable tells why a file can't be written to. It does not open it: to close
// it would undo the locks that SQLite has of it.
func writable(path string) error {
	if err := unix.Access(path, unix.R_OK|unix.W_OK); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}
