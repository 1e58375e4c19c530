//go:build !unix

package cli

import "os"

// notifySuspend does nothing here.
func notifySuspend(chan<- os.Signal) {}

// suspend is never called here.
func suspend() {}

// die ends this process after a signal.
func die(s os.Signal) { os.Exit(interrupted{s}.code()) }

// snapshotSignals are the signals that ask for progress: there are none here.
func snapshotSignals() []os.Signal { return nil }
