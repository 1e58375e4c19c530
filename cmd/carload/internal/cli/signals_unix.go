//go:build unix

package cli

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// notifySuspend sends the signal of Ctrl-Z to a channel.
func notifySuspend(c chan<- os.Signal) { signal.Notify(c, syscall.SIGTSTP) }

// suspend stops this process until it is told to go on. A SIGTSTP that was once
// caught does not stop a Go program any more, so it is the signal that can't be.
func suspend() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }

// dieWait is how long a signal to this process may take.
const dieWait = time.Second

// die ends this process by a signal, so that whoever waits for it sees which. It
// exits if that does nothing: what a script starts in the background was told to
// ignore SIGINT, and does so again once it is no longer caught.
func die(s os.Signal) {
	signal.Reset(s)
	if n, ok := s.(syscall.Signal); ok && syscall.Kill(os.Getpid(), n) == nil {
		<-time.After(dieWait)
	}
	os.Exit(interrupted{s}.code())
}
