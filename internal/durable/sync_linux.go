package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncAll makes everything durable that was written, by anyone, to the file
// system that dir is on. It returns false on systems that cannot tell when that
// is done.
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
