// Package cli is the command carload: flags, settings, terminal and exit codes
// around the engine. No other package knows about these.
//
// Standard output carries only results; messages for people go to standard
// error. Only [Main] turns errors into exit codes.
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
	args  []string // from the command line
	env   environment
	con   *console
	log   *slog.Logger
	life  *lifetime
	board board // what the engine is working on

	embedded  bool  // this process runs the built-in service
	wholeHelp bool  // show all flags, not only the common ones
	noHelp    error // why there is no help

	global   globalFlags
	settings settings
	profiler profiler
}

// Main runs the command and returns its exit code. args are the arguments after
// the program's name; environ has the form of os.Environ.
func Main(ctx context.Context, args []string, stdio Stdio, environ []string) int {
	a := &app{
		stdio: stdio,
		args:  args,
		env:   parseEnvironment(environ),
		con:   &console{out: stdio.Out, err: stdio.Err},
		log:   slog.New(slog.DiscardHandler),
	}
	a.con.json = a.wantsJSON() // also for mistakes in the flags
	a.life = newLifetime(ctx, a.con)
	a.con.onErr = a.life.stop // stop working if nobody receives the results
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
			code = worse(code, exitOther) // the reader has seen enough, as with head
			continue
		}
		if err != nil {
			code = worse(code, a.con.fail(a.blame(err)))
		}
	}
	return code
}

// onlyShows reports whether a command only prints. If the reader of its output
// has gone, as head does, that is not an error.
func onlyShows(cmd *cobra.Command) bool {
	switch strings.TrimPrefix(cmd.CommandPath(), "carload ") {
	case "cid", "ls", "list", "inspect", "status", "profiles", "version", "pin list", "key list", "ledger list", "ledger show", "ledger report", "target list", "target show", "config show", "config path":
		return true
	}
	return false
}

// unlessUnwritten drops errors from writing results. Main prints that error
// itself, once.
func (a *app) unlessUnwritten(err error) error {
	if unwritten := a.con.unwritten(); unwritten != nil && errors.Is(err, unwritten) {
		return nil
	}
	return err
}

// wantsJSON looks for --json in flags that may not be parsed yet, and in the
// environment, but not in the configuration file.
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
		Short: "Upload large files to content-addressed storage, and verify them",
		Long: `carload cuts files and directories into CAR shards that fit one request, and
sends them in parallel. It resumes interrupted uploads. It computes the root CID
itself, and reports success only when the target has every block under that
root.

Without an endpoint, carload stores uploads on this machine: "carload up FILE"
works without any configuration.

Every flag has an environment variable, such as CARLOAD_MAX_SHARD_BYTES for
--max-shard-bytes, and the configuration file has the same names. A flag
overrides the environment, which overrides the file.

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
	f.CountVarP(&g.verbose, "verbose", "v", "print more (-vv: everything)")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "print only errors and results")
	f.BoolVar(&g.json, "json", false, "print JSON lines instead of plain results on standard output")
	f.TextVar(&g.progress, "progress", progressAuto, "show progress as: auto, bar, plain or none")
	f.StringVar(&g.logFormat, "log-format", "text", "format of log lines: text or json")
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
		&cobra.Group{ID: "held", Title: "Manage uploads"}, &cobra.Group{ID: "own", Title: "Run your own service"})
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
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 { // --help for a command that does not exist
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

// cmdAt returns the innermost command that the arguments name.
func cmdAt(root *cobra.Command, args []string) *cobra.Command {
	if cmd, _, err := root.Find(args); err == nil {
		return cmd
	}
	return root
}

// verbs returns the names of the commands below one.
func verbs(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	return names
}

// beStrict makes the commands that cobra adds refuse unknown arguments.
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

// prepare runs after flag parsing and before the command. It applies the
// environment and the configuration file, and starts what the settings ask for.
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
