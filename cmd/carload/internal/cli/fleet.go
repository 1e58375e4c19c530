package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// fleetProgram is the program behind "carload fleet". It contains a NATS server
// and client, which carload must not depend on.
const fleetProgram = "carload-fleet"

// fleetPrefix is what the variables of its settings begin with.
const fleetPrefix = envPrefix + "FLEET_"

func (a *app) fleetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fleet COMMAND…",
		Short: "Share the work among many hosts (needs the program carload-fleet)",
		Long: `Share the work of one list among many hosts, through a queue on NATS JetStream.

These are the commands of the program carload-fleet. carload looks for it beside
itself and in PATH. Install it with:

  go install github.com/carload/carload/uploader/fleet/cmd/carload-fleet@latest`,
		DisableFlagParsing: true,
		Example:            `  carload fleet --help`,
		RunE: func(cmd *cobra.Command, args []string) error {
			program := a.findFleet()
			if program == "" && (len(args) == 0 || slices.Contains([]string{"help", "--help", "-h"}, args[0])) {
				return cmd.Help()
			}
			if program == "" {
				return withHint(usagef("%q needs the program %s, which is neither beside carload nor in PATH", "carload fleet "+shellQuote(args), fleetProgram),
					"go install github.com/carload/carload/uploader/fleet/cmd/carload-fleet@latest",
					"or, in a clone of carload: go build -C uploader/fleet -o carload-fleet ./cmd/carload-fleet, and move it into PATH")
			}
			return a.become(program, args)
		},
	}
}

// findFleet looks beside this program and in PATH. It returns "" if the program
// is in neither.
func (a *app) findFleet() string {
	dirs := filepath.SplitList(a.env["PATH"])
	if self, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(self)}, dirs...)
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue // never run a program from the current directory
		}
		if path, err := exec.LookPath(filepath.Join(dir, fleetProgram)); err == nil {
			return path
		}
	}
	return ""
}

// fleetEnviron tells the program which carload started it.
func (a *app) fleetEnviron() []string {
	var environ []string
	for k, v := range a.env {
		environ = append(environ, k+"="+v)
	}
	if self, err := os.Executable(); err == nil && a.env["CARLOAD_FLEET_CARLOAD"] == "" {
		environ = append(environ, "CARLOAD_FLEET_CARLOAD="+self)
	}
	slices.Sort(environ)
	return environ
}
