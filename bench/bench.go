// Package bench measures carload on a real file, and compares it with what the
// machine can do and with other programs.
//
// A [Stage] is one thing to time: reading the file, describing it, packing it,
// sending it. Each stage checks its own result: stages that compute a root must
// agree on it, and stages that move bytes must move all of them. [Run] runs
// every stage in a process of its own, in turns, for several rounds. The
// machine runs at about the same speed throughout a round, so ratios within a
// round are meaningful even if the seconds are not.
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

// Job is the input of a stage.
type Job struct {
	Path      string // the file
	Dir       string // scratch directory on the same file system; empty at the start
	SinkURL   string // a server that discards what is PUT to it
	Endpoint  string // a service, for stages that need one
	Token     string
	Transfers int
}

// Outcome is the result of a stage.
type Outcome struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	Root    string  `json:"root,omitempty"` // the root, if the stage computes one
}

// Stage is one thing to time.
type Stage struct {
	Name    string
	What    string   // one-line description
	Against []string // names of the stages to compare it with
	Agrees  string   // stages with the same value must compute the same root
	Service bool     // whether it needs Job.Endpoint
	Run     func(ctx context.Context, j Job) (Outcome, error)
	// Peer, if set, is the command line of another program to run instead of
	// Run.
	Peer func(j Job) []string
}

// Options configure [Run].
type Options struct {
	Job
	Rounds int
	Stages []string // names; empty means all
	Peers  bool     // also measure the other programs that are installed
	// Exec makes the command that runs one stage and prints its [Outcome] as
	// JSON; see [RunStage].
	Exec func(ctx context.Context, stage string, j Job) *exec.Cmd
	// Prepare, if not nil, is called before each run of a stage, and cleanup
	// after it.
	Prepare func(stage Stage, j *Job) (cleanup func() error, err error)
	// Log, if not nil, is called before each run of a stage.
	Log func(round int, stage string)
}

// Report is the result of [Run].
type Report struct {
	Bytes  int64 `json:"bytes"`
	Rounds int   `json:"rounds"`
	Rows   []Row `json:"rows"`
	// Hashing is the speed of each way to hash on this machine, and which ways
	// are used.
	Hashing []sha256mb.Way `json:"hashing"`
}

// Row is the figures of one stage.
type Row struct {
	Stage   string    `json:"stage"`
	What    string    `json:"what"`
	Seconds []float64 `json:"seconds"` // of each round
	Median  float64   `json:"medianSeconds"`
	CPU     float64   `json:"cpuSeconds"` // median of user and system time of the process
	PeakRSS int64     `json:"peakRSSBytes"`
	Rate    float64   `json:"bytesPerSecond"` // from the median time
	Ratios  []Ratio   `json:"ratios"`
	Err     string    `json:"error,omitempty"` // why a peer has no figures
}

// Ratio compares a stage with another one, round by round.
type Ratio struct {
	Against string  `json:"against"`
	Median  float64 `json:"median"` // its time divided by the other's
	Min     float64 `json:"min"`
	Max     float64 `json:"max"`
}

// RunStage runs one stage in this process and writes its outcome to w as JSON.
func RunStage(ctx context.Context, name string, j Job, w io.Writer) error {
	s, ok := Find(name)
	if !ok {
		return fmt.Errorf("there is no stage %q", name)
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

// Find returns the stage with this name.
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
	for round := range o.Rounds + 1 { // the first round warms up and does not count
		for i, s := range stages {
			if o.Log != nil {
				o.Log(round, s.Name)
			}
			if rows[i].Err != "" {
				continue
			}
			out, usage, err := runOnce(ctx, o, s)
			if err != nil && s.Peer != nil && ctx.Err() == nil {
				rows[i].Err = err.Error() // a peer's failure is not ours
				continue
			}
			if err != nil {
				return rep, err
			}
			if s.Agrees != "" {
				if want, ok := roots[s.Agrees]; ok && want != out.Root {
					return rep, fmt.Errorf("stage %q computed root %s, another stage %s", s.Name, out.Root, want)
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
			return nil, fmt.Errorf("there is no stage %q", name)
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
