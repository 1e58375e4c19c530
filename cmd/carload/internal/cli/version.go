package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/carload/carload/chunker"
)

type versionEvent struct {
	eventHeader
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.printVersion()
			return nil
		},
	}
}

func (a *app) printVersion() {
	e := versionEvent{header("version"), version(), revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	a.con.event(e)
	a.con.result(fmt.Sprintf("carload %s %s %s", e.Version, e.Go, e.Platform))
}

// version is that of the module, as the Go tool knows it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

type profileEvent struct {
	eventHeader
	chunker.Profile
	Programs string `json:"programs"`
}

func (a *app) profilesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "profiles",
		Short: "List the recipes for CIDs, and the programs they match",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			for _, p := range chunker.Profiles() {
				a.con.event(profileEvent{header("profile"), p, p.Programs()})
				a.con.result(fmt.Sprintf("%-16s %-60s %s", p.Name, p.Fingerprint(), p.Programs()))
			}
			return nil
		},
	}
}
