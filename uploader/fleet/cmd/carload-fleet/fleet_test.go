package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

var bin string // directory of the programs

func TestMain(m *testing.M) {
	if role := os.Getenv("FLEET_TEST_ROLE"); role != "" {
		if err := play(role); err != nil {
			panic(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "carload-fleet-test-*")
	if err != nil {
		panic(err)
	}
	bin = dir
	for _, args := range [][]string{
		{"build", "-o", filepath.Join(dir, "carload-fleet"), "."},
		{"build", "-C", "../../../..", "-o", filepath.Join(dir, "carload"), "./cmd/carload"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// wait polls until f returns true.
func wait(t *testing.T, what string, limit time.Duration, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// process is a running program.
type process struct {
	cmd  *exec.Cmd
	out  *lines
	errs *lines
	done chan struct{}
}

// lines keeps what a process prints, and passes each line to listeners.
type lines struct {
	mu   sync.Mutex
	text []string
	tell func(string)
}

func (l *lines) follow(r io.Reader) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l.mu.Lock()
		l.text = append(l.text, s.Text())
		l.mu.Unlock()
		if l.tell != nil {
			l.tell(s.Text())
		}
	}
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.text)
}

func (l *lines) has(s string) bool {
	return slices.ContainsFunc(l.all(), func(line string) bool { return strings.Contains(line, s) })
}

func run(t *testing.T, env []string, tell func(string), name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(filepath.Join(bin, name), args...), out: &lines{tell: tell}, errs: &lines{}, done: make(chan struct{})}
	p.cmd.Env = env
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	both.Go(func() { p.out.follow(out) })
	both.Go(func() { p.errs.follow(errs) })
	go func() {
		both.Wait()
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill() {
	p.signal(syscall.SIGCONT)
	_ = p.cmd.Process.Kill()
	<-p.done
}

// output runs a program to its end.
func output(t *testing.T, env []string, name string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Env = env
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 && testing.Verbose() {
		t.Logf("%s %s: %d: %s", name, args[0], code, errs.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// wire is a connection to a server that can be cut. It counts bytes.
type wire struct {
	addr string
	to   string
	sent *atomic.Int64
	cut  atomic.Bool
	mu   sync.Mutex
	open map[net.Conn]bool
}

func newWire(t *testing.T, to string, sent *atomic.Int64) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), to: to, sent: sent, open: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.pass(near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.set(true)
		all.Wait()
	})
	return w
}

func (w *wire) pass(near net.Conn) {
	defer near.Close()
	if w.cut.Load() {
		return
	}
	far, err := net.DialTimeout("tcp", w.to, 2*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	w.open[near], w.open[far] = true, true
	w.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() {
		n, _ := io.Copy(far, near)
		w.sent.Add(n)
		_ = far.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	both.Wait()
	w.mu.Lock()
	delete(w.open, near)
	delete(w.open, far)
	w.mu.Unlock()
}

// set cuts the wire, or repairs it.
func (w *wire) set(cut bool) {
	w.cut.Store(cut)
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		if cut {
			_ = c.Close()
		}
	}
}

// world is a fleet on loopback: the queue's servers, workers, and a service.
type world struct {
	t        *testing.T
	dir      string
	data     string
	servers  []*process
	upArgs   [][]string
	urls     []string
	workers  []*process
	services []*wire // one for each worker
	queues   []*wire
	sent     atomic.Int64
	env      []string
	extra    []string // additional flags of carload up
	lease    time.Duration

	mu        sync.Mutex
	completed map[string]int // by job
	lost      int
	failed    []string
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func environ(dir string, more ...string) []string {
	return append([]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir()}, more...)
}

func (w *world) startService() string {
	t := w.t
	t.Helper()
	store := filepath.Join(w.dir, "store")
	token, code := output(t, environ(w.dir), "carload", "key", "new", "fleet", "--store", store)
	if code != 0 {
		t.Fatal("no key")
	}
	if err := os.WriteFile(filepath.Join(w.dir, "token"), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, environ(w.dir), nil, "carload", "serve", "--store", store, "--listen", "127.0.0.1:0")
	wait(t, "carload serve", 30*time.Second, func() bool { return len(p.out.all()) > 0 })
	return strings.TrimPrefix(p.out.all()[0], "http://")
}

func (w *world) startQueue(n int) {
	t := w.t
	t.Helper()
	var listen, routes []string
	for range n {
		listen, routes = append(listen, freePort(t)), append(routes, freePort(t))
	}
	for i := range n {
		args := []string{"up", "--name", fmt.Sprintf("q%d", i), "--dir", filepath.Join(w.dir, fmt.Sprintf("q%d", i)), "--listen", listen[i], "--lease", w.lease.String()}
		if n > 1 {
			args = append(args, "--cluster-listen", routes[i], "--routes", strings.Join(routes, ","))
		}
		w.upArgs = append(w.upArgs, args)
		w.urls = append(w.urls, "nats://"+listen[i])
		w.servers = append(w.servers, run(t, environ(w.dir), nil, "carload-fleet", args...))
	}
	w.awaitQueue()
	w.env = environ(w.dir, "CARLOAD_FLEET_NATS="+strings.Join(w.urls, ","))
}

func (w *world) awaitQueue() {
	w.t.Helper()
	for i, s := range w.servers {
		wait(w.t, w.upArgs[i][2], time.Minute, func() bool {
			select {
			case <-s.done:
				w.t.Fatalf("server %d ended: %s", i, s.errs.all())
			default:
			}
			return len(s.out.all()) > 0
		})
	}
}

func (w *world) startWorker(i int) {
	w.t.Helper()
	dir := filepath.Join(w.dir, fmt.Sprintf("w%d", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	env := environ(dir, "CARLOAD_ENDPOINT=http://"+w.services[i].addr, "CARLOAD_TOKEN_FILE="+filepath.Join(w.dir, "token"))
	args := append([]string{
		"work", "--json", "--host", fmt.Sprintf("w%d", i), "--source", "data=" + w.data, "--slots", "1", "--transfers", "1", "--backoff", "500ms",
		"--nats", "nats://" + w.queues[i].addr, "--", "--max-shard-bytes", "1200000",
	}, w.extra...)
	p := run(w.t, env, w.heard, "carload-fleet", args...)
	if i < len(w.workers) {
		w.workers[i] = p
	} else {
		w.workers = append(w.workers, p)
	}
}

// heard processes what workers report about jobs.
func (w *world) heard(line string) {
	var e struct{ Type, ID, Outcome, Error string }
	if json.Unmarshal([]byte(line), &e) != nil || e.Type != "job" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Outcome {
	case fleet.EventCompleted:
		w.completed[e.ID]++
	case fleet.EventLost:
		w.lost++
	case fleet.EventFailed:
		w.failed = append(w.failed, e.Error)
	}
}

func (w *world) startWorkers(n int, service string) {
	for i := range n {
		w.services = append(w.services, newWire(w.t, service, &w.sent))
		var none atomic.Int64
		w.queues = append(w.queues, newWire(w.t, strings.TrimPrefix(w.urls[i%len(w.urls)], "nats://"), &none))
		w.startWorker(i)
	}
}

// fill makes files: mostly small ones, and some of several shards.
func (w *world) fill(files int) (bytes int64) {
	w.t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(files)))
	for i := range files {
		n := 1 + r.IntN(20_000)
		if i%20 == 0 {
			n = 2_500_000 + r.IntN(3_000_000)
		}
		p := make([]byte, n)
		for at := 0; at < n; at += 8 {
			copy(p[at:], strconv.AppendUint(nil, r.Uint64(), 36))
		}
		path := filepath.Join(w.data, fmt.Sprintf("dir%d", i%7), fmt.Sprintf("file-%d", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, p, 0o600)); err != nil {
			w.t.Fatal(err)
		}
		bytes += int64(n)
	}
	return bytes
}

func (w *world) connect() *natsqueue.Queue {
	w.t.Helper()
	nc, err := nats.Connect(strings.Join(w.urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(nc.Close)
	q, err := natsqueue.Open(w.t.Context(), nc, natsqueue.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

// counts counts jobs by state. It returns nil if the queue does not respond
// now.
func counts(t *testing.T, q *natsqueue.Queue) map[fleet.State]int {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	n := map[fleet.State]int{}
	for r, err := range q.Records(ctx) {
		if err != nil {
			return nil
		}
		n[r.State]++
	}
	return n
}

func (w *world) allDone(q *natsqueue.Queue, jobs int) bool {
	n := counts(w.t, q)
	return n != nil && n[fleet.Done]+n[fleet.Failed] >= jobs
}

func (w *world) submit() (jobs int) {
	w.t.Helper()
	out, code := output(w.t, w.env, "carload-fleet", "submit", "--json", "--source", "data="+w.data, "--batch-files", "5", "--batch-bytes", "1MB", w.data)
	var e struct{ Jobs int }
	if code != 0 || json.Unmarshal([]byte(out), &e) != nil || e.Jobs == 0 {
		w.t.Fatalf("submit: %d: %s", code, out)
	}
	return e.Jobs
}

// check checks that every file is recorded once, under the root that carload
// cid prints, and that the service agrees.
func (w *world) check(files int, service string) {
	t := w.t
	t.Helper()
	report := filepath.Join(w.dir, "report.csv")
	if _, code := output(t, w.env, "carload-fleet", "report", "-o", report); code != 0 {
		t.Errorf("report: code %d", code)
	}
	f, err := os.Open(report)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, name := range table[0] {
		at[name] = i
	}
	roots := map[string]string{}
	for _, row := range table[1:] {
		path := row[at["path"]]
		if _, twice := roots[path]; twice {
			t.Errorf("%s is recorded twice", path)
		}
		roots[path] = row[at["root"]]
		if row[at["state"]] != "done" || row[at["verified"]] != "pinned" || row[at["when"]] == "" {
			t.Errorf("%q", row)
		}
	}
	var list strings.Builder
	err = filepath.WalkDir(w.data, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			list.WriteString(path + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := filepath.Join(w.dir, "names")
	if err := os.WriteFile(names, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := output(t, environ(w.dir), "carload", "cid", "--files-from", names)
	n := 0
	for line := range strings.Lines(out) {
		root, path, _ := strings.Cut(strings.TrimSpace(line), "\t")
		rel, err := filepath.Rel(w.data, path)
		if err != nil || roots[rel] != root {
			t.Errorf("%s is recorded as %q, and is %s", rel, roots[rel], root)
		}
		n++
	}
	if n != files || len(roots) != files {
		t.Errorf("%d files, %d recorded; want %d", n, len(roots), files)
	}
	// The service agrees.
	env := environ(w.dir, "CARLOAD_ENDPOINT=http://"+service, "CARLOAD_TOKEN_FILE="+filepath.Join(w.dir, "token"))
	args := []string{"status", "--json"}
	for _, root := range roots {
		args = append(args, root)
	}
	out, code := output(t, env, "carload", args...)
	if got := strings.Count(out, `"state":"pinned"`); code != 0 || got != files {
		t.Errorf("status: code %d, %d of %d pinned", code, got, files)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range w.completed {
		if n > 1 {
			t.Errorf("job %s was completed %d times", id, n)
		}
	}
	if len(w.failed) > 0 {
		t.Errorf("jobs failed: %q", w.failed)
	}
}

func newWorld(t *testing.T, servers, files int) (w *world, bytes int64) {
	t.Helper()
	dir := t.TempDir()
	w = &world{t: t, dir: dir, data: filepath.Join(dir, "data"), completed: map[string]int{}, lease: 2 * time.Second}
	bytes = w.fill(files)
	w.startQueue(servers)
	return w, bytes
}

// leader returns the server that leads the index.
func (w *world) leader(q *natsqueue.Queue) int {
	w.t.Helper()
	info, err := q.Info(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range info {
		if strings.HasSuffix(i.Config.Name, "-index") && i.Cluster != nil && len(i.Cluster.Leader) == 2 {
			return int(i.Cluster.Leader[1] - '0')
		}
	}
	w.t.Fatalf("nobody leads the index: %+v", info)
	return 0
}

// running returns a job that a host has, preferably with a file of several
// shards.
func running(t *testing.T, q *natsqueue.Queue, host string) fleet.ID {
	for r, err := range q.Records(t.Context()) {
		if err != nil {
			return ""
		}
		if r.State == fleet.Running && (host == "" || r.Host == host) {
			return r.ID
		}
	}
	return ""
}

// Three servers, four workers and one service, and everything that may happen
// to them. Each file is recorded once, under its root, and verified.
func TestFleet(t *testing.T) {
	files, kills, bw := 200, 5, "1MB"
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		files, kills, bw = 2000, 300, "400kB"
	}
	w, bytes := newWorld(t, 3, files)
	service := w.startService()
	w.extra = []string{"--bwlimit", bw} // to make it last
	w.startWorkers(4, service)
	jobs := w.submit()
	if again := w.submit(); again != jobs {
		t.Errorf("%d jobs, and then %d", jobs, again)
	}
	q := w.connect()
	begun := time.Now()

	// A worker is suspended for longer than its lease while it has a job.
	var held fleet.ID
	wait(t, "a job of w0", 30*time.Second, func() bool { held = running(t, q, "w0"); return held != "" })
	stopped := w.workers[0]
	stopped.signal(syscall.SIGSTOP)
	// A worker is cut off from the queue, and another one from the service.
	w.queues[1].set(true)
	w.services[2].set(true)
	wait(t, "another worker has the job of the one that is stopped", 60*time.Second, func() bool {
		for r, err := range q.Records(t.Context()) {
			if err == nil && r.ID == held {
				return r.Host != "w0"
			}
		}
		return false
	})
	stopped.signal(syscall.SIGCONT)
	wait(t, "it finds that it has lost its lease", 30*time.Second, func() bool { return stopped.out.has(`"outcome":"lost"`) })
	if stopped.out.has(fmt.Sprintf(`"id":%q,"outcome":"completed"`, held)) || slices.ContainsFunc(stopped.out.all(), func(l string) bool {
		return strings.Contains(l, string(held)) && strings.Contains(l, `"outcome":"completed"`)
	}) {
		t.Error("the job of the worker that was stopped was recorded by it")
	}
	w.queues[1].set(false)
	w.services[2].set(false)

	// Workers are killed, and once the leading server.
	leader := -1
	killed := 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ; killed < kills && !w.allDone(q, jobs); <-tick.C {
		i := killed % len(w.workers)
		w.workers[i].kill()
		w.startWorker(i)
		killed++
		if killed == 2 {
			leader = w.leader(q)
			w.servers[leader].kill()
		}
		if killed == 4 && leader >= 0 {
			w.servers[leader] = run(t, environ(w.dir), nil, "carload-fleet", w.upArgs[leader]...)
			leader = -1
		}
	}
	if killed < min(kills, 4) {
		t.Errorf("only %d workers were killed: there was too little to do", killed)
	}
	wait(t, "everything is done", 5*time.Minute, func() bool { return w.allDone(q, jobs) })
	took := time.Since(begun)
	for _, p := range w.workers {
		p.signal(syscall.SIGTERM)
	}
	for i, p := range w.workers {
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			t.Errorf("worker %d does not end", i)
		}
	}
	w.check(files, service)
	for _, wire := range w.services {
		wire.set(true) // so that everything is counted
	}
	// At most one shard is in flight at each worker, and is sent again each
	// time the worker is killed, suspended or cut off. Headers and framing are
	// extra.
	again := w.sent.Load() - bytes
	if most := int64(killed+4)*1_200_000 + bytes/20 + int64(files)*10_000; again > most {
		t.Errorf("%d bytes were sent for %d of files: %d again, at most %d are right", w.sent.Load(), bytes, again, most)
	}
	t.Logf("%d files, %d jobs, %d workers killed, %d leases lost; %d bytes sent for %d of files; %s", files, jobs, killed, w.lost, w.sent.Load(), bytes, took.Round(time.Second))
}

// The state of the queue is lost in the middle. It is rebuilt from the ledgers
// of the hosts, and nothing is uploaded twice.
func TestReconcile(t *testing.T) {
	const files = 60
	w, _ := newWorld(t, 1, files)
	service := w.startService()
	w.extra = []string{"--bwlimit", "1MB"}
	w.startWorkers(2, service)
	jobs := w.submit()
	q := w.connect()
	wait(t, "a few jobs are done", 60*time.Second, func() bool { return counts(t, q)[fleet.Done] >= 3 })
	w.servers[0].kill()
	if err := os.RemoveAll(filepath.Join(w.dir, "q0")); err != nil {
		t.Fatal(err)
	}
	w.servers[0] = run(t, environ(w.dir), nil, "carload-fleet", w.upArgs[0]...)
	w.awaitQueue()
	args := []string{"reconcile", "--source", "data=" + w.data, "--batch-files", "5", "--batch-bytes", "1MB", "--check", w.data}
	for i := range w.workers {
		env := environ(filepath.Join(w.dir, fmt.Sprintf("w%d", i)))
		export := filepath.Join(w.dir, fmt.Sprintf("ledger%d.jsonl", i))
		if _, code := output(t, env, "carload", "ledger", "export", "-o", export); code != 0 {
			t.Fatal("no export")
		}
		args = append(args, "--ledger-export", export)
	}
	env := append(slices.Clone(w.env), "CARLOAD_ENDPOINT=http://"+service, "CARLOAD_TOKEN_FILE="+filepath.Join(w.dir, "token"))
	out, code := output(t, env, "carload-fleet", args...)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("%d jobs", jobs)) || strings.Contains(out, "; 0 are done") {
		t.Fatalf("reconcile: %d: %s", code, out)
	}
	t.Log(out)
	q = w.connect()
	wait(t, "everything is done", 2*time.Minute, func() bool { return w.allDone(q, jobs) })
	w.mu.Lock()
	clear(w.completed) // jobs from before the loss may have been done again
	w.mu.Unlock()
	w.check(files, service)
}

// A job that cannot succeed fails, and can be handed out again. A drained host
// ends. status and list report all this.
func TestAside(t *testing.T) {
	w, _ := newWorld(t, 1, 20)
	service := w.startService()
	jobs := w.submit()
	gone := filepath.Join(w.data, "dir1", "file-1")
	p, err := os.ReadFile(gone)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(gone)
	if err != nil || os.Remove(gone) != nil {
		t.Fatal(err)
	}
	w.startWorkers(1, service)
	out, code := output(t, w.env, "carload-fleet", "status", "--wait")
	if code != 3 || !strings.Contains(out, "1 jobs failed") {
		t.Errorf("status: %d: %s", code, out)
	}
	out, _ = output(t, w.env, "carload-fleet", "list", "--failed")
	if !strings.Contains(out, "no such file") {
		t.Errorf("list: %s", out)
	}
	if out, code := output(t, w.env, "carload-fleet", "report"); code != 3 || strings.Count(out, ",done,") != 19 || !strings.Contains(out, "no such file") {
		t.Errorf("report: %d: %s", code, out)
	}
	if err := errors.Join(os.WriteFile(gone, p, 0o600), os.Chtimes(gone, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if out, code := output(t, w.env, "carload-fleet", "retry", "--all"); code != 0 || !strings.Contains(out, "1 jobs are handed out again") {
		t.Errorf("retry: %d: %s", code, out)
	}
	if _, code := output(t, w.env, "carload-fleet", "status", "--wait"); code != 0 {
		t.Errorf("status: %d", code)
	}
	w.mu.Lock()
	w.failed = nil
	w.mu.Unlock()
	w.check(20, service)
	if out, code := output(t, w.env, "carload-fleet", "doctor"); code != 0 || !strings.Contains(out, "every acknowledged write is on disk") {
		t.Errorf("doctor: %d: %s", code, out)
	}
	if _, code := output(t, w.env, "carload-fleet", "drain", "w0"); code != 0 {
		t.Errorf("drain: %d", code)
	}
	select {
	case <-w.workers[0].done:
		if code := w.workers[0].cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the drained worker ends with %d: %s", code, w.workers[0].errs.all())
		}
	case <-time.After(30 * time.Second):
		t.Error("the drained worker does not end")
	}
	if n := jobs; n < 2 {
		t.Errorf("%d jobs", n)
	}
	// Usage errors have their own exit code.
	for _, args := range [][]string{{"work"}, {"submit", "--source", "data=/nowhere", w.data}, {"retry"}, {"retry", "x"}, {"nosuch"}, {"work", "--source", "data=/x", "stray"}} {
		if out, code := output(t, w.env, "carload-fleet", args...); code != 2 {
			t.Errorf("%v: %d: %s", args, code, out)
		}
	}
	if out, code := output(t, environ(w.dir), "carload-fleet", "up", "--listen", "0.0.0.0:0"); code != 2 {
		t.Errorf("up for others: %d: %s", code, out)
	}
	nowhere := environ(w.dir, "CARLOAD_FLEET_NATS=nats://127.0.0.1:1")
	if _, code := output(t, nowhere, "carload-fleet", "status"); code != 5 {
		t.Errorf("no server: %d", code)
	}
	for _, args := range [][]string{{"submit"}, {"reconcile"}, {"statsu"}} {
		if out, code := output(t, nowhere, "carload-fleet", args...); code != 2 {
			t.Errorf("%v without a server: %d: %s", args, code, out)
		}
	}
	if out, code := output(t, w.env, "carload", "fleet", "status"); code != 0 || !strings.Contains(out, "done") {
		t.Errorf("by way of carload: %d: %s", code, out)
	}
}
