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
	// Run sends the files of a job and reports progress by calling tell. When
	// stop is closed, it finishes the shards in flight and returns
	// [ErrStopped]. When ctx ends, it returns at once. A [Permanent] error
	// makes the job fail; after other errors it is tried again.
	Run(ctx context.Context, job Job, stop <-chan struct{}, tell func(Progress)) (Receipt, error)
}

// ErrStopped is returned by a [Runner] that was asked to stop.
var ErrStopped = errors.New("stopped before the end")

// errStalled ends work that no longer moves bytes.
var errStalled = errors.New("no bytes moved")

// Permanent is an error for which trying again does not help.
type Permanent struct{ Err error }

// Error implements error.
func (e *Permanent) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Permanent) Unwrap() error { return e.Err }

// Options configure [Work].
type Options struct {
	Worker
	Group   string // the hosts of a group share the rate limit of one token
	Version string // of the program, shown to others
	Slots   int    // number of jobs at a time; 0 means 1
	// Lease is the duration of the queue's leases. They are renewed every third
	// of it. 0 means DefaultLease.
	Lease time.Duration
	// Stall is how long work may go on without moving bytes before it is given
	// up. 0 means DefaultStall.
	Stall time.Duration
	// Backoff is how long a job rests after its first failed attempt. It
	// doubles with each attempt. 0 means DefaultBackoff.
	Backoff time.Duration
	// Share, if not nil, is called whenever the host's share of the token's
	// rate limit changes. The host may use 1/hosts of it, or none if hosts is
	// 0.
	Share func(hosts int) error
	// Settle is how long a new host waits before it uses its share, so that
	// what the others sent before no longer counts. It is the window of the
	// token's rate limit.
	Settle   time.Duration
	Observer func(Event) // nil means none; called by several goroutines
	Logger   *slog.Logger
	// Stop, if not nil, asks for a stop when it is closed: the host claims no
	// more jobs, and gives back those in progress.
	Stop <-chan struct{}
}

// Defaults of Options.
const (
	DefaultLease   = time.Minute
	DefaultStall   = 10 * time.Minute
	DefaultBackoff = 10 * time.Second
	mostBackoff    = 10 * time.Minute
)

// The kinds of [Event].
const (
	EventClaimed   = "claimed"
	EventCompleted = "completed"
	EventFailed    = "failed" // completed with an error, or rejected
	EventRetried   = "retried"
	EventGivenBack = "given back"
	EventLost      = "lost"
)

// Event is passed to the observer.
type Event struct {
	Kind string
	ID   ID
	Job  Job
	Sent int64
	Took time.Duration
	Err  error
}

// work is one call of Work.
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
	moving  map[*holder]bool // jobs in progress
}

// Work claims jobs and lets the runner work on them, until it is asked to stop,
// ctx ends, or another host drains this one. After a stop it returns nil.
func Work(ctx context.Context, q Queue, roster Roster, runner Runner, o Options) error {
	if !ValidName(o.Host) || o.Group != "" && !ValidName(o.Group) {
		return fmt.Errorf("host %q in group %q: use letters, digits, - and _", o.Host, o.Group)
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
	_ = aside.Wait() // never fails
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if gone := roster.Leave(leave, w.host()); gone != nil {
		w.Logger.Warn("leave the fleet", "err", gone)
	}
	return err
}

// announce announces the host, checks whether it should stop, and sets its
// share of the rate limit, until the work has ended.
func (w *work) announce(ctx context.Context, ended <-chan struct{}, stop func()) {
	share, seen := -1, time.Now()
	var settled time.Time // when the share may be used
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
				use(0) // the others may soon consider this host gone
				settled = time.Time{}
			}
		case err == nil:
			seen = now
			if settled.IsZero() {
				settled = now
				if hosts > 1 {
					settled = now.Add(w.Settle + AnnounceEvery) // by then the others know of it
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

// meet announces the host, and counts the hosts of its group.
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
	go func() { // ends with the slot
		select {
		case <-w.stop:
			cancel()
		case <-over:
		}
	}()
	trouble := 0 // failures in a row; the host may be the reason
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

// rest waits, unless the work has to stop.
func (w *work) rest(d time.Duration) {
	t := time.NewTimer(jitter(d))
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.stop:
	}
}

// jitter returns a random duration around d, so that hosts do not act all at
// once.
func jitter(d time.Duration) time.Duration {
	if d < 2 {
		return d
	}
	return d/2 + rand.N(d) //nolint:gosec // nothing secret hangs on it
}

// do works on a job. It returns false if the job has to be tried again.
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
	_ = renewing.Wait() // never fails; from here on only this goroutine uses the lease
	if cause := context.Cause(run); cause != nil && ctx.Err() == nil && err != nil {
		err = cause
	}
	log := w.Logger.With("job", h.lease.ID())
	switch {
	case errors.Is(err, ErrLeaseLost):
		log.Warn("lost the lease; nothing was recorded")
		return Event{Kind: EventLost, Err: err}
	case ctx.Err() != nil: // progress is unknown, so let the lease run out
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

// insist tries to end a lease, for the duration of a lease: the queue may be
// electing a leader.
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

// renew keeps the lease while bytes move. If it fails, the work ends.
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
