package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/sha256mb"
)

type versionEvent struct {
	eventHeader
	Version  string         `json:"version"`
	Revision string         `json:"revision,omitempty"`
	Go       string         `json:"go"`
	Platform string         `json:"platform"`
	Hashing  []sha256mb.Way `json:"hashing,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Print the version. With -v, also print how fast each hash kernel is on this
machine, measured in less than a millisecond, and which ones carload uses.`,
		Example: `  carload version -v`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			a.printVersion()
			return nil
		},
	}
}

func (a *app) printVersion() {
	e := versionEvent{
		eventHeader: header("version"), Version: version(), Revision: revision(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if a.global.verbose > 0 {
		e.Hashing = sha256mb.Ways()
	}
	a.con.event(e)
	a.con.result(fmt.Sprintf("carload %s %s %s", e.Version, e.Go, e.Platform))
	if e.Hashing != nil {
		a.con.result(hashingTable(e.Hashing))
	}
}

// hashingTable shows the hash kernels on one core.
func hashingTable(ways []sha256mb.Way) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "hashing\tlanes\tGiB/s\tused\n")
	for _, way := range ways {
		speed, used := "not measured", "no"
		if way.Speed > 0 {
			speed = fmt.Sprintf("%.2f", way.Speed/(1<<30))
		}
		if way.Taken {
			used = "yes"
		}
		_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", way.Name, way.Lanes, speed, used)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return strings.TrimRight(text.String(), "\n")
}

// version returns the version of the module from the build info.
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
		Short: "List the CID profiles, and the programs they match",
		Long: `List the CID profiles, and the programs they match.

A CID depends on more than the bytes: how a file is cut into blocks, how many
links a node has, the version of the CID, and when a directory becomes a tree of
hashes (a HAMT). A profile is a name for all of these. With the same profile,
the same bytes have the same CID in every program; with another profile they
have another CID.

--profile takes a name, or a name with changes, such as kubo-cidv1+width-1024.
--chunker, --width, --raw-leaves, --cid-version, --hamt, --fanout and --trickle
change one part each. The meaning of a name never changes. To get the CID that
"ipfs add" prints by default, use unixfs-v0-2015; for "ipfs add
--cid-version=1", use kubo-cidv1.`,
		Example: `  carload profiles
  carload cid --profile kubo-cidv1 movie.mkv`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			for _, p := range chunker.Profiles() {
				a.con.event(profileEvent{header("profile"), p, p.Programs()})
				a.con.result(fmt.Sprintf("%-16s %-60s %s", p.Name, p.Fingerprint(), p.Programs()))
			}
			return nil
		},
	}
}
