//go:build unix && !linux

package sqliteledger

import "golang.org/x/sys/unix"

// setByteLock locks for a process: two ledgers of one process that have the
// same file open do not see each other's claims.
const setByteLock = unix.F_SETLK
