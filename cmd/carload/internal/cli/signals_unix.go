//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// die ends this process by a signal, so that whoever waits for it sees which.
func die(s os.Signal) {
	signal.Reset(s)
	if n, ok := s.(syscall.Signal); ok {
		_ = syscall.Kill(os.Getpid(), n)
	}
	select {} // it does not take long
}
