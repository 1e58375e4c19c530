package cli

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
	"github.com/carload/carload/uploader/fleet/runner"
)

// carloadProgram returns the program that a worker runs.
func (a *app) carloadProgram(flag string) (string, error) {
	if flag != "" {
		return exec.LookPath(flag)
	}
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), "carload")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("carload")
	if err != nil {
		return "", usagef("carload is neither beside this program nor in PATH: name it with --carload")
	}
	return path, nil
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) workCommand() *cobra.Command {
	o := fleet.Options{}
	var source, to []string
	var program, metrics string
	var transfers int
	var public bool
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if r < 128 && fleet.ValidName("a"+string(r)) {
			return r
		}
		return '-'
	}, host)
	cmd := &cobra.Command{
		Use:   "work --source NAME=DIR [-- FLAGS OF CARLOAD UP]",
		Short: "Take jobs from the queue and do them",
		Long: `Take jobs from the queue and do them, until stopped. For each job, this runs
"carload up" with the settings, targets and tokens of this host. Flags after -- are
passed to it.

The first Ctrl-C or SIGTERM finishes the shards in flight and returns the jobs. A
worker takes only jobs for its source roots, and only jobs that name targets given
with --to here, or no targets.`,
		Example: `  carload fleet work --source data=/mnt/data --to home --slots 2
  carload fleet work --source data=/mnt/data -- --bwlimit 20MiB`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := parseSources(source)
			if err != nil {
				return err
			}
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return usagef("%q: only flags of carload up may follow, after --", args[0])
			}
			for _, t := range to {
				if !fleet.ValidName(t) && !strings.Contains(t, "://") && !strings.Contains(t, "/") {
					return usagef("--to %q: not a target", t)
				}
			}
			if !fleet.ValidName(o.Host) {
				return usagef("--host %q: use letters, digits, - and _", o.Host)
			}
			r := &runner.Carload{Sources: roots, To: to, Environ: a.childEnviron(), Default: cmp.Or(a.env["CARLOAD_TO"], a.env["CARLOAD_ENDPOINT"], "the store of the host")}
			if r.Program, err = a.carloadProgram(program); err != nil {
				return err
			}
			if transfers > 0 {
				r.Args = append(r.Args, "--transfers="+strconv.Itoa(transfers))
			}
			r.Args = append(r.Args, args...)
			for name := range roots {
				o.Sources = append(o.Sources, name)
			}
			slices.Sort(o.Sources)
			for _, t := range to { // others can't refer to a target without a name
				if fleet.ValidName(t) {
					o.To = append(o.To, t)
				}
			}
			o.Version, o.Logger, o.Stop = version(), a.log, a.stop
			dir, err := os.MkdirTemp("", "carload-fleet-*")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir) //nolint:errcheck // it only has temporary files
			r.Share = filepath.Join(dir, "share")
			o.Share = func(hosts int) error { return writeShare(r.Share, hosts) }
			if err := o.Share(0); err != nil {
				return err
			}
			return a.withQueue(cmd.Context(), "carload fleet work "+o.Host, func(q *natsqueue.Queue, _ *nats.Conn) error {
				o.Lease = q.Lease()
				m := newMeter(a, q)
				o.Observer = m.observe
				stop, err := m.serve(metrics, public)
				if err != nil {
					return err
				}
				defer stop()
				a.say("%s works: %s; stop it with Ctrl-C", o.Host, strings.Join(source, ", "))
				err = fleet.Work(cmd.Context(), q, q, r, o)
				a.say("%s", m)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&source, "source", nil, "NAME=DIR: a source root, and its path on this host")
	f.StringSliceVar(&to, "to", nil, "targets, as in carload up: for jobs that name none, and that jobs may name")
	f.IntVar(&o.Slots, "slots", 2, "jobs at a time; while one is sent, the next is hashed")
	f.IntVar(&transfers, "transfers", 0, "shards in flight of each job (default: carload's)")
	f.StringVar(&o.Host, "host", host, "name of this host, different for each")
	f.StringVar(&o.Group, "group", "", "hosts with the same group share the rate limit of one token")
	f.DurationVar(&o.Settle, "settle", 10*time.Second, "window of the token's rate limit; a host that joins others waits this long before it sends")
	f.DurationVar(&o.Stall, "stall", fleet.DefaultStall, "give up a job that moves no bytes for this long")
	f.DurationVar(&o.Backoff, "backoff", fleet.DefaultBackoff, "how long a job rests after its first failure; it doubles each time")
	f.StringVar(&program, "carload", "", "the carload program to run (default: beside this program, or in PATH)")
	f.StringVar(&metrics, "metrics-addr", "", "serve Prometheus metrics at this address, such as 127.0.0.1:9090")
	f.BoolVar(&public, "metrics-public", false, "let other machines reach --metrics-addr")
	return cmd
}

// writeShare replaces the file, so that nobody reads half of it.
func writeShare(path string, hosts int) error {
	text := "0/1\n"
	if hosts > 0 {
		text = fmt.Sprintf("1/%d\n", hosts)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// childEnviron is the environment of carload up: that of this process, without
// variables for this program.
func (a *app) childEnviron() []string {
	var environ []string
	for k, v := range a.env {
		if !strings.HasPrefix(k, "CARLOAD_FLEET_") {
			environ = append(environ, k+"="+v)
		}
	}
	slices.Sort(environ)
	return environ
}

// meter counts what a worker does.
type meter struct {
	app   *app
	reg   *prometheus.Registry
	jobs  *prometheus.CounterVec
	bytes prometheus.Counter
	took  prometheus.Histogram
	busy  prometheus.Gauge

	mu     sync.Mutex
	counts map[string]int
	sent   int64
}

func newMeter(a *app, q *natsqueue.Queue) *meter {
	m := &meter{
		app: a, reg: prometheus.NewRegistry(), counts: map[string]int{},
		jobs:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carload_fleet_jobs_total", Help: "Jobs by outcome."}, []string{"outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "carload_fleet_sent_bytes_total", Help: "Bytes of shards that were sent."}),
		took:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "carload_fleet_job_seconds", Help: "Duration of jobs.", Buckets: prometheus.ExponentialBuckets(0.1, 4, 10)}),
		busy:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "carload_fleet_jobs_running", Help: "Jobs running on this host."}),
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "carload_fleet_queue_jobs", Help: "Jobs of the whole fleet that are queued or running. -1 if unknown."}, func() float64 {
		ctx, cancel := a.brief()
		defer cancel()
		n, err := q.Waiting(ctx)
		if err != nil {
			return -1
		}
		return float64(n)
	})
	m.reg.MustRegister(m.jobs, m.bytes, m.took, m.busy, waiting, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *meter) observe(e fleet.Event) {
	if e.Kind == fleet.EventClaimed {
		m.busy.Inc()
		return
	}
	m.busy.Dec()
	m.jobs.WithLabelValues(strings.ReplaceAll(e.Kind, " ", "_")).Inc()
	m.bytes.Add(float64(e.Sent))
	m.took.Observe(e.Took.Seconds())
	m.mu.Lock()
	m.counts[e.Kind]++
	m.sent += e.Sent
	m.mu.Unlock()
	why := ""
	if e.Err != nil {
		why = e.Err.Error()
	}
	if m.app.json {
		_ = m.app.event("job", map[string]any{"id": e.ID, "outcome": e.Kind, "files": len(e.Job.Files), "sent": e.Sent, "seconds": e.Took.Seconds(), "error": why}) // there is nobody left to tell
		return
	}
	line := fmt.Sprintf("%s %s: %s in %s", e.Kind, what(e.Job), bytesText(e.Job.Bytes()), e.Took.Round(10*time.Millisecond))
	if why != "" {
		line += ": " + why
	}
	m.app.say("%s", line)
}

// what describes a job for people.
func what(j fleet.Job) string {
	if len(j.Files) == 0 {
		return "nothing"
	}
	s := j.Source + ":" + string(j.Files[0].Path)
	if n := len(j.Files) - 1; n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

// String returns a summary.
func (m *meter) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("%d jobs completed, %d failed, %d given back, %d lost, %d to be tried again; %s sent",
		m.counts[fleet.EventCompleted], m.counts[fleet.EventFailed], m.counts[fleet.EventGivenBack], m.counts[fleet.EventLost], m.counts[fleet.EventRetried], bytesText(m.sent))
}

// serve serves the metrics, if there is an address for them.
func (m *meter) serve(addr string, public bool) (stop func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	if !public && !isLoopback(addr) {
		return nil, usagef("--metrics-addr %s can be reached by other machines: give --metrics-public if that is intended", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	var g errgroup.Group
	g.Go(func() error { return s.Serve(l) })
	m.app.say("metrics: http://%s/metrics", l.Addr())
	return func() {
		_ = s.Close() // the listener is all there is to close
		if err := g.Wait(); !errors.Is(err, http.ErrServerClosed) {
			m.app.log.Warn("serve metrics", "err", err)
		}
	}, nil
}
