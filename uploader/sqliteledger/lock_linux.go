package sqliteledger

import "golang.org/x/sys/unix"

// setByteLock locks for an open file.
const setByteLock = unix.F_OFD_SETLK
