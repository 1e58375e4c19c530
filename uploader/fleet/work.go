package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Runner does the work of a job.
type Runner interface {
	// Run sends the files of a job, and tells how far it is. When stop is closed
	// it finishes the shards that are in flight and returns [ErrStopped]; when
	// ctx ends it returns at once. An error that is [Permanent] puts the job
	// aside; after others it is tried again.
	Run(ctx context.Context, job Job, stop <-chan struct{}, tell func(Progress)) (Receipt, error)
}

// ErrStopped is what a [Runner] returns that was asked to stop.
var ErrStopped = errors.New("stopped before the end")

// errStalled ends work of which no bytes move.
var errStalled = errors.New("no bytes moved")

// Permanent is an error that trying again does not help against.
type Permanent struct{ Err error }

// Error implements error.
func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *Permanent) Unwrap() error { return e.Err }

// Options are the knobs of [Work].
type Options struct {
	Worker
	Group   string // hosts of a group share the rate of one token
	Version string // of the program, for others to see
	Slots   int    // jobs at a time; 0 means 1
	// Lease is how long a lease lasts; it is renewed three times in that time.
	// It must be what the queue goes by.
	Lease time.Duration
	// Stall is for how long no bytes may move before the work is given up. 0
	// means DefaultStall.
	Stall time.Duration
	// Backoff is how long a job rests after its first try that failed; it
	// doubles with each. 0 means DefaultBackoff.
	Backoff time.Duration
	// Share is told the part of the token's rate that the host may use, whenever
	// it changes: one of so many; none at all if hosts is 0. Nil for nobody.
	Share func(hosts int) error
	// Settle is how long a host that comes to others waits before it uses its
	// share, so that what they have sent before is over. It is the window of the
	// token's rate.
	Settle   time.Duration
	Observer func(Event) // nil for none; called by several goroutines
	Logger   *slog.Logger
	// Stop asks for a stop when it is closed: no job is claimed any more, those
	// under way are given back. Nil for never.
	Stop <-chan struct{}
}

// Defaults of Options.
const (
	DefaultLease   = time.Minute
	DefaultStall   = 10 * time.Minute
	DefaultBackoff = 10 * time.Second
	mostBackoff    = 10 * time.Minute
)

// What became of a lease.
const (
	EventClaimed   = "claimed"
	EventCompleted = "completed"
	EventFailed    = "failed" // completed or put aside with an error
	EventRetried   = "retried"
	EventGivenBack = "given back"
	EventLost      = "lost"
)

// Event is told to an observer.
type Event struct {
	Kind string
	ID   ID
	Job  Job
	Sent int64
	Took time.Duration
	Err  error
}

// work is one run of Work.
type work struct {
	Options
	q      Queue
	roster Roster
	runner Runner
	stop   chan struct{}
	begun  time.Time

	mu      sync.Mutex
	running int
	done    int64
	failed  int64
	sent    int64            // by jobs that have ended
	moving  map[*holder]bool // jobs that are under way
}

// Work claims jobs and has the runner work on them, until it is asked to stop,
// ctx ends, or another host drains this one. It returns nil after a stop.
func Work(ctx context.Context, q Queue, roster Roster, runner Runner, o Options) error {
	if !ValidName(o.Host) || o.Group != "" && !ValidName(o.Group) {
		return fmt.Errorf("a host %q of a group %q: use letters, digits, - and _", o.Host, o.Group)
	}
	o.Slots = max(o.Slots, 1)
	defaults := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	defaults(&o.Lease, DefaultLease)
	defaults(&o.Stall, DefaultStall)
	defaults(&o.Backoff, DefaultBackoff)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &work{Options: o, q: q, roster: roster, runner: runner, stop: make(chan struct{}), begun: time.Now(), moving: map[*holder]bool{}}
	if err := roster.Drain(ctx, o.Host, false); err != nil {
		return fmt.Errorf("clear the drain of %s: %w", o.Host, err)
	}
	var slots, aside errgroup.Group
	ended := make(chan struct{})
	stop := sync.OnceFunc(func() { close(w.stop) })
	aside.Go(func() error {
		select {
		case <-o.Stop: // never, if it is nil
		case <-ctx.Done():
		case <-ended:
		}
		stop()
		return nil
	})
	aside.Go(func() error { w.announce(ctx, ended, stop); return nil })
	for range o.Slots {
		slots.Go(func() error { return w.slot(ctx) })
	}
	err := slots.Wait()
	close(ended)
	_ = aside.Wait() // they have no errors
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if gone := roster.Leave(leave, w.host()); gone != nil {
		w.Logger.Warn("leave the fleet", "err", gone)
	}
	return err
}

// announce tells that the host is there, asks whether it is to stop, and divides
// the rate, until the work has ended.
func (w *work) announce(ctx context.Context, ended <-chan struct{}, stop func()) {
	share, seen := -1, time.Now()
	var settled time.Time // from when on the share is used
	use := func(hosts int) {
		if w.Share == nil || hosts == share {
			return
		}
		if err := w.Share(hosts); err != nil {
			w.Logger.Error("share the rate", "err", err)
			return
		}
		share = hosts
	}
	use(0)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ended:
			return
		case <-t.C:
		}
		t.Reset(AnnounceEvery)
		step, cancel := context.WithTimeout(ctx, AnnounceEvery)
		hosts, err := w.meet(step, stop)
		cancel()
		now := time.Now()
		switch {
		case err != nil && ctx.Err() == nil:
			w.Logger.Warn("announce the host", "err", err)
			if now.Sub(seen) > Presence-AnnounceEvery {
				use(0) // the others may soon believe that it is gone
				settled = time.Time{}
			}
		case err == nil:
			seen = now
			if settled.IsZero() {
				settled = now
				if hosts > 1 {
					settled = now.Add(w.Settle + AnnounceEvery) // by then they know of it
					if wait := w.Settle + AnnounceEvery; wait < AnnounceEvery {
						t.Reset(wait)
					}
				}
			}
			if !now.Before(settled) {
				use(hosts)
			}
		}
	}
}

// meet announces the host, and counts those of its group.
func (w *work) meet(ctx context.Context, stop func()) (n int, err error) {
	if err := w.roster.Announce(ctx, w.host()); err != nil {
		return 0, err
	}
	drain, err := w.roster.Draining(ctx, w.Host)
	if err != nil {
		return 0, err
	}
	if drain {
		stop()
	}
	n, err = w.roster.Count(ctx, w.Group)
	return max(n, 1), err
}

func (w *work) stopping() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

func (w *work) host() Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := Host{
		Name: w.Host, Group: w.Group, Version: w.Version, Slots: w.Slots, Running: w.running, Done: w.done, Failed: w.failed,
		Bytes: w.sent, Draining: w.stopping(), Started: w.begun, Clock: time.Now(),
	}
	for m := range w.moving {
		h.Bytes += m.progress().Sent
	}
	return h
}

func (w *work) tell(e Event) {
	if w.Observer != nil {
		w.Observer(e)
	}
}

// slot works on one job after the other.
func (w *work) slot(ctx context.Context) error {
	claim, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() { // it ends with the slot
		select {
		case <-w.stop:
			cancel()
		case <-over:
		}
	}()
	trouble := 0 // tries in a row that failed: it may be the host
	for !w.stopping() {
		lease, err := w.q.Claim(claim, w.Worker)
		if err != nil {
			if w.stopping() || ctx.Err() != nil {
				break
			}
			w.Logger.Warn("claim a job", "err", err)
			trouble++
		} else if w.do(ctx, lease) {
			trouble = 0
		} else {
			trouble++
		}
		if trouble > 0 {
			w.rest(min(time.Second<<min(trouble-1, 10), time.Minute))
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// rest waits, unless the work is to stop.
func (w *work) rest(d time.Duration) {
	t := time.NewTimer(jitter(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.stop:
	}
}

// jitter is a time around d, so that many don't come at once.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d) //nolint:gosec // nothing secret hangs on it
}

// do works on a job, and reports false if it has to be tried again.
func (w *work) do(ctx context.Context, lease Lease) bool {
	h := &holder{w: w, lease: lease, begun: time.Now()}
	w.mu.Lock()
	w.running++
	w.moving[h] = true
	w.mu.Unlock()
	e := h.hold(ctx)
	e.ID, e.Job, e.Took = lease.ID(), lease.Job(), time.Since(h.begun)
	e.Sent = h.progress().Sent
	w.mu.Lock()
	delete(w.moving, h)
	w.running--
	w.sent += e.Sent
	switch e.Kind {
	case EventCompleted:
		w.done++
	case EventFailed:
		w.failed++
	}
	w.mu.Unlock()
	w.tell(e)
	return e.Kind != EventRetried && e.Kind != EventLost
}

// holder holds a lease while the runner works.
type holder struct {
	w     *work
	lease Lease
	begun time.Time

	mu sync.Mutex
	p  Progress
}

func (h *holder) progress() Progress {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.p
	p.Held = append(Bitmap(nil), p.Held...)
	return p
}

func (h *holder) hold(ctx context.Context) Event {
	w, job := h.w, h.lease.Job()
	w.tell(Event{Kind: EventClaimed, ID: h.lease.ID(), Job: job})
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	var renewing errgroup.Group
	renewing.Go(func() error { h.renew(run, ended, cancel); return nil })
	receipt, err := w.runner.Run(run, job, w.stop, func(p Progress) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.p = p
	})
	close(ended)
	_ = renewing.Wait() // it has no errors; from here on the lease is used here
	if cause := context.Cause(run); cause != nil && ctx.Err() == nil && err != nil {
		err = cause
	}
	log := w.Logger.With("job", h.lease.ID())
	switch {
	case errors.Is(err, ErrLeaseLost):
		log.Warn("lost the lease; nothing was recorded")
		return Event{Kind: EventLost, Err: err}
	case ctx.Err() != nil: // it is not known how far it came; the lease runs out
		return Event{Kind: EventLost, Err: context.Cause(ctx)}
	}
	var permanent *Permanent
	kind, last := EventCompleted, func(ctx context.Context) error { return h.lease.Complete(ctx, receipt) }
	switch {
	case err == nil:
		receipt.Host, receipt.At = w.Host, time.Now()
		if why := receipt.failure(); why != "" {
			kind, err = EventFailed, errors.New(why)
		}
	case errors.As(err, &permanent):
		kind, last = EventFailed, func(ctx context.Context) error { return h.lease.Reject(ctx, err) }
	case errors.Is(err, ErrStopped):
		kind, last = EventGivenBack, func(ctx context.Context) error { return h.lease.Retry(ctx, 0, nil) }
	default:
		after := min(w.Backoff<<min(h.lease.Attempt()-1, 20), mostBackoff)
		kind, last = EventRetried, func(ctx context.Context) error { return h.lease.Retry(ctx, jitter(max(after, w.Backoff)), err) }
	}
	if errEnd := h.insist(ctx, last); errEnd != nil {
		log.Warn("record what became of a job", "err", errEnd)
		return Event{Kind: EventLost, Err: errEnd}
	}
	return Event{Kind: kind, Err: err}
}

// insist tries to end a lease for as long as one lasts: the queue may be electing
// a leader.
func (h *holder) insist(ctx context.Context, last func(context.Context) error) error {
	until := time.Now().Add(h.w.Lease)
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		step, cancel := context.WithTimeout(ctx, max(h.w.Lease/3, time.Second))
		err := last(step)
		cancel()
		if err == nil || errors.Is(err, ErrLeaseLost) || time.Now().After(until) {
			return err
		}
		t.Reset(max(h.w.Lease/20, 50*time.Millisecond))
	}
}

// renew keeps the lease while bytes move. If it can't, the work ends.
func (h *holder) renew(ctx context.Context, ended <-chan struct{}, cancel context.CancelCauseFunc) {
	t := time.NewTicker(h.w.Lease / 3)
	defer t.Stop()
	kept, moved, last := time.Now(), time.Now(), h.progress()
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p := h.progress()
		if p.Moved != last.Moved || p.Files != last.Files || p.File != last.File {
			moved = time.Now()
		}
		last = p
		if time.Since(moved) > h.w.Stall {
			cancel(fmt.Errorf("%w for %s", errStalled, h.w.Stall))
			return
		}
		step, done := context.WithTimeout(ctx, h.w.Lease/3)
		err := h.lease.Renew(step, p)
		done()
		switch {
		case err == nil:
			kept = time.Now()
		case errors.Is(err, ErrLeaseLost):
			cancel(err)
			return
		case time.Since(kept) > h.w.Lease:
			cancel(fmt.Errorf("%w: it could not be renewed: %w", ErrLeaseLost, err))
			return
		}
	}
}
