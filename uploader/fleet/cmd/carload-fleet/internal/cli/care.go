package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
	"github.com/carload/carload/uploader/receipts"
)

func (a *app) reconcileCommand() *cobra.Command {
	s := &submission{app: a}
	var exports []string
	var program string
	var check bool
	cmd := &cobra.Command{
		Use:   "reconcile --source NAME=DIR PATH…",
		Short: "Rebuild the index from the ledgers of hosts, after the queue was lost",
		Long: `Put files into the queue, as submit does, and record those as done that were
verified according to the ledger of this host and have not changed since. Run it
on each host that has worked, or give the exports of their ledgers (carload ledger
export). With --check, a file counts as done only if the targets list it. Ledgers
and jobs use different names for targets, so jobs that name targets need --check.

Workers do again what no ledger knows. That costs one request to the target for
each file, but no uploads.`,
		Example: `  carload fleet reconcile --source data=/mnt/data /mnt/data
  carload fleet reconcile --source data=/mnt/data --ledger-export host7.jsonl /mnt/data`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.check(args); err != nil {
				return err
			}
			ctx, cancel := a.stopped(cmd.Context())
			defer cancel()
			known, err := a.known(ctx, program, exports)
			if err != nil {
				return err
			}
			var held held
			if check {
				if held, err = a.listed(ctx, program, s.job.To); err != nil {
					return err
				}
			}
			return a.withQueue(ctx, "carload fleet reconcile", func(q *natsqueue.Queue, _ *nats.Conn) error {
				jobs, added, err := s.putAll(ctx, q, args)
				if err != nil {
					return err
				}
				settled, err := s.settle(ctx, q, known, held)
				if err != nil {
					return err
				}
				return a.print("%d jobs, %d of them new; %d are done according to the ledgers", jobs, added, settled)
			})
		},
	}
	s.add(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&exports, "ledger-export", nil, "exported ledger (default: the ledger of this host)")
	f.StringVar(&program, "carload", "", "the carload program whose ledger is read")
	f.BoolVar(&check, "check", false, "ask the targets which roots they hold, and count no others")
	return cmd
}

// done is the last upload of a path.
type done struct {
	root, target, verified string
	bytes                  int64
	at                     time.Time
}

// known reads ledgers: what was last sent from each path.
func (a *app) known(ctx context.Context, program string, exports []string) (map[string]done, error) {
	known := map[string]done{}
	take := func(r io.Reader) error {
		for rec, err := range receipts.Read(r) {
			if err != nil {
				return err
			}
			src, ok := rec.(receipts.Source)
			if !ok || !src.Known || known[src.Source].at.After(src.At) {
				continue
			}
			known[src.Source] = done{src.Root.String(), src.Target, src.Level.String(), src.Bytes, src.At}
		}
		return nil
	}
	for _, name := range exports {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		err = take(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	if len(exports) > 0 {
		return known, nil
	}
	err := a.runCarload(ctx, program, []string{"ledger", "export"}, take)
	return known, err
}

// runCarload runs a command of carload and passes its output to take.
func (a *app) runCarload(ctx context.Context, program string, args []string, take func(io.Reader) error) error {
	path, err := a.carloadProgram(program)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = a.childEnviron()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	errTake := take(out)
	_, _ = io.Copy(io.Discard, out) // otherwise it would wait forever
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("carload %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return errTake
}

// held is the roots that targets list, by the names of the targets; the host's
// default target has the name "". Nil means that no target was asked.
type held map[string]map[string]bool

// all reports whether every target that a job names lists a root.
func (h held) all(to []string, root string) bool {
	if len(to) == 0 {
		return h == nil || h[""][root]
	}
	return !slices.ContainsFunc(to, func(t string) bool { return !h[t][root] })
}

// listed asks targets what they hold.
func (a *app) listed(ctx context.Context, program string, to []string) (held, error) {
	all := held{}
	if len(to) == 0 {
		to = []string{""}
	}
	for _, t := range to {
		roots := map[string]bool{}
		all[t] = roots
		args := []string{"list", "--json"}
		if t != "" {
			args = append(args, "--to="+t)
		}
		err := a.runCarload(ctx, program, args, func(r io.Reader) error {
			lines := json.NewDecoder(r)
			for {
				var e struct {
					Root  string `json:"root"`
					CID   string `json:"cid"`
					State string `json:"state"`
				}
				if err := lines.Decode(&e); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if e.State == "" || e.State == "pinned" {
					roots[e.Root+e.CID] = true
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// settle records jobs as done if all of their files are known, unchanged, and
// held by every target that the job names.
func (s *submission) settle(ctx context.Context, q *natsqueue.Queue, known map[string]done, held held) (n int, err error) {
	var ids []fleet.ID
	var with []fleet.Receipt
	for r, err := range q.Records(ctx) {
		if err != nil {
			return n, err
		}
		root, ok := s.sources[r.Job.Source]
		if r.State != fleet.Queued || !ok {
			continue
		}
		receipt, files := fleet.Receipt{Host: "reconciled"}, 0
		for i, f := range r.Job.Files {
			d, ok := known[filepath.Join(root, filepath.FromSlash(string(f.Path)))]
			if !ok || f.Bytes < 0 || d.bytes != f.Bytes || f.MTime == 0 || d.at.UnixNano() < f.MTime || !held.all(r.Job.To, d.root) {
				break
			}
			files++
			targets := r.Job.To
			if len(targets) == 0 {
				targets = []string{d.target}
			}
			for _, t := range targets {
				receipt.Files = append(receipt.Files, fleet.FileReceipt{File: i, Target: t, Bytes: d.bytes, Root: d.root, Verified: d.verified})
			}
			if d.at.After(receipt.At) {
				receipt.At = d.at
			}
		}
		if files == len(r.Job.Files) {
			ids, with = append(ids, r.ID), append(with, receipt)
		}
	}
	for i, id := range ids {
		ok, err := q.Settle(ctx, id, with[i])
		if err != nil {
			return n, err
		}
		if ok {
			n++
		}
	}
	return n, nil
}

// finding is one result of the doctor.
type finding struct {
	Check   string `json:"check"`
	Verdict string `json:"verdict"` // good, doubtful or bad
	Detail  string `json:"detail"`
}

const (
	good     = "good"
	doubtful = "doubtful"
	bad      = "bad"
)

// mostSkew is the largest difference between clocks that does not matter in
// reports.
const mostSkew = 5 * time.Second

func (a *app) doctorCommand() *cobra.Command {
	var monitor string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check versions, clocks, replicas, durability and free space of the queue",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withQueue(cmd.Context(), "carload fleet doctor", func(q *natsqueue.Queue, nc *nats.Conn) error {
				found, err := a.examine(cmd.Context(), q, nc, monitor)
				if err != nil {
					return err
				}
				worst := false
				for _, f := range found {
					worst = worst || f.Verdict == bad
					if a.json {
						err = a.event("check", f)
					} else {
						err = a.print("%-9s %-12s %s", f.Verdict, f.Check, f.Detail)
					}
					if err != nil {
						return err
					}
				}
				if worst {
					return coded{errSilent, exitOther}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&monitor, "monitor", "", "monitoring address of an external server, such as http://127.0.0.1:8222")
	return cmd
}

func (a *app) examine(ctx context.Context, q *natsqueue.Queue, nc *nats.Conn, monitor string) (list []finding, err error) {
	say := func(verdict, check, format string, args ...any) {
		list = append(list, finding{check, verdict, fmt.Sprintf(format, args...)})
	}
	rtt, err := nc.RTT()
	if err != nil {
		return nil, err
	}
	say(good, "server", "%s at %s, %s away; %d servers known", nc.ConnectedServerVersion(), nc.ConnectedUrlRedacted(), rtt.Round(10*time.Microsecond), max(1, len(nc.DiscoveredServers())+1))
	if v := nc.ConnectedServerVersion(); !newer(v, 2, 11) {
		say(bad, "server", "%s is too old: it must be 2.11 or later", v)
	}
	info, err := q.Info(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range info {
		verdict, detail := good, fmt.Sprintf("%d replicas", i.Config.Replicas)
		if i.Config.Replicas < 3 {
			verdict, detail = doubtful, detail+": what one server loses is lost (carload fleet reconcile rebuilds it)"
		}
		if i.Cluster != nil {
			for _, p := range i.Cluster.Replicas {
				if p.Offline || !p.Current {
					verdict, detail = bad, detail+fmt.Sprintf("; %s is not up to date", p.Name)
				}
			}
			if i.Cluster.Leader == "" && i.Config.Replicas > 1 {
				verdict, detail = bad, detail+"; there is no leader"
			}
		}
		say(verdict, "replicas", "%s: %s, %s", i.Config.Name, detail, bytesText(int64(i.State.Bytes)))
		if skew := time.Since(i.TimeStamp); skew.Abs() > mostSkew {
			say(doubtful, "clock", "the clock of this host is %s off the server's", skew.Round(time.Second))
		}
	}
	hosts, err := q.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	versions := map[string]bool{}
	for _, h := range hosts {
		versions[h.Version] = true
		if skew := time.Since(h.Clock); skew < -mostSkew || skew > fleet.Presence+mostSkew {
			say(doubtful, "clock", "the clock of %s is %s off this host's", h.Name, skew.Round(time.Second))
		}
	}
	if len(versions) > 1 {
		say(doubtful, "versions", "workers have %d different versions; jobs that an old one does not understand wait for a new one", len(versions))
	}
	say(good, "hosts", "%d are present", len(hosts))
	say(a.durability(ctx, q, monitor))
	account, err := q.Account(ctx)
	if err != nil {
		return nil, err
	}
	if limit := account.Limits.MaxStore; limit > 0 && int64(account.Store) > limit*9/10 {
		say(bad, "room", "%s of %s are used", bytesText(int64(account.Store)), bytesText(limit))
	} else {
		say(good, "room", "%s are used", bytesText(int64(account.Store)))
	}
	return list, nil
}

// durability reports whether acknowledged writes are on disk.
func (a *app) durability(ctx context.Context, q *natsqueue.Queue, monitor string) (verdict, check, format string, detail string) {
	const name, f = "durability", "%s"
	if monitor == "" {
		if q.Embedded(ctx) {
			return good, name, f, "the servers are carload's: every acknowledged write is on disk"
		}
		return doubtful, name, f, "unknown: use --monitor http://HOST:8222 to check, and set \"sync_interval: always\" in the servers' jetstream block"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(monitor, "/")+"/jsz", nil)
	if err != nil {
		return bad, name, f, err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return bad, name, f, err.Error()
	}
	defer res.Body.Close()
	var v struct {
		Config struct {
			SyncAlways bool `json:"sync_always"`
		} `json:"config"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&v); err != nil {
		return bad, name, f, "the reply of " + monitor + " is not monitoring data: " + err.Error()
	}
	if !v.Config.SyncAlways {
		return bad, name, f, "acknowledged writes may be lost with the power: set \"sync_interval: always\" in the servers' jetstream block"
	}
	return good, name, f, "every acknowledged write is on disk (sync_always)"
}

// newer reports whether a version is at least major.minor.
func newer(v string, major, minor int) bool {
	var a, b int
	_, err := fmt.Sscanf(strings.TrimPrefix(v, "v"), "%d.%d", &a, &b)
	return err == nil && (a > major || a == major && b >= minor)
}
