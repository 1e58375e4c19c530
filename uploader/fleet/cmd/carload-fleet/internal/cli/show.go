package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

// brief returns a context for one short request.
func (a *app) brief() (context.Context, context.CancelFunc) {
	return context.WithTimeout(a.hard, 5*time.Second)
}

// status is the state of the fleet at one time.
type status struct {
	Jobs    map[fleet.State]int   `json:"jobs"`
	Bytes   map[fleet.State]int64 `json:"bytes"` // of files, as far as known
	Files   int                   `json:"files"`
	Hosts   []fleet.Host          `json:"hosts"`
	Stuck   []stuckJob            `json:"stuck"` // at most mostStuck
	Seconds float64               `json:"etaSeconds,omitempty"`
	Rate    float64               `json:"bytesPerSecond"`
}

type stuckJob struct {
	ID      fleet.ID    `json:"id"`
	What    string      `json:"what"`
	Host    string      `json:"host"`
	State   fleet.State `json:"state"`
	Attempt int         `json:"attempt"`
	Reason  string      `json:"reason,omitempty"`
	Since   time.Time   `json:"since"`
}

const (
	mostStuck = 20
	// rateOver is the time over which the rate is measured.
	rateOver = 2 * time.Minute
	// A job that was tried this often counts as stuck.
	oftenTried = 4
)

func (a *app) look(ctx context.Context, q *natsqueue.Queue) (*status, error) {
	s := &status{Jobs: map[fleet.State]int{}, Bytes: map[fleet.State]int64{}}
	now := time.Now()
	var recent int64
	first := now
	for r, err := range q.Records(ctx) {
		if err != nil {
			return nil, err
		}
		s.Jobs[r.State]++
		s.Bytes[r.State] += r.Job.Bytes()
		s.Files += len(r.Job.Files)
		if r.State == fleet.Done && now.Sub(r.Since) < rateOver {
			recent += r.Job.Bytes()
			if r.Since.Before(first) {
				first = r.Since
			}
		}
		late := r.State == fleet.Running && now.Sub(r.Since) > 2*q.Lease()
		if (late || (r.State == fleet.Running || r.State == fleet.Queued) && r.Attempt >= oftenTried) && len(s.Stuck) < mostStuck {
			s.Stuck = append(s.Stuck, stuckJob{r.ID, what(r.Job), r.Host, r.State, r.Attempt, r.Reason, r.Since})
		}
	}
	if span := now.Sub(first).Seconds(); span >= 1 {
		s.Rate = float64(recent) / span
	}
	if left := s.Bytes[fleet.Queued] + s.Bytes[fleet.Running]; s.Rate > 0 {
		s.Seconds = float64(left) / s.Rate
	}
	var err error
	s.Hosts, err = q.Hosts(ctx)
	return s, err
}

// write prints the status as text.
func (s *status) write(w io.Writer) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintln(w, printable(fmt.Sprintf(format, args...))) }
	total := 0
	for _, st := range []fleet.State{fleet.Queued, fleet.Running, fleet.Done, fleet.Failed} {
		line("%-8s %9d jobs  %10s", st, s.Jobs[st], bytesText(s.Bytes[st]))
		total += s.Jobs[st]
	}
	line("%-8s %9d jobs, %d files", "all", total, s.Files)
	if s.Rate > 0 {
		eta := ""
		if s.Jobs[fleet.Queued]+s.Jobs[fleet.Running] > 0 {
			eta = ", done in about " + time.Duration(s.Seconds*float64(time.Second)).Round(time.Second).String()
		}
		line("%s a second%s", bytesText(int64(s.Rate)), eta)
	}
	if len(s.Hosts) == 0 {
		line("there is no worker: start one with carload fleet work")
	}
	for _, h := range s.Hosts {
		state := ""
		if h.Draining {
			state = ", draining"
		}
		line("host %s: %d of %d slots, %d jobs done, %d failed, %s sent%s", h.Name, h.Running, h.Slots, h.Done, h.Failed, bytesText(h.Bytes), state)
	}
	for _, j := range s.Stuck {
		line("slow: %s %s, attempt %d on %s, since %s: %s", j.ID, j.What, j.Attempt, j.Host, j.Since.Local().Format(time.TimeOnly), j.Reason)
	}
	if n := s.Jobs[fleet.Failed]; n > 0 {
		line("%d jobs failed: carload fleet list --failed shows why, carload fleet retry --all sends them again", n)
	}
}

func (a *app) statusCommand() *cobra.Command {
	var once bool
	var until bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show totals, rate, hosts and slow jobs; on a terminal, update until Ctrl-C",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.stopped(cmd.Context())
			defer cancel()
			return a.withQueue(ctx, "carload fleet status", func(q *natsqueue.Queue, _ *nats.Conn) error {
				live := !once && !a.json && isTerminal(a.stdio.Out)
				for {
					begun := time.Now()
					s, err := a.look(ctx, q)
					if err != nil {
						if ctx.Err() != nil {
							return nil
						}
						return err
					}
					ended := s.Jobs[fleet.Queued]+s.Jobs[fleet.Running] == 0
					switch {
					case a.json:
						err = a.event("status", s)
					case live:
						var b strings.Builder
						b.WriteString("\x1b[H\x1b[2J")
						s.write(&b)
						_, err = io.WriteString(a.stdio.Out, b.String())
					case !until || ended:
						s.write(a.stdio.Out)
					}
					if err != nil || !live && !until || until && ended {
						if err == nil && until && s.Jobs[fleet.Failed] > 0 {
							return coded{errSilent, exitFailed}
						}
						return err
					}
					// Getting the status reads all records.
					if !pause(ctx, max(2*time.Second, 10*time.Since(begun))) {
						return context.Cause(ctx)
					}
				}
			})
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "show it once, even on a terminal")
	cmd.Flags().BoolVar(&until, "wait", false, "wait until no job is left; exit with 3 if any failed")
	return cmd
}

// pause returns false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (a *app) listCommand() *cobra.Command {
	var failed bool
	var state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs: id, state, host, attempt, files, reason",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if failed {
				state = string(fleet.Failed)
			}
			return a.withQueue(cmd.Context(), "carload fleet list", func(q *natsqueue.Queue, _ *nats.Conn) error {
				for r, err := range q.Records(cmd.Context()) {
					if err != nil {
						return err
					}
					if state != "" && string(r.State) != state {
						continue
					}
					if a.json {
						err = a.event("job", r)
					} else {
						err = a.print("%s\t%s\t%s\t%d\t%s\t%s", r.ID, r.State, r.Host, r.Attempt, what(r.Job), r.Reason)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&failed, "failed", false, "only failed jobs, with the reason")
	cmd.Flags().StringVar(&state, "state", "", "only jobs in this state: queued, running, done or failed")
	return cmd
}

func (a *app) retryCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "retry ID… | --all",
		Short: "Hand out failed jobs again",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("give IDs of jobs from carload fleet list --failed, or --all")
			}
			return a.withQueue(cmd.Context(), "carload fleet retry", func(q *natsqueue.Queue, _ *nats.Conn) error {
				ids := make([]fleet.ID, 0, len(args))
				for _, arg := range args {
					if !fleet.ValidID(arg) {
						return usagef("%q is not the ID of a job", arg)
					}
					ids = append(ids, fleet.ID(arg))
				}
				if all {
					for r, err := range q.Records(cmd.Context()) {
						if err != nil {
							return err
						}
						if r.State == fleet.Failed {
							ids = append(ids, r.ID)
						}
					}
				}
				n := 0
				for _, id := range ids {
					ok, err := q.Requeue(cmd.Context(), id)
					if err != nil {
						return fmt.Errorf("job %s: %w", id, err)
					}
					if ok {
						n++
					} else {
						a.say("%s has not failed", id)
					}
				}
				return a.print("%d jobs are handed out again", n)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all failed jobs")
	return cmd
}

// reportRow is a row of the report. Fields may be added, but not removed.
type reportRow struct {
	Source   string      `json:"source"`
	Path     string      `json:"path"`
	Bytes    int64       `json:"bytes"`
	Root     string      `json:"root"`
	Target   string      `json:"target"`
	When     time.Time   `json:"when,omitzero"`
	Verified string      `json:"verified"`
	State    fleet.State `json:"state"`
	Error    string      `json:"error"`
	Host     string      `json:"host"`
	RawPath  []byte      `json:"rawPath"`
}

var reportColumns = []string{"source", "path", "bytes", "root", "target", "when", "verified", "state", "error", "host", "rawPath"}

// rows returns the rows of a job: one for each file and target.
func rows(r fleet.Record) (list []reportRow) {
	said := map[int]bool{}
	if r.Receipt != nil {
		for _, f := range r.Receipt.Files {
			if f.File < 0 || f.File >= len(r.Job.Files) {
				continue
			}
			said[f.File] = true
			row := reportRow{
				Path: string(r.Job.Files[f.File].Path), Bytes: f.Bytes, Root: f.Root, When: r.Receipt.At, Verified: f.Verified,
				Target: cmp.Or(f.Target, strings.Join(r.Job.To, " ")), State: fleet.Done, Error: f.Error,
			}
			if f.Error != "" {
				row.State, row.When = fleet.Failed, time.Time{}
			}
			list = append(list, row)
		}
	}
	for i, f := range r.Job.Files {
		if !said[i] {
			list = append(list, reportRow{Path: string(f.Path), Bytes: f.Bytes, Target: strings.Join(r.Job.To, " "), State: r.State, Error: r.Reason})
		}
	}
	for i := range list {
		row := &list[i]
		row.Source, row.Host, row.Error = r.Job.Source, r.Host, printable(row.Error)
		if !utf8.ValidString(row.Path) || strings.Contains(row.Path, "\r") {
			row.RawPath = []byte(row.Path)
			row.Path = strings.ToValidUTF8(row.Path, "\uFFFD")
		}
	}
	return list
}

func (a *app) reportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "report",
		Short: "List all files: path, size, root, target, time, verification",
		Long: `Make one list of all files of all jobs, as CSV, or JSON lines with --json or into a
file that ends in .jsonl. What is not done has its state and the reason; the exit
code is then 3.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueue(cmd.Context(), "carload fleet report", func(q *natsqueue.Queue, _ *nats.Conn) error {
				counts := map[fleet.State]int{}
				err := a.output(out, func(w io.Writer) error { return a.report(cmd.Context(), q, w, out, counts) })
				if err != nil {
					return err
				}
				a.say("%d files done, %d failed, %d queued, %d running", counts[fleet.Done], counts[fleet.Failed], counts[fleet.Queued], counts[fleet.Running])
				if counts[fleet.Failed]+counts[fleet.Queued]+counts[fleet.Running] > 0 {
					return coded{errSilent, exitFailed}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to this file (.csv or .jsonl), which appears when it is complete")
	return cmd
}

func (a *app) report(ctx context.Context, q fleet.Index, w io.Writer, out string, counts map[fleet.State]int) error {
	buf := bufio.NewWriter(w)
	ext := strings.ToLower(filepath.Ext(out))
	var table *csv.Writer
	if ext != ".json" && ext != ".jsonl" && (out != "" || !a.json) {
		table = csv.NewWriter(buf)
		if err := table.Write(reportColumns); err != nil {
			return err
		}
	}
	lines := json.NewEncoder(buf)
	for r, err := range q.Records(ctx) {
		if err != nil {
			return err
		}
		for _, row := range rows(r) {
			counts[row.State]++
			if table == nil {
				err = lines.Encode(row)
			} else {
				when := ""
				if !row.When.IsZero() {
					when = row.When.UTC().Format(time.RFC3339)
				}
				err = table.Write([]string{
					row.Source, row.Path, strconv.FormatInt(row.Bytes, 10), row.Root, row.Target, when, row.Verified,
					string(row.State), row.Error, row.Host, base64.StdEncoding.EncodeToString(row.RawPath),
				})
			}
			if err != nil {
				return err
			}
		}
	}
	if table != nil {
		table.Flush()
		if err := table.Error(); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// output calls f with standard output, or with a file that appears when f is
// done.
func (a *app) output(path string, f func(io.Writer) error) error {
	if path == "" || path == "-" {
		return f(a.stdio.Out)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return usagef("%q is not a regular file: carload-fleet would replace it", path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".carload-fleet-*")
	if err != nil {
		return err
	}
	err = f(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
