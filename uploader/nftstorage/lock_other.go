//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package nftstorage

import (
	"errors"
	"os"
)

// withLocked calls f with the file, without locking it. Processes that call it
// at the same instant may miss each other's changes; the window of each process
// stays exact.
func withLocked(path string, f func(*os.File) error) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return f(file)
}
