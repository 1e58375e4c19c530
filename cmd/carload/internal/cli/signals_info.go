//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package cli

import (
	"os"
	"syscall"
)

// snapshotSignals are the signals that ask for progress. SIGINFO is Ctrl-T.
func snapshotSignals() []os.Signal { return []os.Signal{syscall.SIGUSR1, syscall.SIGINFO} }
