//go:build linux || darwin || freebsd || netbsd || openbsd

package boltledger

import (
	"os"

	"golang.org/x/sys/unix"
)

// unlock undoes the lock that bbolt has taken.
func unlock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }
