//go:build linux || darwin || freebsd

package unpack

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other processes from restoring to the same file.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}
