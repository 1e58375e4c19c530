//go:build linux || darwin || freebsd || netbsd || openbsd

package nftstorage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// withLocked calls f with the file while no other process has it. The lock is
// held for as long as it takes to read and write a few hundred bytes.
func withLocked(path string, f func(*os.File) error) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }() // which unlocks it
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
