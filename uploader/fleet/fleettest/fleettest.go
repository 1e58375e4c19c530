// Package fleettest tests what every queue of a fleet must do.
package fleettest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
)

// Queue is the complete interface of a queue.
type Queue interface {
	fleet.Queue
	fleet.Index
	fleet.Roster
}

// Job makes a job with one file below the source root "data".
func Job(name string) fleet.Job {
	return fleet.Job{V: fleet.Version, Source: "data", Files: []fleet.File{{Path: fleet.Path(name), Bytes: 3, MTime: 1}}}
}

// Run tests a queue. open makes an empty one whose leases last this long.
func Run(t *testing.T, open func(t *testing.T, lease time.Duration) Queue) {
	for name, test := range map[string]func(*testing.T, func(*testing.T, time.Duration) Queue){
		"Life":       life,
		"Idempotent": idempotent,
		"Routing":    routing,
		"Expiry":     expiry,
		"Zombie":     zombie,
		"Retry":      retry,
		"Aside":      aside,
		"Worn out":   wornOut,
		"Settle":     settle,
		"Roster":     roster,
		"Race":       race,
		"Invalid":    invalid,
		"Later":      later,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

func worker(host string) fleet.Worker { return fleet.Worker{Host: host, Sources: []string{"data"}} }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, q Queue, j fleet.Job, want bool) fleet.ID {
	t.Helper()
	added, err := q.Put(t.Context(), j)
	if err != nil || added != want {
		t.Fatalf("added: %t, %v; want %t", added, err, want)
	}
	return j.ID()
}

func claim(t *testing.T, q Queue, w fleet.Worker) fleet.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := q.Claim(ctx, w)
	must(t, err)
	return l
}

// none checks that there is nothing to claim for a while.
func none(t *testing.T, q Queue, w fleet.Worker, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if l, err := q.Claim(ctx, w); err == nil {
		t.Fatalf("job %s is handed out", l.ID())
	} else if ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

// Record returns the record of a job.
func Record(t *testing.T, q fleet.Index, id fleet.ID) fleet.Record {
	t.Helper()
	for r, err := range q.Records(t.Context()) {
		must(t, err)
		if r.ID == id {
			return r
		}
	}
	t.Fatalf("there is no record of %s", id)
	return fleet.Record{}
}

func receipt(host string) fleet.Receipt {
	return fleet.Receipt{Host: host, At: time.Unix(1_700_000_000, 0).UTC(), Files: []fleet.FileReceipt{{Root: "bafy", Bytes: 3, Verified: "pinned"}}}
}

const long = time.Minute

func life(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	id := put(t, q, Job("a"), true)
	if r := Record(t, q, id); r.State != fleet.Queued || r.Job.Files[0].Path != "a" {
		t.Errorf("%+v", r)
	}
	l := claim(t, q, worker("one"))
	if l.ID() != id || l.Attempt() != 1 || l.Job().Files[0].Path != "a" {
		t.Errorf("%s in attempt %d", l.ID(), l.Attempt())
	}
	none(t, q, worker("two"), 300*time.Millisecond)
	p := fleet.Progress{Moved: 7, Root: "bafy", Shards: 9}
	p.Held.Set(8, 9)
	must(t, l.Renew(t.Context(), p))
	if r := Record(t, q, id); r.State != fleet.Running || r.Host != "one" || !r.Progress.Held.Has(8) || r.Progress.Held.Has(7) || r.Progress.Moved != 7 {
		t.Errorf("%+v", r)
	}
	must(t, l.Complete(t.Context(), receipt("one")))
	r := Record(t, q, id)
	if r.State != fleet.Done || r.Receipt == nil || r.Receipt.Files[0].Root != "bafy" || !r.Receipt.At.Equal(receipt("").At) || r.Host != "one" {
		t.Errorf("%+v", r)
	}
	for what, err := range map[string]error{
		"renew": l.Renew(t.Context(), p), "complete": l.Complete(t.Context(), fleet.Receipt{Host: "ghost"}),
		"retry": l.Retry(t.Context(), 0, nil), "reject": l.Reject(t.Context(), errors.New("x")),
	} {
		if !errors.Is(err, fleet.ErrLeaseLost) {
			t.Errorf("%s after the end: %v", what, err)
		}
	}
	none(t, q, worker("two"), 300*time.Millisecond)
}

func idempotent(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	put(t, q, Job("a"), true)
	put(t, q, Job("a"), false)
	l := claim(t, q, worker("one"))
	put(t, q, Job("a"), false)
	none(t, q, worker("two"), 200*time.Millisecond)
	must(t, l.Complete(t.Context(), receipt("one")))
	put(t, q, Job("a"), false)
	none(t, q, worker("two"), 200*time.Millisecond)
	changed := Job("a")
	changed.Files[0].MTime++
	put(t, q, changed, true)
	if l := claim(t, q, worker("two")); l.ID() != changed.ID() {
		t.Error("the file that changed is not the one that is handed out")
	}
}

func routing(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	other, to, both := Job("a"), Job("b"), Job("c")
	other.Source = "elsewhere"
	to.To = []string{"home"}
	both.To = []string{"home", "away"}
	put(t, q, other, true)
	put(t, q, to, true)
	put(t, q, both, true)
	none(t, q, worker("one"), 1200*time.Millisecond)
	w := fleet.Worker{Host: "one", Sources: []string{"data"}, To: []string{"away"}}
	none(t, q, w, 1200*time.Millisecond)
	w.To = []string{"away", "home"}
	got := []fleet.ID{claim(t, q, w).ID(), claim(t, q, w).ID()}
	slices.Sort(got)
	want := []fleet.ID{to.ID(), both.ID()}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	w.Sources = []string{"data", "elsewhere"}
	if claim(t, q, w).ID() != other.ID() {
		t.Error("the other source's job is not handed out")
	}
}

func expiry(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, 2*time.Second)
	id := put(t, q, Job("a"), true)
	first := claim(t, q, worker("one"))
	// While the lease is renewed, even beyond its duration, nobody else gets
	// the job.
	p := fleet.Progress{}
	ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		if l, err := q.Claim(ctx, worker("two")); err == nil {
			return fmt.Errorf("it is handed out in attempt %d", l.Attempt())
		}
		return nil
	})
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			p.Moved++
			must(t, first.Renew(t.Context(), p))
		case <-ctx.Done():
		}
	}
	must(t, g.Wait())
	// Then it is handed out again, with the progress that was recorded.
	p.Root = "bafy"
	must(t, first.Renew(t.Context(), p))
	l := claim(t, q, worker("two"))
	if l.ID() != id || l.Attempt() != 2 || l.Progress().Root != "bafy" {
		t.Errorf("%s in attempt %d, with %+v", l.ID(), l.Attempt(), l.Progress())
	}
}

// A worker that wakes up after its lease ended records nothing, whatever it
// does.
func zombie(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	for _, end := range []string{"", "complete", "retry", "reject"} {
		q := open(t, 500*time.Millisecond)
		id := put(t, q, Job("a"), true)
		dead := claim(t, q, worker("one"))
		l := claim(t, q, worker("two"))
		try := func() {
			for what, err := range map[string]error{
				"renew": dead.Renew(t.Context(), fleet.Progress{Root: "ghost"}), "complete": dead.Complete(t.Context(), fleet.Receipt{Host: "ghost"}),
				"retry": dead.Retry(t.Context(), 0, nil), "reject": dead.Reject(t.Context(), errors.New("ghost")),
			} {
				if !errors.Is(err, fleet.ErrLeaseLost) {
					t.Errorf("%s of a zombie: %v", what, err)
				}
			}
		}
		try()
		want := fleet.Running
		switch end {
		case "complete":
			must(t, l.Complete(t.Context(), receipt("two")))
			want = fleet.Done
		case "retry":
			must(t, l.Retry(t.Context(), time.Hour, errors.New("busy")))
			want = fleet.Queued
		case "reject":
			must(t, l.Reject(t.Context(), errors.New("no")))
			want = fleet.Failed
		}
		try()
		if r := Record(t, q, id); r.State != want || r.Host != "two" || r.Reason == "ghost" {
			t.Errorf("after %q: %+v", end, r)
		}
	}
}

func retry(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	id := put(t, q, Job("a"), true)
	l := claim(t, q, worker("one"))
	// A job given back without a cause goes to anybody at once, and does not
	// count as tried.
	must(t, l.Retry(t.Context(), 0, nil))
	if l = claim(t, q, worker("one")); l.Attempt() != 1 {
		t.Errorf("attempt %d", l.Attempt())
	}
	// With a cause, it rests first.
	begun := time.Now()
	must(t, l.Retry(t.Context(), time.Second, errors.New("away for a while")))
	if r := Record(t, q, id); r.State != fleet.Queued || r.Reason != "away for a while" {
		t.Errorf("%+v", r)
	}
	l = claim(t, q, worker("two"))
	if took := time.Since(begun); l.Attempt() != 2 || took < 900*time.Millisecond {
		t.Errorf("attempt %d after %s", l.Attempt(), took)
	}
	// The host that failed leaves it to another.
	must(t, q.Announce(t.Context(), fleet.Host{Name: "one"}))
	must(t, q.Announce(t.Context(), fleet.Host{Name: "two"}))
	must(t, l.Retry(t.Context(), 0, errors.New("bad host")))
	got := make(chan string, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var g errgroup.Group
	for _, host := range []string{"two", "one"} {
		g.Go(func() error {
			if _, err := q.Claim(ctx, worker(host)); err == nil {
				got <- host
			}
			return nil
		})
	}
	if host := <-got; host != "one" {
		t.Errorf("%s has it again", host)
	}
	cancel()
	must(t, g.Wait())
}

func aside(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	rejected, failed := put(t, q, Job("a"), true), fleet.ID("")
	l := claim(t, q, worker("one"))
	must(t, l.Reject(t.Context(), errors.New("it can't be read")))
	failed = put(t, q, Job("b"), true)
	l = claim(t, q, worker("one"))
	r := receipt("one")
	r.Files[0].Error = "it has changed"
	must(t, l.Complete(t.Context(), r))
	none(t, q, worker("one"), 300*time.Millisecond)
	for id, why := range map[fleet.ID]string{rejected: "it can't be read", failed: "it has changed"} {
		if r := Record(t, q, id); r.State != fleet.Failed || r.Reason != why {
			t.Errorf("%+v", r)
		}
		put(t, q, Record(t, q, id).Job, false)
		if ok, err := q.Requeue(t.Context(), id); err != nil || !ok {
			t.Errorf("requeue: %t, %v", ok, err)
		}
		if ok, err := q.Requeue(t.Context(), id); err != nil || ok {
			t.Errorf("requeue what is queued: %t, %v", ok, err)
		}
		l := claim(t, q, worker("one"))
		if l.ID() != id || l.Attempt() != 1 {
			t.Errorf("%s in attempt %d", l.ID(), l.Attempt())
		}
		must(t, l.Complete(t.Context(), receipt("one")))
		if r := Record(t, q, id); r.State != fleet.Done || r.Reason != "" {
			t.Errorf("%+v", r)
		}
	}
	if _, err := q.Requeue(t.Context(), "0123456789abcdef0123456789abcdef"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("requeue what is not there: %v", err)
	}
}

// A job that fails again and again, or kills its workers, is given up
// eventually.
func wornOut(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	id := put(t, q, Job("a"), true)
	for i := range fleet.MostAttempts {
		l := claim(t, q, worker("one"))
		if l.Attempt() != i+1 {
			t.Fatalf("attempt %d, want %d", l.Attempt(), i+1)
		}
		must(t, l.Retry(t.Context(), time.Millisecond, errors.New("bad luck")))
	}
	none(t, q, worker("one"), time.Second)
	if r := Record(t, q, id); r.State != fleet.Failed || r.Reason != fmt.Sprintf("tried %d times: bad luck", fleet.MostAttempts) {
		t.Errorf("%+v", r)
	}
}

func settle(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	id := put(t, q, Job("a"), true)
	if ok, err := q.Settle(t.Context(), id, receipt("three")); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if r := Record(t, q, id); r.State != fleet.Done || r.Host != "three" || r.Receipt.Files[0].Root != "bafy" {
		t.Errorf("%+v", r)
	}
	none(t, q, worker("one"), 300*time.Millisecond)
	other := put(t, q, Job("b"), true)
	l := claim(t, q, worker("one"))
	if ok, err := q.Settle(t.Context(), other, receipt("three")); err != nil || ok {
		t.Errorf("settled under a lease: %t, %v", ok, err)
	}
	must(t, l.Complete(t.Context(), receipt("one")))
}

func roster(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	must(t, q.Announce(t.Context(), fleet.Host{Name: "two", Slots: 1}))
	must(t, q.Announce(t.Context(), fleet.Host{Name: "one", Slots: 2, Group: "g"}))
	must(t, q.Announce(t.Context(), fleet.Host{Name: "two", Slots: 3}))
	hosts, err := q.Hosts(t.Context())
	if err != nil || len(hosts) != 2 || hosts[0].Name != "one" || hosts[0].Group != "g" || hosts[1].Slots != 3 {
		t.Errorf("%+v, %v", hosts, err)
	}
	for group, want := range map[string]int{"": 1, "g": 1, "h": 0} {
		if n, err := q.Count(t.Context(), group); err != nil || n != want {
			t.Errorf("%d hosts of group %q, %v; want %d", n, group, err, want)
		}
	}
	must(t, q.Leave(t.Context(), fleet.Host{Name: "two"}))
	if hosts, err := q.Hosts(t.Context()); err != nil || len(hosts) != 1 {
		t.Errorf("%+v, %v", hosts, err)
	}
	for _, on := range []bool{false, true, true, false, false} {
		must(t, q.Drain(t.Context(), "one", on))
		if is, err := q.Draining(t.Context(), "one"); err != nil || is != on {
			t.Errorf("draining: %t, %v; want %t", is, err, on)
		}
	}
}

// Many workers take many jobs: each job once.
func race(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	const jobs, workers = 200, 8
	for i := range jobs {
		put(t, q, Job(fmt.Sprint(i)), true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	had := map[fleet.ID]int{}
	var g errgroup.Group
	for i := range workers {
		host := fmt.Sprintf("host%d", i)
		g.Go(func() error {
			for {
				l, err := q.Claim(ctx, worker(host))
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				if err := l.Complete(ctx, receipt(host)); err != nil {
					return err
				}
				mu.Lock()
				had[l.ID()]++
				if len(had) == jobs {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	must(t, g.Wait())
	for id, n := range had {
		if n != 1 {
			t.Errorf("%s was done %d times", id, n)
		}
	}
	for r, err := range q.Records(t.Context()) {
		must(t, err)
		if r.State != fleet.Done || r.Attempt != 1 {
			t.Errorf("%+v", r)
		}
	}
}

func invalid(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, long)
	for _, j := range []fleet.Job{
		{},
		{V: 1, Source: "a b", Files: Job("x").Files},
		{V: 1, Source: "data"},
		{V: 1, Source: "data", Files: []fleet.File{{Path: "../x"}}},
		{V: 1, Source: "data", Files: []fleet.File{{Path: "/x"}}},
		{V: 1, Source: "data", Files: []fleet.File{{Path: "a/../b"}}},
		{V: 1, Source: "data", Files: []fleet.File{{Path: "a\x00"}}},
		{V: 1, Source: "data", Files: Job("x").Files, To: []string{"--token"}},
		{V: 1, Source: "data", Files: Job("x").Files, Recipe: fleet.Recipe{Profile: "-x"}},
	} {
		if _, err := q.Put(t.Context(), j); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%+v: %v", j, err)
		}
	}
	raw := Job("\xff\n")
	put(t, q, raw, true)
	if l := claim(t, q, worker("one")); l.Job().Files[0].Path != "\xff\n" {
		t.Errorf("the path is now %q", l.Job().Files[0].Path)
	}
}

// A job of a later version is left to workers of that version: it may have
// instructions that this one does not understand.
func later(t *testing.T, open func(*testing.T, time.Duration) Queue) {
	q := open(t, 500*time.Millisecond)
	j := Job("a")
	j.V = fleet.Version + 1
	id := put(t, q, j, true)
	none(t, q, worker("one"), 1500*time.Millisecond)
	if r := Record(t, q, id); r.State != fleet.Queued || r.Attempt != 0 {
		t.Errorf("%+v", r)
	}
	put(t, q, Job("b"), true)
	if l := claim(t, q, worker("one")); l.Job().Files[0].Path != "b" {
		t.Error("it keeps others from being handed out")
	}
}
