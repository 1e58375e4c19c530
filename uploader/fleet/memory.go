package fleet

import (
	"container/heap"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a queue in memory, for tests and simulations. It implements
// [Queue], [Index] and [Roster].
type Memory struct {
	lease time.Duration

	mu     sync.Mutex
	jobs   map[ID]*memoryJob
	ready  map[string][]*memoryJob // by source and class
	timers timers
	wake   chan struct{} // closed and replaced when a job may be ready
	hosts  map[string]Host
	seen   map[string]time.Time
	counts map[string]count // by group
	drains map[string]bool
}

// NewMemory makes an empty queue whose leases last this long.
func NewMemory(lease time.Duration) *Memory {
	return &Memory{
		lease: lease, jobs: map[ID]*memoryJob{}, ready: map[string][]*memoryJob{}, wake: make(chan struct{}),
		hosts: map[string]Host{}, seen: map[string]time.Time{}, counts: map[string]count{}, drains: map[string]bool{},
	}
}

type memoryJob struct {
	Record
	class  string
	epoch  int       // incremented by every lease; never decreases
	until  time.Time // when the lease runs out
	passed int       // how often the host that last failed it has left it to others
}

// timer says when to look at a job again: when its rest or its lease ends.
type timer struct {
	at    time.Time
	job   *memoryJob
	epoch int
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(v any)        { *t = append(*t, v.(timer)) }
func (t *timers) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

// The caller of these holds the lock.

func (m *Memory) push(j *memoryJob) {
	m.ready[j.class] = append(m.ready[j.class], j)
	close(m.wake)
	m.wake = make(chan struct{})
}

func (m *Memory) later(j *memoryJob, at time.Time) { heap.Push(&m.timers, timer{at, j, j.epoch}) }

// due makes jobs ready whose rest is over or whose lease has run out.
func (m *Memory) due(now time.Time) {
	for len(m.timers) > 0 && !m.timers[0].at.After(now) {
		t := heap.Pop(&m.timers).(timer)
		switch j := t.job; {
		case t.epoch != j.epoch:
		case j.State == Running && now.Before(j.until):
			m.later(j, j.until)
		case j.State == Running || j.State == Queued:
			m.push(j)
		}
	}
}

// passTo is how long a job rests when a host leaves it to others, and passMost
// how often a host does that.
const (
	passTo   = 2 * time.Second
	passMost = 3
)

// take finds a job for a worker.
func (m *Memory) take(w Worker, now time.Time) *memoryJob {
	m.due(now)
	for _, s := range w.Sources {
		for _, c := range Classes(w.To) {
			key := s + " " + c
			for len(m.ready[key]) > 0 {
				j := m.ready[key][0]
				m.ready[key][0] = nil
				m.ready[key] = m.ready[key][1:]
				if j.State != Queued && (j.State != Running || now.Before(j.until)) {
					continue
				}
				if j.Job.V > Version { // leave it to a worker of that version
					m.later(j, now.Add(m.lease))
					continue
				}
				if j.Reason != "" && j.Host == w.Host && j.passed < passMost && m.others(w.Host, now) {
					j.passed++
					m.later(j, now.Add(passTo))
					continue
				}
				return j
			}
		}
	}
	return nil
}

func (m *Memory) others(host string, now time.Time) bool {
	for name, at := range m.seen {
		if name != host && now.Sub(at) < Presence {
			return true
		}
	}
	return false
}

// Put implements [Queue].
func (m *Memory) Put(_ context.Context, job Job) (bool, error) {
	if err := job.Validate(); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id := job.ID()
	if m.jobs[id] != nil {
		return false, nil
	}
	j := &memoryJob{Record: Record{ID: id, Job: job, State: Queued, Since: time.Now()}, class: job.Source + " " + Class(job.To)}
	m.jobs[id] = j
	m.push(j)
	return true, nil
}

// Claim implements [Queue].
func (m *Memory) Claim(ctx context.Context, w Worker) (Lease, error) {
	for {
		m.mu.Lock()
		now := time.Now()
		j := m.take(w, now)
		if j != nil && j.Attempt >= MostAttempts {
			j.State, j.Reason = Failed, fmt.Sprintf("tried %d times: %s", j.Attempt, j.Reason)
			m.mu.Unlock()
			continue
		}
		if j != nil {
			j.epoch++
			j.Attempt++
			j.State, j.Host, j.Since, j.until, j.passed = Running, w.Host, now, now.Add(m.lease), 0
			m.later(j, j.until)
			l := &memoryLease{m: m, j: j, epoch: j.epoch, job: j.Job, attempt: j.Attempt, progress: j.Progress}
			m.mu.Unlock()
			return l, nil
		}
		wake, wait := m.wake, time.Hour
		if len(m.timers) > 0 {
			wait = time.Until(m.timers[0].at)
		}
		m.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-wake:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
		t.Stop()
	}
}

type memoryLease struct {
	m        *Memory
	j        *memoryJob
	epoch    int
	job      Job
	attempt  int
	progress Progress
}

// ID implements [Lease].
func (l *memoryLease) ID() ID { return l.j.ID }

// Job implements [Lease].
func (l *memoryLease) Job() Job { return l.job }

// Attempt implements [Lease].
func (l *memoryLease) Attempt() int { return l.attempt }

// Progress implements [Lease].
func (l *memoryLease) Progress() Progress { return l.progress }

// held runs f if the lease is still valid.
func (l *memoryLease) held(f func(now time.Time)) error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.j.State != Running || l.j.epoch != l.epoch {
		return ErrLeaseLost
	}
	now := time.Now()
	l.j.Since = now
	f(now)
	return nil
}

// Renew implements [Lease].
func (l *memoryLease) Renew(_ context.Context, p Progress) error {
	return l.held(func(now time.Time) { l.j.Progress, l.j.until = p, now.Add(l.m.lease) })
}

// Complete implements [Lease].
func (l *memoryLease) Complete(_ context.Context, r Receipt) error {
	return l.held(func(time.Time) {
		l.j.State, l.j.Receipt, l.j.Reason = Done, &r, r.failure()
		if l.j.Reason != "" {
			l.j.State = Failed
		}
		l.j.epoch++
	})
}

// Retry implements [Lease].
func (l *memoryLease) Retry(_ context.Context, after time.Duration, cause error) error {
	return l.held(func(now time.Time) {
		l.j.State = Queued
		l.j.epoch++
		if cause == nil {
			l.j.Reason = ""
			l.j.Attempt--
		} else {
			l.j.Reason = cause.Error()
		}
		l.m.later(l.j, now.Add(after))
		close(l.m.wake) // for workers whose timer is longer than that
		l.m.wake = make(chan struct{})
	})
}

// Reject implements [Lease].
func (l *memoryLease) Reject(_ context.Context, cause error) error {
	return l.held(func(time.Time) {
		l.j.State, l.j.Reason = Failed, cause.Error()
		l.j.epoch++
	})
}

// Records implements [Index].
func (m *Memory) Records(context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		m.mu.Lock()
		list := slices.Collect(maps.Values(m.jobs))
		m.mu.Unlock()
		for _, j := range list {
			m.mu.Lock()
			r := j.Record
			m.mu.Unlock()
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Requeue implements [Index].
func (m *Memory) Requeue(_ context.Context, id ID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[id]
	if j == nil {
		return false, ErrNotFound
	}
	if j.State != Failed {
		return false, nil
	}
	j.State, j.Reason, j.Attempt, j.Since, j.Receipt = Queued, "", 0, time.Now(), nil
	m.push(j)
	return true, nil
}

// Settle implements [Index].
func (m *Memory) Settle(_ context.Context, id ID, r Receipt) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[id]
	if j == nil {
		return false, ErrNotFound
	}
	if j.State != Queued {
		return false, nil
	}
	j.State, j.Receipt, j.Host, j.Since = Done, &r, r.Host, time.Now()
	j.epoch++
	return true, nil
}

// Announce implements [Roster].
func (m *Memory) Announce(_ context.Context, h Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.hosts[h.Name]; !known {
		delete(m.counts, h.Group)
	}
	m.hosts[h.Name], m.seen[h.Name] = h, time.Now()
	return nil
}

// Leave implements [Roster].
func (m *Memory) Leave(_ context.Context, h Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.hosts, h.Name)
	delete(m.seen, h.Name)
	delete(m.counts, h.Group)
	return nil
}

// count is the number of hosts in a group when they were last counted.
type count struct {
	n  int
	at time.Time
}

// Count implements [Roster].
func (m *Memory) Count(_ context.Context, group string) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.counts[group]; ok && time.Since(c.at) < time.Second {
		return c.n, nil
	}
	for name, h := range m.hosts {
		if h.Group == group && time.Since(m.seen[name]) < Presence {
			n++
		}
	}
	m.counts[group] = count{n, time.Now()}
	return n, nil
}

// Hosts implements [Roster].
func (m *Memory) Hosts(context.Context) (list []Host, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, h := range m.hosts {
		if time.Since(m.seen[name]) < Presence {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, byName)
	return list, nil
}

// Drain implements [Roster].
func (m *Memory) Drain(_ context.Context, name string, on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drains[name] = on
	return nil
}

// Draining implements [Roster].
func (m *Memory) Draining(_ context.Context, name string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.drains[name], nil
}
