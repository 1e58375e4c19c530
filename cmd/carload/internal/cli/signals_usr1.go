//go:build unix && !(darwin || dragonfly || freebsd || netbsd || openbsd)

package cli

import (
	"os"
	"syscall"
)

// snapshotSignals are those that ask how far it is.
func snapshotSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1} }
