package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncAll makes durable all that was written to the file system of a directory,
// whoever did. Where the system cannot say when that is done, it returns false.
func SyncAll(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return true, err
	}
	err = unix.Syncfs(int(d.Fd()))
	if err != nil {
		err = os.NewSyscallError("syncfs", err)
	}
	return true, errors.Join(err, d.Close())
}
