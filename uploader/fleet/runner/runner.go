// Package runner works on a job of the fleet by running carload up.
//
// Each job gets a process of its own, with the settings of its host: the
// targets configured there, and their tokens, which never leave the host. If it
// crashes, nothing else is affected. It uses the host's ledger. If the lease is
// lost, it is killed, so it has certainly stopped.
package runner

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
)

// Carload runs carload up. It implements [fleet.Runner].
type Carload struct {
	Program string            // path of the program
	Sources map[string]string // paths of the host's source roots, by name
	To      []string          // targets of jobs that name none; empty means the host's setting
	Args    []string          // additional flags
	Default string            // name of the target if no name was given
	Share   string            // file with the share of the rate limit; empty means none
	Environ []string          // nil means the environment of this process
}

// Exit codes of carload up, for one file or for all.
const (
	codeOK       = 0
	codeUsage    = 2
	codeSources  = 3
	codeMismatch = 6
	codeLimit    = 8
)

// permanent reports whether trying again does not help against a code.
func permanent(code int) bool {
	return code == codeUsage || code == codeSources || code == codeMismatch || code == codeLimit
}

// event holds what is needed from the JSON lines of carload up.
type event struct {
	Type        string `json:"type"`
	Path        string `json:"path"`
	Root        string `json:"root"`
	Target      string `json:"target"`
	Index       int    `json:"index"`
	Count       int    `json:"count"`
	Bytes       int64  `json:"bytes"`
	Shards      int    `json:"shards"`
	Held        bool   `json:"held"`
	Verified    string `json:"verified"`
	Code        int    `json:"code"`
	Error       string `json:"error"`
	Message     string `json:"message"`
	BytesHashed int64  `json:"bytesHashed"`
	BytesSent   int64  `json:"bytesSent"`
}

// mostLineBytes limits a line of the child, and mostSaid its output for people.
const (
	mostLineBytes = 1 << 20
	mostSaid      = 4 << 10
)

// Run implements [fleet.Runner].
func (c *Carload) Run(ctx context.Context, job fleet.Job, stop <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error) {
	root, ok := c.Sources[job.Source]
	if !ok {
		return fleet.Receipt{}, fmt.Errorf("this host has no source root %q", job.Source)
	}
	r := &run{job: job, tell: tell, at: map[string]int{}, targets: max(len(c.to(job)), 1), target: cmp.Or(strings.Join(c.to(job), " "), c.Default)}
	var paths bytes.Buffer
	remote := strings.Contains(root, "://")
	if _, err := os.Stat(root); err != nil && !remote {
		return fleet.Receipt{}, fmt.Errorf("the source root %q is not there: %w", job.Source, err) // it may not be mounted
	}
	for i, f := range job.Files {
		path := strings.TrimSuffix(root, "/") + "/" + string(f.Path)
		if !remote {
			path = filepath.Join(root, filepath.FromSlash(string(f.Path)))
			if why := differs(path, f); why != "" {
				r.receipt.Files = append(r.receipt.Files, fleet.FileReceipt{File: i, Bytes: max(f.Bytes, 0), Error: why})
				continue
			}
		}
		r.at[path] = i
		r.only = i
		paths.WriteString(path)
		paths.WriteByte(0)
	}
	if paths.Len() == 0 {
		return r.receipt, nil
	}
	if err := c.child(ctx, r, &paths, stop); err != nil {
		return fleet.Receipt{}, err
	}
	return r.result()
}

// differs says how a file differs from what was submitted, or returns "".
func differs(path string, f fleet.File) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err.Error()
	case info.IsDir() && f.Bytes < 0:
		return ""
	case f.Bytes >= 0 && info.Size() != f.Bytes:
		return fmt.Sprintf("it has changed since it was submitted: it has %d bytes, not %d", info.Size(), f.Bytes)
	case f.MTime != 0 && info.ModTime().UnixNano() != f.MTime:
		return "it has changed since it was submitted: it was modified at " + info.ModTime().UTC().Format(time.RFC3339Nano)
	}
	return ""
}

// to returns the targets of a job.
func (c *Carload) to(job fleet.Job) []string {
	if len(job.To) > 0 {
		return job.To
	}
	return c.To
}

func (c *Carload) args(job fleet.Job) []string {
	args := []string{"up", "--json", "--progress", "none", "--as-file", "--files-from0", "-"}
	for _, t := range c.to(job) {
		args = append(args, "--to="+t)
	}
	add := func(flag, value string) {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	add("profile", job.Recipe.Profile)
	add("chunker", job.Recipe.Chunker)
	add("verify", job.Recipe.Verify)
	if n := job.Recipe.MaxShardBytes; n > 0 {
		add("max-shard-bytes", strconv.FormatInt(n, 10))
	}
	if c.Share != "" {
		add("rate-share", "@"+c.Share)
	}
	return append(args, c.Args...)
}

// child runs carload up over the paths, and reads its events.
func (c *Carload) child(ctx context.Context, r *run, paths io.Reader, stop <-chan struct{}) error {
	// Where possible, the child dies with the thread that started it, and so
	// with this process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, c.Program, c.args(r.job)...)
	cmd.Env, cmd.Stdin = c.Environ, paths
	said := &tail{}
	cmd.Stderr = said
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run carload: %w", err)
	}
	ended := make(chan struct{})
	var g errgroup.Group
	stopped := false
	g.Go(func() error {
		select {
		case <-stop:
			stopped = true
			return terminate(cmd.Process) // it finishes the shards in flight
		case <-ended:
			return nil
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(make([]byte, 0, 64<<10), mostLineBytes)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			r.take(e)
		}
	}
	errRead := lines.Err()
	if errRead != nil {
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	close(ended)
	_ = g.Wait() // a child that has ended can't be asked to stop
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errRead != nil:
		return fmt.Errorf("read the output of carload up: %w", errRead)
	}
	var ex *exec.ExitError
	if err != nil && !errors.As(err, &ex) {
		return fmt.Errorf("run carload: %w", err)
	}
	if len(r.missing()) == 0 {
		return nil // whatever its exit code, the outcome of each file is known
	}
	if stopped {
		return fleet.ErrStopped
	}
	code := cmd.ProcessState.ExitCode()
	why := cmp.Or(r.message, said.last(), cmd.ProcessState.String())
	if code == codeUsage {
		return &fleet.Permanent{Err: errors.New(why)}
	}
	return errors.New(why)
}

// run is the outcome of a job so far.
type run struct {
	job     fleet.Job
	tell    func(fleet.Progress)
	at      map[string]int // indexes of files in the job, by path
	target  string         // name of the only target
	targets int            // number of targets that report each file
	only    int            // index of the last file
	p       fleet.Progress
	hashed  int64
	sent    int64
	receipt fleet.Receipt
	message string // of the last error
	retry   string // why the job has to be tried again
}

func (r *run) place(e event) int {
	if i, ok := r.at[e.Path]; ok || len(r.at) != 1 {
		if !ok {
			return -1
		}
		return i
	}
	return r.only // its path is not valid UTF-8
}

func (r *run) take(e event) {
	i := r.place(e)
	switch e.Type {
	case "plan":
		if i != r.p.File || e.Root != r.p.Root {
			r.p.File, r.p.Root, r.p.Shards, r.p.Held = max(i, 0), e.Root, e.Shards, nil
		}
		r.hashed = max(r.hashed, e.Bytes)
	case "shard":
		if i == r.p.File {
			r.p.Held.Set(e.Index, min(e.Count, 1<<16))
		}
		if !e.Held {
			r.p.Sent += e.Bytes
		}
		r.p.Moved++ // also for a shard that was there already
	case "progress":
		r.hashed, r.sent = e.BytesHashed, e.BytesSent
	case "error":
		r.message = e.Message
	case "file":
		if i < 0 {
			return
		}
		f := fleet.FileReceipt{File: i, Target: cmp.Or(e.Target, r.target), Bytes: e.Bytes, Root: e.Root, Verified: e.Verified, Shards: e.Shards}
		if e.Code != codeOK {
			f.Error = cmp.Or(e.Error, "exit code "+strconv.Itoa(e.Code))
			r.message = f.Error
			if !permanent(e.Code) {
				r.retry = f.Error
			}
		}
		r.receipt.Files = append(r.receipt.Files, f)
		r.p.Files++
	default:
		return
	}
	p := r.p
	p.Held = slices.Clone(p.Held)
	p.Moved += r.hashed + max(r.sent, r.p.Sent)
	r.tell(p)
}

// missing returns the files that were not reported, or not for each target.
func (r *run) missing() (list []int) {
	type outcome struct {
		file   int
		target string
	}
	said := map[outcome]bool{}
	of := map[int]int{}
	for _, f := range r.receipt.Files {
		if o := (outcome{f.File, f.Target}); !said[o] {
			said[o] = true
			of[f.File]++
		}
	}
	for _, i := range r.at {
		if of[i] < r.targets {
			list = append(list, i)
		}
	}
	return list
}

func (r *run) result() (fleet.Receipt, error) {
	if r.retry != "" {
		return fleet.Receipt{}, errors.New(r.retry)
	}
	r.receipt.Sent = r.p.Sent
	slices.SortStableFunc(r.receipt.Files, func(a, b fleet.FileReceipt) int { return cmp.Compare(a.File, b.File) })
	return r.receipt, nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	p  []byte
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p = append(t.p, p...)
	if extra := len(t.p) - mostSaid; extra > 0 {
		t.p = slices.Clone(t.p[extra:])
	}
	return len(p), nil
}

// last returns the last line with an error.
func (t *tail) last() (line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for l := range strings.Lines(string(t.p)) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(l), "carload: error: "); ok {
			line = s
		}
	}
	return line
}
