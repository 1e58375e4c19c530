//go:build unix

package cli

import (
	"fmt"
	"syscall"
)

// become puts another program in the place of this one: signals and the exit
// code are then its own.
func (a *app) become(program string, args []string) error {
	err := syscall.Exec(program, append([]string{fleetProgram}, args...), a.fleetEnviron()) //nolint:gosec // it was looked for where programs are
	return fmt.Errorf("start %q: %w", program, err)
}
