//go:build unix

package cli

import (
	"fmt"
	"syscall"
)

// become replaces this process by another program, which then gets the signals
// and sets the exit code.
func (a *app) become(program string, args []string) error {
	err := syscall.Exec(program, append([]string{fleetProgram}, args...), a.fleetEnviron()) //nolint:gosec // it was looked for where programs are
	return fmt.Errorf("start %q: %w", program, err)
}
