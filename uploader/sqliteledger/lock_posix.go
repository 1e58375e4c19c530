//go:build unix && !linux

package sqliteledger

import "golang.org/x/sys/unix"

// setByteLock is a lock of a process: two ledgers of one process on the same
// file do not see each other's claims.
const setByteLock = unix.F_SETLK
