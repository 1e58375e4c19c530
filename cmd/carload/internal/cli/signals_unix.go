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

// suspend stops this process until it is continued. Once a Go program has
// caught SIGTSTP, that signal no longer stops it, so suspend uses SIGSTOP,
// which can't be caught.
func suspend() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }

// dieWait is how long a signal to this process may take.
const dieWait = time.Second

// die ends this process with a signal, so that its parent sees which. If the
// signal has no effect, die exits: scripts start background processes that
// ignore SIGINT, and it is ignored again when nothing catches it.
func die(s os.Signal) {
	signal.Reset(s)
	if n, ok := s.(syscall.Signal); ok && syscall.Kill(os.Getpid(), n) == nil {
		<-time.After(dieWait)
	}
	os.Exit(interrupted{s}.code())
}
