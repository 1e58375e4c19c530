//go:build unix

package cli

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockGuests locks the file of the guests, for one of them or against all, or
// reports false if that can't be had. It ends with the process.
func lockGuests(f *os.File, against bool) (bool, error) {
	how := unix.LOCK_SH
	if against {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return err == nil, err
}
