//go:build unix && !(darwin || dragonfly || freebsd || netbsd || openbsd)

package cli

import (
	"os"
	"syscall"
)

// snapshotSignals are the signals that ask for progress.
func snapshotSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1} }
