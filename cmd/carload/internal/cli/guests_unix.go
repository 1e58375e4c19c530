//go:build unix

package cli

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockGuests locks the guests' file, as one of the guests or to keep them all
// out. It returns false if it can't get the lock. The lock ends with the
// process.
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
