// Package cli is the command carload: flags, settings, terminal and exit codes
// around the engine. It is the only place that knows them.
//
// Standard output carries results only; everything for people goes to standard
// error. [Main] is the only place that turns errors into exit codes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Stdio is what the command reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is one run of the command.
type app struct {
	stdio Stdio
	args  []string // of the command line
	env   environment
	con   *console
	log   *slog.Logger
	life  *lifetime
	board board // what is being worked on

	embedded  bool  // the built-in service runs in this process
	wholeHelp bool  // not only the commonest flags
	noHelp    error // why there is none

	global   globalFlags
	settings settings
	profiler profiler
}

// Main runs the command and returns its exit code. The arguments are those
// after the program's name; the environment is in the form of os.Environ.
func Main(ctx context.Context, args []string, stdio Stdio, environ []string) int {
	a := &app{
		stdio: stdio,
		args:  args,
		env:   parseEnvironment(environ),
		con:   &console{out: stdio.Out, err: stdio.Err},
		log:   slog.New(slog.DiscardHandler),
	}
	a.con.json = a.wantsJSON() // of a mistake in the flags as well
	a.life = newLifetime(ctx, a.con)
	a.con.onErr = a.life.stop // results that nobody gets are not worth going on for
	defer a.life.close()

	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	code := exitOK
	cmd, err := root.ExecuteContextC(a.life.soft)
	for _, err := range []error{a.unlessUnwritten(err), a.noHelp, a.profiler.stop(), a.con.failure()} {
		if errors.Is(err, syscall.EPIPE) && errors.Is(err, errUnwritten) && onlyShows(cmd) {
			code = worse(code, exitOther) // its reader has seen enough, as head does
			continue
		}
		if err != nil {
			code = worse(code, a.con.fail(a.blame(err)))
		}
	}
	return code
}

// onlyShows reports whether a command does nothing but print. If the reader of
// its output has gone, as head does, nothing went wrong.
func onlyShows(cmd *cobra.Command) bool {
	switch strings.TrimPrefix(cmd.CommandPath(), "carload ") {
	case "cid", "ls", "list", "inspect", "status", "profiles", "version", "pin list", "key list", "ledger list", "ledger show", "ledger report", "target list", "target show", "config show", "config path":
		return true
	}
	return false
}

// unlessUnwritten drops the error of results that could not be written. Main
// prints that one itself, once.
func (a *app) unlessUnwritten(err error) error {
	if unwritten := a.con.unwritten(); unwritten != nil && errors.Is(err, unwritten) {
		return nil
	}
	return err
}

// wantsJSON looks for --json in flags that may not be parsed yet, and in the
// environment. The configuration file is not read for it.
func (a *app) wantsJSON() bool {
	value := a.env[variable("json")]
	for _, arg := range a.args {
		if arg == "--" {
			break
		}
		if arg == "--json" {
			value = "true"
		} else if v, ok := strings.CutPrefix(arg, "--json="); ok {
			value = v
		}
	}
	wanted, err := strconv.ParseBool(value)
	return wanted && err == nil
}

// globalFlags are the flags of every command.
type globalFlags struct {
	config     string
	verbose    int
	quiet      bool
	json       bool
	progress   progressMode
	logFormat  string
	logFile    string
	cpuProfile string
	memProfile string
}

func (a *app) rootCommand() *cobra.Command {
	showVersion := false
	root := &cobra.Command{
		Use:   "carload",
		Short: "Move big files into content-addressed storage, verified",
		Long: `carload cuts files and directories into CAR shards that fit a request, sends
them in parallel, goes on where it was interrupted, and says "done" only when
the far side holds everything under the root CID that was computed here.

With no endpoint configured, uploads go into a store of your own on this
machine: "carload up FILE" needs nothing else.

Every flag has a twin in the environment (--max-shard-bytes is
CARLOAD_MAX_SHARD_BYTES) and in the configuration file. A flag wins over the
environment, which wins over the file.

Exit codes: 0 verified, 1 other, 2 usage, 3 some sources unreadable or changed,
4 uploaded but not verified, 5 network or service failed, 6 mismatch or
corruption, 7 not authorized, 8 limit reached, 11 locked by another process,
28 disk full, 130 or 143 interrupted (state is saved).`,
		Args:              noArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				a.printVersion()
				return nil
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) && unknown.GetSpecifiedName() == tokenSetting {
			return errTokenSetting("--" + tokenSetting)
		}
		if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
			var names []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if !f.Hidden {
					names = append(names, "--"+f.Name)
				}
			})
			err = fmt.Errorf("unknown flag: --%s%s", unknown.GetSpecifiedName(), suggestion("--"+unknown.GetSpecifiedName(), names))
		}
		var invalid *pflag.InvalidValueError
		if errors.As(err, &invalid) {
			err = fmt.Errorf("--%s: %w", invalid.GetFlag().Name, badValue(err))
		}
		return usageError{err, helpFor(cmd)}
	})
	f := root.PersistentFlags()
	g := &a.global
	f.StringVar(&g.config, "config", "", "read settings from this TOML file instead of the user's")
	f.CountVarP(&g.verbose, "verbose", "v", "say more (-vv: everything)")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "print errors and results only")
	f.BoolVar(&g.json, "json", false, "print JSON lines on standard output instead of plain results")
	f.TextVar(&g.progress, "progress", progressAuto, "how to show progress: auto, bar, plain or none")
	f.StringVar(&g.logFormat, "log-format", "text", "form of log lines: text or json")
	f.StringVar(&g.logFile, "log-file", "", "append log lines to this file instead of standard error")
	f.StringVar(&g.cpuProfile, "cpuprofile", "", "write a CPU profile to this file")
	f.StringVar(&g.memProfile, "memprofile", "", "write a heap profile to this file at the end")
	_ = f.MarkHidden("cpuprofile") // only fails for a flag that does not exist
	_ = f.MarkHidden("memprofile")

	root.AddCommand(
		a.upCommand(), a.cidCommand(), a.packCommand(), a.verifyCommand(), a.statusCommand(),
		a.unpackCommand(), a.getCommand(), a.copyCommand(), a.lsCommand(), a.inspectCommand(), a.pieceCommand(),
		a.listCommand(), a.rmCommand(), a.pinCommand(), a.serveCommand(), a.consoleCommand(), a.keyCommand(), a.serviceCommand(),
		a.targetCommand(), a.loginCommand(), a.logoutCommand(), a.configCommand(), a.ledgerCommand(), a.fleetCommand(), a.profilesCommand(), a.benchCommand(), a.benchStageCommand(), a.benchSinkCommand(), a.versionCommand(), a.manCommand(),
	)
	root.AddCommand(topics()...)
	root.AddGroup(&cobra.Group{ID: "send", Title: "Send"}, &cobra.Group{ID: "back", Title: "Check and get back"},
		&cobra.Group{ID: "held", Title: "Look after what is held"}, &cobra.Group{ID: "own", Title: "Run your own service"})
	for _, c := range root.Commands() {
		switch c.Name() {
		case "up", "copy", "pack", "cid", "plan", "fleet":
			c.GroupID = "send"
		case "get", "verify", "unpack", "ls", "inspect":
			c.GroupID = "back"
		case "list", "status", "pin", "rm":
			c.GroupID = "held"
		case "serve", "service", "key", "console":
			c.GroupID = "own"
		}
	}
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 { // --help of a command that is not there
			a.noHelp = noArgs(cmd, args)
			return
		}
		showHelp(cmd, a.wholeHelp)
	})
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		w := &page{columns: width(cmd.OutOrStderr())}
		showUsage(w, cmd, false)
		w.print(cmd.OutOrStderr())
		return nil
	})
	a.beStrict(root)
	a.complete(root)
	return root
}

// cmdAt is the innermost command that the arguments name.
func cmdAt(root *cobra.Command, args []string) *cobra.Command {
	if cmd, _, err := root.Find(args); err == nil {
		return cmd
	}
	return root
}

// verbs names the commands below one.
func verbs(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	return names
}

// beStrict lets the commands that cobra adds refuse what they don't know.
func (a *app) beStrict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			help := c.Run
			c.RunE = func(cmd *cobra.Command, args []string) error {
				if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return usageError{fmt.Errorf("there is no command %q%s", strings.Join(args, " "), suggestion(args[len(args)-1], verbs(cmdAt(root, args)))), "carload help"}
				}
				a.wholeHelp = true
				help(cmd, args)
				return nil
			}
		case "completion":
			c.Args = noArgs
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
		for _, shell := range c.Commands() {
			if c.Name() == "completion" {
				shell.Args = noArgs
			}
		}
	}
}

// prepare runs after the flags are parsed and before any command: it fills in
// the settings from the environment and the file, and starts what they ask for.
func (a *app) prepare(cmd *cobra.Command) error {
	if err := a.applySettings(cmd); err != nil {
		return err
	}
	a.con.quiet, a.con.json = a.global.quiet, a.global.json
	if err := a.openLog(cmd); err != nil {
		return err
	}
	for _, w := range a.settings.warnings {
		a.con.warn("%s", w)
	}
	return a.profiler.start(a.global.cpuProfile, a.global.memProfile)
}
