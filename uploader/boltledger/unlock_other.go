//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package boltledger

import "os"

// unlock leaves it to the system to undo the lock that bbolt has taken.
func unlock(*os.File) error { return nil }
