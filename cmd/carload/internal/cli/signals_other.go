//go:build !unix

package cli

import "os"

// notifySuspend has nothing to tell here.
func notifySuspend(chan<- os.Signal) {}

// suspend is never called here.
func suspend() {}

// die ends this process after a signal.
func die(s os.Signal) { os.Exit(interrupted{s}.code()) }

// snapshotSignals are those that ask how far it is: there are none here.
func snapshotSignals() []os.Signal { return nil }
