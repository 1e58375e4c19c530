package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carload/carload/internal/sqlite"
)

// writer owns the only connection that writes. Jobs that come at the same time
// share a transaction, and so the cost of making it durable.
type writer struct {
	db    *sqlite.Writer
	jobs  chan *job
	ended chan struct{}

	before    func() error  // called before each commit; may be nil
	groupTime time.Duration // a transaction starts no job later than this
	commits   atomic.Int64
	urgent    atomic.Int64 // waiting jobs that are not patient
	losses    int64        // counts how often rows of blocks or nodes were removed; only jobs use it

	mu     sync.RWMutex // held for reading while a job is handed over
	closed bool         // guarded by mu
}

// job is a function to run in a transaction.
type job struct {
	ctx context.Context //nolint:containedctx // of the caller that waits for the job
	f   func(*tx) error
	// patient marks one of the many jobs of a large shard. It does not ask the
	// current transaction to hurry.
	patient bool
	err     error
	panic   any // value of a panic in f
	done    chan struct{}
}

// Limits on what goes into one transaction.
const (
	groupJobs        = 256
	defaultGroupTime = 20 * time.Millisecond
)

// newWriter starts to serve jobs. The caller closes it, which closes db.
func newWriter(db *sqlite.Writer) *writer {
	w := &writer{db: db, jobs: make(chan *job, groupJobs), ended: make(chan struct{}), groupTime: defaultGroupTime}
	go w.serve()
	return w
}

// close waits for the jobs that were handed over, and closes the database.
func (w *writer) close() error {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	close(w.jobs)
	<-w.ended
	return w.db.Close()
}

// update runs f in a transaction. If update returns nil, the changes are on the
// disk; if it returns an error, they are undone. The context is checked before
// each statement of f.
func (w *writer) update(ctx context.Context, f func(*tx) error) error {
	return w.do(&job{ctx: ctx}, f)
}

func (w *writer) do(j *job, f func(*tx) error) error {
	j.f, j.done = f, make(chan struct{})
	if !w.hand(j) {
		return ErrClosed
	}
	<-j.done
	if j.panic != nil {
		panic(j.panic)
	}
	return j.err
}

func (w *writer) hand(j *job) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.closed {
		if !j.patient {
			w.urgent.Add(1)
		}
		w.jobs <- j
	}
	return !w.closed
}

// waited reports whether an impatient job waits for the current transaction to
// end.
func (w *writer) waited() bool { return w.urgent.Load() > 0 }

// take notes that a job no longer waits.
func (w *writer) take(j *job) {
	if j != nil && !j.patient {
		w.urgent.Add(-1)
	}
}

func (w *writer) serve() {
	defer close(w.ended)
	var group []*job
	for j := w.next(); j != nil; {
		group, j = w.group(j)
		for _, j := range group {
			close(j.done)
		}
		if j == nil {
			j = w.next()
		}
	}
}

// next waits for a job. It returns nil after close.
func (w *writer) next() *job {
	j := <-w.jobs
	w.take(j)
	return j
}

// group runs a job and others that come meanwhile in one transaction. If it
// takes a job that does not belong to the transaction, it returns it as next.
func (w *writer) group(j *job) (group []*job, next *job) {
	group = []*job{j}
	t := &tx{w.db}
	if err := t.run(`BEGIN IMMEDIATE`); err != nil {
		j.err = fmt.Errorf("begin transaction: %w", err)
		return group, nil
	}
	begun := time.Now()
	// The first job needs no savepoint, which would make SQLite copy pages: if
	// it fails, there is nothing else in the transaction.
	if j.call(t); j.failed() {
		w.fail(group, nil)
		return group, nil
	}
	for !j.patient && len(group) < groupJobs && time.Since(begun) <= w.groupTime {
		j = w.another()
		w.take(j)
		if j == nil || j.patient {
			next = j
			break
		}
		group = append(group, j)
		if err := j.run(t); err != nil {
			// The whole transaction is lost.
			w.fail(group, err)
			return group, nil
		}
	}
	w.commit(t, group)
	return group, next
}

// another returns a job that is there, or that comes as soon as goroutines that
// can run have run; nil if there is none. A commit costs as much as several
// small jobs.
func (w *writer) another() *job {
	select {
	case j := <-w.jobs:
		return j
	default:
	}
	runtime.Gosched()
	select {
	case j := <-w.jobs:
		return j
	default:
		return nil
	}
}

func (w *writer) commit(t *tx, group []*job) {
	w.commits.Add(1)
	if w.before != nil {
		if err := w.before(); err != nil {
			w.fail(group, err)
			return
		}
	}
	if err := t.run(`COMMIT`); err != nil {
		w.fail(group, fmt.Errorf("commit: %w", err))
	}
}

// fail rolls a transaction back. Jobs that failed by themselves keep their
// errors.
func (w *writer) fail(group []*job, err error) {
	_ = (&tx{w.db}).run(`ROLLBACK`) // SQLite may have rolled it back already
	for _, j := range group {
		if j.err == nil && j.panic == nil {
			j.err = err
		}
	}
}

// run runs a job in a savepoint, so that it can be undone without the others.
// It returns an error if the transaction cannot continue.
func (j *job) run(t *tx) error {
	if err := t.run(`SAVEPOINT job`); err != nil {
		return err
	}
	if j.call(t); j.failed() {
		if err := t.run(`ROLLBACK TO job`); err != nil {
			return errors.Join(j.err, err)
		}
	}
	return t.run(`RELEASE job`)
}

// call calls the job's function, unless nobody waits for it any more.
func (j *job) call(t *tx) {
	defer func() { j.panic = recover() }() // re-raised in the caller's goroutine
	select {
	case <-j.ctx.Done():
		j.err = j.ctx.Err()
	default:
		j.err = j.f(t)
	}
}

func (j *job) failed() bool { return j.err != nil || j.panic != nil }

// tx is a write transaction.
type tx struct{ *sqlite.Writer }

func (t *tx) run(query string) error {
	_, err := t.ExecContext(context.Background(), query)
	return err
}
