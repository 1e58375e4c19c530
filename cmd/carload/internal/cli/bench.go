package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/carload/carload/bench"
	"github.com/carload/carload/uploader"
)

type benchFlags struct {
	rounds    int
	transfers int
	stages    []string
	dir       string
	peers     bool
}

type benchEvent struct {
	eventHeader
	bench.Report
}

func (a *app) benchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench FILE",
		Short: "Measure this machine with your file, beside baselines",
		Long: `Time each stage of an upload with a file, beside baselines without carload. Each
stage runs in its own process, and the stages take turns for several rounds.
Ratios compare stages of the same round, so they hold when the speed of the
machine drifts. The last table shows how fast each hash kernel is on one core,
and which one carload uses. The scratch directory needs room for two copies of
the file.`,
		Example: "  carload bench movie.mkv --rounds 5\n  carload bench movie.mkv --stage describe --stage sha256",
		Args:    oneArg("the file to measure with"),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.bench(cmd.Context(), args[0], f) },
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.IntVar(&f.rounds, "rounds", 5, "rounds that count, after one to warm up")
	fl.IntVar(&f.transfers, "transfers", uploader.DefaultTransfers, "shards in flight")
	fl.StringArrayVar(&f.stages, "stage", nil, "measure only this stage; may be repeated")
	fl.StringVar(&f.dir, "scratch-dir", "", "where to write files (default: beside the file)")
	fl.BoolVar(&f.peers, "peers", false, "also time ipfs, car, ipfs-car and sha256sum if they are installed")
	return cmd
}

func (a *app) bench(ctx context.Context, file string, f benchFlags) (err error) {
	if f.rounds < 1 {
		return usagef("--rounds %d: must be at least 1", f.rounds)
	}
	for _, s := range f.stages {
		if _, ok := bench.Find(s); !ok {
			return usagef("--stage %q: use one of %s", s, stageNames())
		}
	}
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil {
		return sourceError{err}
	}
	if f.dir == "" {
		f.dir = filepath.Dir(file)
	}
	scratch, err := os.MkdirTemp(f.dir, ".carload-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	b := &bencher{app: a, exe: exe, scratch: scratch}
	sink, stopSink, err := b.start(ctx, "bench-sink")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopSink()) }()

	report, err := bench.Run(ctx, bench.Options{
		Job:    bench.Job{Path: file, SinkURL: sink, Transfers: f.transfers},
		Rounds: f.rounds, Stages: f.stages, Peers: f.peers,
		Exec: b.exec, Prepare: func(s bench.Stage, j *bench.Job) (func() error, error) { return b.prepare(ctx, s, j) },
		Log: func(round int, stage string) {
			if round == 0 {
				a.con.say("warming up: %s", stage)
			} else {
				a.con.say("round %d of %d: %s", round, f.rounds, stage)
			}
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	a.con.event(benchEvent{header("bench"), report})
	a.con.result(benchTable(report) + "\n\n" + hashingTable(report.Hashing))
	return nil
}

func stageNames() string {
	var names []string
	for _, s := range bench.Stages() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func benchTable(r bench.Report) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "stage\tseconds\tGiB/s\tCPU s\tpeak MiB\tas a multiple of\n")
	for _, row := range r.Rows {
		if row.Err != "" {
			_, _ = fmt.Fprintf(w, "%s\t\t\t\t\t%s\n", row.Stage, printable(row.Err))
			continue
		}
		var ratios []string
		for _, x := range row.Ratios {
			ratios = append(ratios, fmt.Sprintf("%s %.2f (%.2f to %.2f)", x.Against, x.Median, x.Min, x.Max))
		}
		_, _ = fmt.Fprintf(w, "%s\t%.3f\t%.2f\t%.2f\t%.0f\t%s\n", row.Stage, row.Median, row.Rate/(1<<30), row.CPU, float64(row.PeakRSS)/(1<<20), strings.Join(ratios, ", "))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return strings.TrimRight(text.String(), "\n")
}

// bencher runs this program once for each stage.
type bencher struct {
	app     *app
	exe     string
	scratch string
}

func (b *bencher) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.exe, args...) //nolint:gosec // ourselves
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, envPrefix) })
	return cmd
}

func (b *bencher) exec(ctx context.Context, stage string, j bench.Job) *exec.Cmd {
	cmd := b.command(ctx, "bench-stage", stage)
	p, err := json.Marshal(j)
	if err != nil {
		cmd.Err = err
	}
	cmd.Stdin = bytes.NewReader(p)
	return cmd
}

// start starts a server that prints its URL first. The caller stops it.
func (b *bencher) start(ctx context.Context, args ...string) (url string, stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := b.command(ctx, args...)
	cmd.Stderr = b.app.stdio.Err
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return "", nil, err
	}
	stop = func() error {
		cancel()
		_ = cmd.Wait() // we killed it
		return nil
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("%s did not start: %w", args[0], err), stop())
	}
	return strings.TrimSpace(line), stop, nil
}

// prepare gives a stage an empty directory, and its own service if it needs
// one.
func (b *bencher) prepare(ctx context.Context, s bench.Stage, j *bench.Job) (func() error, error) {
	dir, err := os.MkdirTemp(b.scratch, "stage-")
	if err != nil {
		return nil, err
	}
	j.Dir = filepath.Join(dir, "work")
	if err := os.Mkdir(j.Dir, 0o700); err != nil {
		return nil, err
	}
	cleanup := func() error { return os.RemoveAll(dir) }
	if !s.Service {
		return cleanup, nil
	}
	store := filepath.Join(dir, "store")
	url, stop, err := b.start(ctx, "serve", "--quiet", "--listen", "127.0.0.1:0", "--store", store)
	if err != nil {
		return nil, errors.Join(err, cleanup())
	}
	token, err := readLocal(store, localTokenFile)
	if err != nil {
		return nil, errors.Join(err, stop(), cleanup())
	}
	j.Endpoint, j.Token = url, strings.TrimSpace(string(token))
	return func() error { return errors.Join(stop(), cleanup()) }, nil
}

// benchStageCommand and benchSinkCommand are hidden commands that bench runs.
func (a *app) benchStageCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bench-stage NAME",
		Short:  "Run one stage of bench; the job is on standard input",
		Hidden: true,
		Args:   oneArg("the name of a stage"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var j bench.Job
			if err := json.NewDecoder(a.stdin()).Decode(&j); err != nil {
				return usageError{error: err}
			}
			return bench.RunStage(cmd.Context(), args[0], j, a.stdio.Out)
		},
	}
}

func (a *app) benchSinkCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bench-sink",
		Short:  "Serve as a sink for the requests of bench",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.ServeSink(cmd.Context(), func(url string) { a.con.result(url) })
		},
	}
}
