package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
)

// simulated is a fleet in virtual time: the queue and the workers are real, but
// the duration of a job is computed.
type simulated struct {
	hosts, jobs int
	bytes       int64   // of a job
	line        float64 // bytes per second of a host
	hash        float64 // bytes per second of a host
	perShard    int64
	requests    float64 // per second for the one token; 0 for no limit
	mtbf        time.Duration
	repair      time.Duration
	temporary   float64 // fraction of attempts that fail
	permanent   float64 // fraction of jobs that cannot succeed
}

// figures are the results of a simulation.
type figures struct {
	took               time.Duration
	ideal              time.Duration
	done, failed       int
	tries, lost, kills int64
	wasted             float64 // fraction of the bytes that were sent in vain
	ops                int64   // of the queue
}

func (f figures) String() string {
	return fmt.Sprintf("%s (ideal %s, %.1f %% more); %d done, %d put aside; %d workers killed, %d tries lost; %.2f %% sent for nothing; %.1f operations of the queue a second",
		f.took.Round(time.Second), f.ideal.Round(time.Second), 100*(f.took.Seconds()/f.ideal.Seconds()-1), f.done, f.failed, f.kills, f.lost,
		100*f.wasted, float64(f.ops)/f.took.Seconds())
}

// counted counts the workers' requests to the queue.
type counted struct {
	*fleet.Memory
	ops atomic.Int64
}

type countedLease struct {
	fleet.Lease
	c *counted
}

func (c *counted) Claim(ctx context.Context, w fleet.Worker) (fleet.Lease, error) {
	l, err := c.Memory.Claim(ctx, w)
	c.ops.Add(3) // the message, the record, and its change
	return countedLease{l, c}, err
}

func (c *counted) Announce(ctx context.Context, h fleet.Host) error {
	c.ops.Add(3) // including what else is asked each time
	return c.Memory.Announce(ctx, h)
}

func (l countedLease) Renew(ctx context.Context, p fleet.Progress) error {
	l.c.ops.Add(2)
	return l.Lease.Renew(ctx, p)
}

func (l countedLease) Complete(ctx context.Context, r fleet.Receipt) error {
	l.c.ops.Add(2)
	return l.Lease.Complete(ctx, r)
}

func (s simulated) run(t *testing.T) (f figures) {
	t.Helper()
	begun := time.Now()
	q := &counted{Memory: fleet.NewMemory(lease)}
	for i := range s.jobs {
		if _, err := q.Put(t.Context(), fleet.Job{V: 1, Source: "data", Files: []fleet.File{{Path: fleet.Path(fmt.Sprint(i)), Bytes: s.bytes}}}); err != nil {
			t.Fatal(err)
		}
	}
	var ended, lost, tries, kills, wasted atomic.Int64
	all, stop := context.WithCancel(t.Context())
	defer stop()
	// The token's rate is a single line in which all requests wait.
	var next atomic.Int64
	request := func(n float64) time.Duration {
		if s.requests == 0 {
			return 0
		}
		now := time.Since(begun)
		for {
			was := next.Load()
			at := max(was, int64(now))
			if next.CompareAndSwap(was, at+int64(n/s.requests*float64(time.Second))) {
				return time.Duration(at) - now
			}
		}
	}
	// What has arrived of a job stays, as at a real target: the next attempt
	// sends the rest.
	arrived := make([]atomic.Int64, s.jobs)
	runner := func(r *rand.Rand) runnerFunc {
		return func(ctx context.Context, j fleet.Job, _ <-chan struct{}, tell func(fleet.Progress)) (fleet.Receipt, error) {
			tries.Add(1)
			var n int
			if _, err := fmt.Sscan(string(j.Files[0].Path), &n); err != nil {
				return fleet.Receipt{}, err
			}
			// A job that cannot succeed fails when it is read.
			if n%int(1/s.permanent) == 0 {
				_ = sleep(ctx, time.Second)
				return fleet.Receipt{}, &fleet.Permanent{Err: errors.New("unreadable")}
			}
			if err := sleep(ctx, time.Duration(float64(s.bytes)/s.hash*float64(time.Second))); err != nil {
				return fleet.Receipt{}, err
			}
			shards := (s.bytes + s.perShard - 1) / s.perShard
			for k := arrived[n].Load(); k < shards; k++ {
				size := min(s.perShard, s.bytes-k*s.perShard)
				if err := sleep(ctx, request(1)+time.Duration(float64(size)/s.line*float64(time.Second))); err != nil {
					wasted.Add(size / 2) // on average half of it was in flight
					return fleet.Receipt{}, err
				}
				arrived[n].Store(k + 1)
				tell(fleet.Progress{Moved: k + 1})
			}
			if r.Float64() < s.temporary {
				return fleet.Receipt{}, errors.New("the service was away")
			}
			return receiptOf(j), nil
		}
	}
	var g errgroup.Group
	for i := range s.hosts {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(7, uint64(i)))
			for all.Err() == nil {
				life, kill := context.WithTimeout(all, time.Duration(r.ExpFloat64()*float64(s.mtbf)))
				o := options(fmt.Sprintf("h%d", i))
				o.Group, o.Backoff = "g", 10*time.Second
				o.Observer = func(e fleet.Event) {
					switch e.Kind {
					case fleet.EventCompleted, fleet.EventFailed:
						if ended.Add(1) == int64(s.jobs) {
							f.took = time.Since(begun)
							stop()
						}
					case fleet.EventLost:
						lost.Add(1)
					}
				}
				err := fleet.Work(life, q, q, runner(r), o)
				kill()
				if err == nil {
					return errors.New("a worker ended by itself")
				}
				if all.Err() == nil {
					kills.Add(1)
					_ = sleep(all, s.repair)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	for r, err := range q.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		switch r.State {
		case fleet.Done:
			f.done++
		case fleet.Failed:
			f.failed++
		default:
			t.Errorf("%+v", r)
		}
	}
	f.tries, f.lost, f.kills, f.ops = tries.Load(), lost.Load(), kills.Load(), q.ops.Load()
	f.wasted = float64(wasted.Load()) / float64(s.bytes) / float64(s.jobs)
	one := float64(s.bytes)/s.hash + float64(s.bytes)/s.line
	f.ideal = time.Duration(one * float64(s.jobs) / float64(s.hosts) * float64(time.Second))
	if s.requests > 0 {
		shards := float64((s.bytes + s.perShard - 1) / s.perShard)
		f.ideal = max(f.ideal, time.Duration(shards*float64(s.jobs)/s.requests*float64(time.Second)))
	}
	return f
}

// A fleet loses little to its queue and to failures; the figures are in
// docs/fleet.md. All jobs end, each once.
func TestSimulation(t *testing.T) {
	base := simulated{
		hosts: 100, jobs: 20_000, bytes: 1 << 30, line: 50e6, hash: 1e9, perShard: 95 << 20,
		mtbf: 24 * time.Hour, repair: 5 * time.Minute, temporary: 0.01, permanent: 0.001,
	}
	if raceEnabled {
		base.hosts, base.jobs = 10, 1000
	}
	runs := map[string]simulated{"hosts": base}
	frail := base
	frail.mtbf = 30 * time.Minute
	runs["hosts that die every half hour"] = frail
	paced := base
	paced.jobs, paced.requests = base.jobs/10, 3
	runs["one token of 30 requests in 10 s"] = paced
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		for _, hosts := range []int{10, 100, 1000} {
			big := base
			big.hosts, big.jobs = hosts, 1000*hosts
			runs[fmt.Sprintf("%d hosts, %d jobs", hosts, big.jobs)] = big
		}
	}
	for name, s := range runs {
		t.Run(name, func(t *testing.T) {
			var f figures
			wall := time.Now()
			synctest.Test(t, func(t *testing.T) { f = s.run(t) })
			if f.done+f.failed != s.jobs {
				t.Errorf("%d done and %d put aside of %d", f.done, f.failed, s.jobs)
			}
			if n := int(1 / s.permanent); f.failed != (s.jobs+n-1)/n {
				t.Errorf("%d put aside, %d should be", f.failed, (s.jobs+n-1)/n)
			}
			t.Logf("%s, in %s of real time", f, time.Since(wall).Round(time.Millisecond))
		})
	}
}
