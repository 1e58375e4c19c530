package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/fleettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runnerFunc is a function as a runner.
type runnerFunc func(ctx context.Context, job fleet.Job, stop <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error)

func (f runnerFunc) Run(ctx context.Context, job fleet.Job, stop <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error) {
	return f(ctx, job, stop, tell)
}

// sleep waits in the time of the test.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func receiptOf(j fleet.Job) fleet.Receipt {
	return fleet.Receipt{Files: []fleet.FileReceipt{{Root: "root of " + string(j.Files[0].Path), Verified: "pinned"}}}
}

const lease = time.Minute

func options(host string) fleet.Options {
	return fleet.Options{Worker: fleet.Worker{Host: host, Sources: []string{"data"}}, Lease: lease, Stall: 5 * time.Minute, Backoff: time.Second}
}

// works runs workers until all jobs have ended.
func works(t *testing.T, q *fleet.Memory, jobs int, r fleet.Runner, all ...fleet.Options) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	for _, o := range all {
		g.Go(func() error {
			if err := fleet.Work(ctx, q, q, r, o); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	for n := 0; n < jobs; {
		n = 0
		for rec, err := range q.Records(t.Context()) {
			if err == nil && (rec.State == fleet.Done || rec.State == fleet.Failed) {
				n++
			}
		}
		if n < jobs && sleep(t.Context(), time.Second) != nil {
			break
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func putAll(t *testing.T, q *fleet.Memory, names ...string) {
	t.Helper()
	for _, n := range names {
		if ok, err := q.Put(t.Context(), fleettest.Job(n)); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
}

// While its bytes move, a job that takes longer than a lease stays with one
// worker. If none move, it goes to the next.
func TestMovingAndStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := fleet.NewMemory(lease)
		putAll(t, q, "slow", "stuck")
		var mu sync.Mutex
		tries := map[string][]string{}
		works(t, q, 2, runnerFunc(func(ctx context.Context, j fleet.Job, _ <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error) {
			name := string(j.Files[0].Path)
			mu.Lock()
			tries[name] = append(tries[name], "try")
			first := len(tries[name]) == 1
			mu.Unlock()
			if name == "stuck" && first {
				<-ctx.Done()
				return fleet.Receipt{}, context.Cause(ctx)
			}
			for i := range 60 {
				if err := sleep(ctx, time.Minute); err != nil {
					return fleet.Receipt{}, err
				}
				tell(fleet.Progress{Moved: int64(i + 1)})
			}
			return receiptOf(j), nil
		}), options("one"), options("two"))
		if len(tries["slow"]) != 1 || len(tries["stuck"]) != 2 {
			t.Errorf("%v", tries)
		}
		for r, err := range q.Records(t.Context()) {
			if err != nil || r.State != fleet.Done {
				t.Errorf("%+v, %v", r, err)
			}
		}
	})
}

// deaf is a queue that a worker cannot reach for a while, so that another one
// gets its job.
type deaf struct {
	*fleet.Memory
	until time.Time
}

type deafLease struct {
	fleet.Lease
	d *deaf
}

var errDeaf = errors.New("the queue does not answer")

func (d *deaf) Claim(ctx context.Context, w fleet.Worker) (fleet.Lease, error) {
	l, err := d.Memory.Claim(ctx, w)
	return &deafLease{l, d}, err
}

func (l *deafLease) Renew(ctx context.Context, p fleet.Progress) error {
	if time.Now().Before(l.d.until) {
		return errDeaf
	}
	return l.Lease.Renew(ctx, p)
}

// A worker that cannot renew its lease stops, before another worker may have
// begun twice.
func TestLostLeaseStopsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := fleet.NewMemory(lease)
		putAll(t, q, "a")
		cut := &deaf{q, time.Now().Add(time.Hour)}
		var lost error
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		stopped := make(chan time.Time, 1)
		g.Go(func() error {
			o := options("one")
			o.Observer = func(e fleet.Event) {
				if e.Kind == fleet.EventLost && lost == nil {
					lost = e.Err
				}
			}
			_ = fleet.Work(ctx, cut, q, runnerFunc(func(ctx context.Context, _ fleet.Job, _ <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error) {
				for i := int64(1); ; i++ {
					tell(fleet.Progress{Moved: i})
					if err := sleep(ctx, time.Second); err != nil {
						select {
						case stopped <- time.Now():
						default:
						}
						return fleet.Receipt{}, err
					}
				}
			}), o)
			return nil
		})
		begun := time.Now()
		if took := (<-stopped).Sub(begun); took > 2*lease {
			t.Errorf("it works for %s after its lease was over", took-lease)
		}
		cancel()
		_ = g.Wait()
		if !errors.Is(lost, fleet.ErrLeaseLost) {
			t.Errorf("lost by %v", lost)
		}
	})
}

// A worker that is asked to stop, or is drained by another host, gives its job
// back at once, which does not count as an attempt.
func TestStopAndDrain(t *testing.T) {
	t.Parallel()
	for _, drained := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			q := fleet.NewMemory(lease)
			putAll(t, q, "a")
			stop := make(chan struct{})
			o := options("one")
			o.Stop = stop
			var g errgroup.Group
			g.Go(func() error {
				return fleet.Work(t.Context(), q, q, runnerFunc(func(_ context.Context, _ fleet.Job, stop <-chan struct{}, _ func(fleet.Progress)) (fleet.Receipt, error) {
					<-stop
					return fleet.Receipt{}, fleet.ErrStopped
				}), o)
			})
			synctest.Wait()
			if drained {
				if err := q.Drain(t.Context(), "one", true); err != nil {
					t.Error(err)
				}
			} else {
				close(stop)
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			r := fleettest.Record(t, q, func() fleet.ID { j := fleettest.Job("a"); return j.ID() }())
			if r.State != fleet.Queued || r.Attempt != 0 || r.Reason != "" {
				t.Errorf("%+v", r)
			}
			if hosts, err := q.Hosts(t.Context()); err != nil || len(hosts) > 0 {
				t.Errorf("%v, %v", hosts, err)
			}
		})
	}
}

// Hosts of a group divide the rate: the sum of their shares never exceeds the
// whole, whoever comes and goes, and a new host waits for a window.
func TestShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := fleet.NewMemory(lease)
		var mu sync.Mutex
		shares := map[string]int{}
		sum := func() (s float64) {
			for _, n := range shares {
				if n > 0 {
					s += 1 / float64(n)
				}
			}
			return s
		}
		var g errgroup.Group
		stops := map[string]chan struct{}{}
		begin := func(host, group string) {
			o := options(host)
			o.Group, o.Settle = group, 10*time.Second
			stop := make(chan struct{})
			o.Stop, stops[host] = stop, stop
			o.Share = func(n int) error {
				mu.Lock()
				defer mu.Unlock()
				if group == "g" {
					shares[host] = n
					if s := sum(); s > 1.0001 {
						t.Errorf("%v together use %v of the rate", shares, s)
					}
				}
				return nil
			}
			g.Go(func() error {
				err := fleet.Work(t.Context(), q, q, runnerFunc(nil), o)
				mu.Lock()
				delete(shares, host)
				mu.Unlock()
				return err
			})
		}
		want := func(after time.Duration, want map[string]int) {
			t.Helper()
			if sleep(t.Context(), after) != nil {
				return
			}
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(shares) != fmt.Sprint(want) {
				t.Errorf("shares %v, want %v", shares, want)
			}
		}
		begin("one", "g")
		want(time.Second, map[string]int{"one": 1})
		begin("two", "g")
		begin("stranger", "h")
		want(9*time.Second, map[string]int{"one": 2, "two": 0}) // it waits
		want(20*time.Second, map[string]int{"one": 2, "two": 2})
		begin("three", "g")
		want(30*time.Second, map[string]int{"one": 3, "two": 3, "three": 3})
		close(stops["two"])
		want(30*time.Second, map[string]int{"one": 2, "three": 2})
		for _, host := range []string{"one", "three", "stranger"} {
			close(stops[host])
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// What fails sometimes is tried again, later each time. What cannot succeed
// fails at once.
func TestFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := fleet.NewMemory(lease)
		putAll(t, q, "away", "bad")
		var at []time.Time
		works(t, q, 2, runnerFunc(func(_ context.Context, j fleet.Job, _ <-chan struct{}, _ func(fleet.Progress)) (fleet.Receipt, error) {
			if j.Files[0].Path == "bad" {
				return fleet.Receipt{}, &fleet.Permanent{Err: errors.New("unreadable")}
			}
			if at = append(at, time.Now()); len(at) < 6 {
				return fleet.Receipt{}, errors.New("down")
			}
			return receiptOf(j), nil
		}), options("one"))
		if len(at) != 6 {
			t.Fatalf("%d tries", len(at))
		}
		if first, last := at[1].Sub(at[0]), at[5].Sub(at[4]); first < time.Second/2 || last < 8*time.Second {
			t.Errorf("it rests for %s at first and for %s at last", first, last)
		}
		for r, err := range q.Records(t.Context()) {
			if err != nil || (r.State == fleet.Failed) != (r.Job.Files[0].Path == "bad") || r.State == fleet.Failed && r.Reason != "unreadable" {
				t.Errorf("%+v", r)
			}
		}
	})
}

// Adding a file to many changes the jobs around it, and no others. Jobs have
// about the right size.
func TestBatches(t *testing.T) {
	t.Parallel()
	batches := func(skip int) (list []fleet.Job) {
		b := fleet.Batcher{Job: fleet.Job{Source: "data"}, Bytes: 1 << 20, Files: 50}
		for i := range 20_000 {
			if i != skip {
				list = append(list, b.Add(fleet.File{Path: fleet.Path(fmt.Sprintf("dir/%05d", i)), Bytes: int64(i % 30_000)})...)
			}
		}
		return append(list, b.Flush()...)
	}
	all := batches(-1)
	files := 0
	var ids []fleet.ID
	for _, j := range all {
		if err := j.Validate(); err != nil {
			t.Fatal(err)
		}
		if len(j.Files) > 100 || j.Bytes() > 2<<20+30_000 {
			t.Errorf("a job of %d files, %d bytes", len(j.Files), j.Bytes())
		}
		files += len(j.Files)
		ids = append(ids, j.ID())
	}
	if files != 20_000 || len(all) < 20_000/100 || len(all) > 20_000/20 {
		t.Errorf("%d files in %d jobs", files, len(all))
	}
	fresh := 0
	for _, j := range batches(7000) {
		if !slices.Contains(ids, j.ID()) {
			fresh++
		}
	}
	if fresh == 0 || fresh > 5 {
		t.Errorf("without one file %d of %d jobs are others", fresh, len(all))
	}
}

// What is read of a job is limited and checked, and can be written and read
// again.
func FuzzJob(f *testing.F) {
	f.Add(`{"v":1,"source":"data","files":[{"path":"a","bytes":1}]}`)
	f.Add(`{"v":1,"source":"data","files":[{"path":{"raw":"/w=="},"bytes":-1}],"to":["x"],"recipe":{"profile":"unixfs-v1-2025"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		j, err := fleet.ParseJob([]byte(text))
		if err != nil {
			return
		}
		q := fleet.NewMemory(time.Minute)
		if ok, err := q.Put(t.Context(), j); err != nil || !ok {
			t.Error(ok, err)
		}
	})
}
