//go:build linux || darwin || freebsd || netbsd || openbsd

package nftstorage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// withLocked calls f with the file while it is locked for other processes. f
// only reads and writes a few hundred bytes.
func withLocked(path string, f func(*os.File) error) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }() // this unlocks it too
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err == nil {
			return f(file)
		}
		if !errors.Is(err, unix.EINTR) {
			return &os.PathError{Op: "lock", Path: path, Err: err}
		}
	}
}
