//go:build !unix

package cli

import (
	"errors"
	"fmt"
	"os/exec"
)

// become runs another program and exits with its exit code.
func (a *app) become(program string, args []string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = a.stdio.In, a.stdio.Out, a.stdio.Err, a.fleetEnviron()
	err := cmd.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return silent{ended.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("start %q: %w", program, err)
	}
	return nil
}
