// Package bench measures carload on a real file, beside what the machine can
// do and what others make of it.
//
// A [Stage] is one thing to time: reading the file, describing it, packing it,
// sending it. Each checks its own result: stages that compute a root must agree
// on it, stages that move bytes must have moved all of them. [Run] runs every
// stage in a process of its own, in turns, several rounds: figures of a round
// were taken at the same speed of the machine, so the ratios between them mean
// something when the seconds do not.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"time"

	"github.com/carload/carload/internal/sha256mb"
)

// Job is what a stage works on.
type Job struct {
	Path      string // the file
	Dir       string // scratch directory on the same file system, empty at the start
	SinkURL   string // a server that drains what is PUT to it
	Endpoint  string // a service, for stages that want one
	Token     string
	Transfers int
}

// Outcome is what a stage has done.
type Outcome struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Root    string  `json:"root,omitempty"` // if it computed one
}

// Stage is one thing to time.
type Stage struct {
	Name    string
	What    string   // in one line
	Against []string // stages to compare it with
	Agrees  string   // stages with the same value must find the same root
	Service bool     // needs Job.Endpoint
	Run     func(ctx context.Context, j Job) (Outcome, error)
	// Peer, instead of Run, is the command line of another program.
	Peer func(j Job) []string
}

// Options are the knobs of [Run].
type Options struct {
	Job
	Rounds int
	Stages []string // names; empty means all
	Peers  bool     // also the other programs that are installed
	// Exec makes the command that runs one stage and prints its [Outcome] as
	// JSON. See [RunStage].
	Exec func(ctx context.Context, stage string, j Job) *exec.Cmd
	// Prepare and Cleanup, if not nil, surround each run of a stage.
	Prepare func(stage Stage, j *Job) (cleanup func() error, err error)
	// Log, if not nil, is told what is running.
	Log func(round int, stage string)
}

// Report is the outcome of [Run].
type Report struct {
	Bytes  int64 `json:"bytes"`
	Rounds int   `json:"rounds"`
	Rows   []Row `json:"rows"`
	// Hashing is how fast each way to hash was on this machine when it was
	// tried, and which are used.
	Hashing []sha256mb.Way `json:"hashing"`
}

// Row is one stage's figures.
type Row struct {
	Stage   string    `json:"stage"`
	What    string    `json:"what"`
	Seconds []float64 `json:"seconds"` // of each round
	Median  float64   `json:"medianSeconds"`
	CPU     float64   `json:"cpuSeconds"` // median, user and system, of its process
	PeakRSS int64     `json:"peakRSSBytes"`
	Rate    float64   `json:"bytesPerSecond"` // by the median
	Ratios  []Ratio   `json:"ratios"`
	Err     string    `json:"error,omitempty"` // why a peer has no figures
}

// Ratio compares a stage with another one, round by round.
type Ratio struct {
	Against string  `json:"against"`
	Median  float64 `json:"median"` // its time divided by that of the other
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
}

// RunStage runs one stage in this process and writes its outcome to w.
func RunStage(ctx context.Context, name string, j Job, w io.Writer) error {
	s, ok := Find(name)
	if !ok {
		return fmt.Errorf("no stage is called %q", name)
	}
	start := time.Now()
	o, err := s.Run(ctx, j)
	if err != nil {
		return fmt.Errorf("stage %q: %w", name, err)
	}
	if o.Seconds == 0 {
		o.Seconds = time.Since(start).Seconds()
	}
	return json.NewEncoder(w).Encode(o)
}

// Find returns the stage of this name.
func Find(name string) (Stage, bool) {
	all := Stages()
	i := slices.IndexFunc(all, func(s Stage) bool { return s.Name == name })
	if i < 0 {
		return Stage{}, false
	}
	return all[i], true
}

// Run measures the stages, round by round.
func Run(ctx context.Context, o Options) (Report, error) {
	stages, err := selected(o)
	if err != nil {
		return Report{}, err
	}
	rows := make([]Row, len(stages))
	cpu := make([][]float64, len(stages))
	roots := map[string]string{}
	rep := Report{Rounds: o.Rounds, Hashing: sha256mb.Ways()}
	for round := range o.Rounds + 1 { // the first one warms up and does not count
		for i, s := range stages {
			if o.Log != nil {
				o.Log(round, s.Name)
			}
			if rows[i].Err != "" {
				continue
			}
			out, usage, err := runOnce(ctx, o, s)
			if err != nil && s.Peer != nil && ctx.Err() == nil {
				rows[i].Err = err.Error() // a peer's trouble is not ours
				continue
			}
			if err != nil {
				return rep, err
			}
			if s.Agrees != "" {
				if want, ok := roots[s.Agrees]; ok && want != out.Root {
					return rep, fmt.Errorf("stage %q found root %s, another one %s", s.Name, out.Root, want)
				}
				roots[s.Agrees] = out.Root
			}
			if round == 0 {
				continue
			}
			rep.Bytes = max(rep.Bytes, out.Bytes)
			rows[i].Seconds = append(rows[i].Seconds, out.Seconds)
			cpu[i] = append(cpu[i], usage.cpu.Seconds())
			rows[i].PeakRSS = max(rows[i].PeakRSS, usage.peakRSS)
			rows[i].Rate = float64(out.Bytes) // divided below
		}
	}
	for i, s := range stages {
		r := &rows[i]
		r.Stage, r.What = s.Name, s.What
		if r.Err != "" {
			continue
		}
		r.Median, r.CPU = median(r.Seconds), median(cpu[i])
		r.Rate /= r.Median
		for _, name := range s.Against {
			k := slices.IndexFunc(stages, func(s Stage) bool { return s.Name == name })
			if k < 0 || rows[k].Err != "" {
				continue
			}
			ratios := make([]float64, o.Rounds)
			for n := range ratios {
				ratios[n] = r.Seconds[n] / rows[k].Seconds[n]
			}
			r.Ratios = append(r.Ratios, Ratio{name, median(ratios), slices.Min(ratios), slices.Max(ratios)})
		}
	}
	rep.Rows = rows
	return rep, nil
}

func selected(o Options) ([]Stage, error) {
	if o.Rounds < 1 {
		return nil, fmt.Errorf("%d rounds: at least one is needed", o.Rounds)
	}
	var stages []Stage
	for _, s := range Stages() {
		if s.Service && o.Endpoint == "" && o.Prepare == nil {
			continue
		}
		if len(o.Stages) == 0 || slices.Contains(o.Stages, s.Name) {
			stages = append(stages, s)
		}
	}
	if o.Peers {
		stages = append(stages, peers()...)
	}
	for _, name := range o.Stages {
		if _, ok := Find(name); !ok {
			return nil, fmt.Errorf("no stage is called %q", name)
		}
	}
	return stages, nil
}

// runOnce runs a stage in a process of its own.
func runOnce(ctx context.Context, o Options, s Stage) (out Outcome, u usage, err error) {
	j := o.Job
	if o.Prepare != nil {
		cleanup, err := o.Prepare(s, &j)
		if err != nil {
			return out, u, fmt.Errorf("prepare stage %q: %w", s.Name, err)
		}
		defer func() { err = errors.Join(err, cleanup()) }()
	}
	if s.Peer != nil {
		return runPeer(ctx, s, j)
	}
	cmd := o.Exec(ctx, s.Name, j)
	p, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return out, u, fmt.Errorf("stage %q: %w", s.Name, err)
	}
	if err := json.Unmarshal(p, &out); err != nil {
		return out, u, fmt.Errorf("stage %q printed %q: %w", s.Name, p, err)
	}
	return out, usageOf(cmd.ProcessState), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}
