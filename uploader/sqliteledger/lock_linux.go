package sqliteledger

import "golang.org/x/sys/unix"

// setByteLock is a lock of an open file description.
const setByteLock = unix.F_OFD_SETLK
