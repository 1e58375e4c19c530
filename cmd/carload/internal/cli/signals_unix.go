//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
)

// notifySuspend sends the signal of Ctrl-Z to a channel.
func notifySuspend(c chan<- os.Signal) { signal.Notify(c, syscall.SIGTSTP) }

// suspend stops this process until it is told to go on. A SIGTSTP that was once
// caught does not stop a Go program any more, so it is the signal that can't be.
func suspend() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }

// die ends this process by a signal, so that whoever waits for it sees which.
func die(s os.Signal) {
	signal.Reset(s)
	if n, ok := s.(syscall.Signal); ok {
		_ = syscall.Kill(os.Getpid(), n)
	}
	select {} // it does not take long
}
