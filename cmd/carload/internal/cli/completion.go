package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/uploader/sqliteledger"
)

// completer returns the values that a shell can offer for an argument or flag.
type completer = cobra.CompletionFunc

// Limits for reading the ledger while a shell waits: it may be large, or
// locked.
const (
	mostCompletions = 100
	completionTime  = 2 * time.Second
)

// complete registers the values that shells offer for commands and flags. For
// all others, shells offer files.
func (a *app) complete(root *cobra.Command) {
	flags := map[string]completer{
		"progress":    oneOf("auto", "bar", "plain", "none"),
		"log-format":  oneOf("text", "json"),
		"verify":      oneOf("receipt\teach shard", "pinned\tthe service has the complete DAG", "sample\tfetch random blocks", "full\tfetch everything"),
		"access":      oneOf(service.ModeReadWriteCreate, service.ModeReadWrite, service.ModeReadOnly, service.ModeNone),
		"profile":     oneOf(profileNames()...),
		"chunker":     oneOf("size-", "rabin", "buzhash"),
		"cid-version": oneOf("0", "1"),
		"bwlimit":     oneOf("off"),
		"scrub":       oneOf("off"),
		"tpslimit":    oneOf("off", "auto"),
		"to":          a.targets,
		"from":        a.targets,
		"base":        a.roots,
		"store":       directories,
		"spool-dir":   directories,
	}
	arguments := map[string]completer{
		"status": a.roots, "rm": a.roots, "get": a.roots, "copy": a.roots, "pin add": a.roots,
		"ledger show": a.roots, "ledger forget": a.roots, "verify": a.rootsAndFiles,
		"target show": a.names, "target test": a.names, "target rm": a.names,
		"man": directories,
	}
	for path, f := range arguments {
		if cmd, _, err := root.Find(strings.Fields(path)); err == nil {
			cmd.ValidArgsFunction = f
		}
	}
	eachCommandBelow(root, func(cmd *cobra.Command) {
		register := func(f *pflag.Flag) {
			if values, ok := flags[f.Name]; ok {
				_ = cmd.RegisterFlagCompletionFunc(f.Name, values) // each flag is registered once
			}
		}
		cmd.LocalNonPersistentFlags().VisitAll(register)
		cmd.PersistentFlags().VisitAll(register)
	})
}

func eachCommandBelow(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		eachCommandBelow(c, f)
	}
}

// oneOf completes fixed values, each with an optional tab and description.
func oneOf(values ...string) completer {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}

func directories(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func profileNames() (names []string) {
	for _, p := range chunker.Profiles() {
		names = append(names, p.Name)
	}
	return names
}

// names completes the targets in the configuration.
func (a *app) names(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(a.settings.targets)) {
		names = append(names, name+"\t"+printable(a.settings.targets[name].where()))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// targets completes everything that --to accepts.
func (a *app) targets(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	names, _ := a.names(cmd, args, begun)
	return append(names, "https://", "kubo:", "s3://", "cluster://", "dir:", "store:"), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// roots completes the roots in the ledger, newest first.
func (a *app) roots(cmd *cobra.Command, _ []string, begun string) (roots []cobra.Completion, _ cobra.ShellCompDirective) {
	flag := a.env[variable("ledger")]
	if f := cmd.Flags().Lookup("ledger"); f != nil && f.Changed {
		flag = f.Value.String()
	}
	ctx, cancel := context.WithTimeout(a.life.soft, completionTime)
	defer cancel()
	_ = a.withLedger(flag, func(l *sqliteledger.Ledger) error { // offer nothing if the ledger can't be read
		uploads, err := l.Uploads(ctx)
		if err != nil {
			return err
		}
		slices.SortStableFunc(uploads, func(x, y sqliteledger.Upload) int { return y.Begun.Compare(x.Begun) })
		seen := map[string]bool{}
		for _, u := range uploads {
			root := u.Root.String()
			if !strings.HasPrefix(root, begun) || seen[root] || len(roots) == mostCompletions {
				continue
			}
			seen[root] = true
			what := u.Target
			if sources, err := l.Sources(ctx, u.Target, u.Root); err == nil && len(sources) > 0 {
				what = sources[0]
			}
			roots = append(roots, root+"\t"+printable(what))
		}
		return nil
	})
	return roots, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (a *app) rootsAndFiles(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	roots, _ := a.roots(cmd, args, begun)
	return roots, cobra.ShellCompDirectiveDefault
}
