//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package cli

import (
	"os"
	"syscall"
)

// snapshotSignals are those that ask how far it is. SIGINFO is Ctrl-T.
func snapshotSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1, syscall.SIGINFO} }
