// Package cli is the command carload-fleet: flags, terminal and exit codes for
// the fleet.
package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/carload/carload/uploader/fleet/natsqueue"
)

// Stdio is what the command reads from and writes to.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit codes, the same as carload's.
const (
	exitOK        = 0
	exitOther     = 1
	exitUsage     = 2
	exitFailed    = 3
	exitTemporary = 5

	exitInterrupted = 130
	exitTerminated  = 143
)

// app is one run of the command.
type app struct {
	stdio Stdio
	env   map[string]string
	log   *slog.Logger
	stop  <-chan struct{} // closed by the first signal
	code  int             // the exit code for the first signal, once stop is closed
	hard  context.Context //nolint:containedctx // of the whole process; the second signal ends it

	json    bool
	verbose bool
	fleet   string
	conn    connection
	outMu   sync.Mutex
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// coded is an error with its exit code.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

// errSilent is a failure that has already been reported.
var errSilent = errors.New("failed")

// Main runs the command and returns its exit code.
func Main(ctx context.Context, args []string, stdio Stdio, environ []string) int {
	a := &app{stdio: stdio, env: map[string]string{}, log: slog.New(slog.DiscardHandler)}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.env[k] = v
		}
	}
	hard, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	a.stop, a.hard = stop, hard
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case s := <-signals:
			signal.Stop(signals) // the next one kills
			a.say("carload-fleet: %s: stopping; press again to stop at once", s)
			a.code = exitTerminated
			if s == os.Interrupt {
				a.code = exitInterrupted
			}
			close(stop)
		case <-ended:
		}
	})
	defer watching.Wait()
	defer close(ended)

	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	err := root.ExecuteContext(hard)
	var usage usageError
	var known coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &known):
		if !errors.Is(err, errSilent) {
			a.fail(err)
		}
		return known.code
	case strings.HasPrefix(err.Error(), "unknown command"):
		if near := root.SuggestionsFor(args[0]); len(near) > 0 {
			err = fmt.Errorf("%w; did you mean %s?", err, near[0])
		}
		a.fail(err)
		return exitUsage
	case errors.As(err, &usage):
		a.fail(err)
		return exitUsage
	}
	a.fail(err)
	return exitOther
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "carload-fleet",
		Short: "Share the work on one list of files among many hosts",
		Long: `Share the work on one list of files among many hosts, through a queue on NATS
JetStream.

  carload fleet up                                    # on one host: the queue
  carload fleet submit --source data=/mnt/data /mnt/data
  carload fleet work --source data=/mnt/data --to TARGET   # on each host
  carload fleet status
  carload fleet report -o report.csv

A worker runs "carload up" for each job, with the targets and tokens of its own
host: they never leave it. If it is killed, another worker goes on.

Every flag can be set in the environment: --nats is CARLOAD_FLEET_NATS.

Exit codes: 0 done, 1 other, 2 usage, 3 jobs failed or are missing, 5 the queue
can't be reached, 130 or 143 stopped by Ctrl-C or SIGTERM.`,
		SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs, SuggestionsMinimumDistance: 2,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print JSON lines")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print more")
	f.StringVar(&a.fleet, "fleet", natsqueue.DefaultName, "name of the fleet; several fleets can share a server")
	a.conn.add(f)
	root.AddCommand(a.upCommand(), a.submitCommand(), a.workCommand(), a.statusCommand(), a.listCommand(), a.retryCommand(),
		a.drainCommand(), a.reportCommand(), a.reconcileCommand(), a.doctorCommand())
	for _, c := range root.Commands() {
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, list []string) error {
				if err := args(cmd, list); err != nil {
					return usageError{err}
				}
				return nil
			}
		}
	}
	return root
}

// prepare sets flags from the environment.
func (a *app) prepare(cmd *cobra.Command) (err error) {
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := "CARLOAD_FLEET_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := a.env[name]; ok && v != "" && !f.Changed && err == nil {
			if errSet := cmd.Flags().Set(f.Name, v); errSet != nil {
				err = usagef("%s: %w", name, errSet)
			}
		}
	})
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelInfo
	}
	a.log = slog.New(slog.NewTextHandler(a.stdio.Err, &slog.HandlerOptions{Level: level}))
	return err
}

// say prints a line for people.
func (a *app) say(format string, args ...any) {
	a.outMu.Lock()
	defer a.outMu.Unlock()
	_, _ = fmt.Fprintln(a.stdio.Err, printable(fmt.Sprintf(format, args...))) // there is nobody left to tell
}

func (a *app) fail(err error) { a.say("carload-fleet: error: %s", err) }

// event prints a JSON line.
func (a *app) event(kind string, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	head := fmt.Sprintf(`{"v":1,"type":%q,"time":%q`, kind, time.Now().UTC().Format(time.RFC3339Nano))
	if len(p) > 2 {
		head += ","
	}
	a.outMu.Lock()
	defer a.outMu.Unlock()
	_, err = fmt.Fprintln(a.stdio.Out, head+string(p[1:]))
	return err
}

// print prints a line of results.
func (a *app) print(format string, args ...any) error {
	a.outMu.Lock()
	defer a.outMu.Unlock()
	_, err := fmt.Fprintln(a.stdio.Out, printable(fmt.Sprintf(format, args...)))
	return err
}

// printable escapes control characters that would affect a terminal.
func printable(s string) string {
	return strings.Join(strings.FieldsFunc(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s), func(r rune) bool { return r == '\n' }), "; ")
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// size is a flag with a number of bytes: "1GiB", "250MB", or without a unit.
type size int64

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	*s = size(n) //nolint:gosec // what does not fit is negative, and refused where it is used
	return err
}

// String implements pflag.Value.
func (s *size) String() string { return fmt.Sprint(int64(*s)) }

// Type implements pflag.Value.
func (s *size) Type() string { return "size" }

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// stopped returns a context that ends at the first signal, for commands that
// have nothing to finish.
func (a *app) stopped(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		select {
		case <-a.stop:
			cancel(coded{errors.New("stopped by a signal"), a.code})
		case <-ended:
		}
	}()
	return ctx, func() { close(ended); cancel(nil) }
}

// lines reads a list of paths in the format of carload's --files-from.
func (a *app) lines(name string, f func(string) error) error {
	in := a.stdio.In
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	s := bufio.NewScanner(in)
	s.Buffer(nil, 64<<10)
	for s.Scan() {
		p := strings.TrimSuffix(s.Text(), "\r")
		if p == "" || p[0] == '#' || p[0] == ';' {
			continue
		}
		if err := f(p); err != nil {
			return err
		}
	}
	return s.Err()
}
