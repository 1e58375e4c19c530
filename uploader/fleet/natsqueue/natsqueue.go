// Package natsqueue implements the fleet's queue on NATS JetStream, whether
// embedded or external.
//
// A stream with work-queue retention has a message for each pending job, under
// a subject of its own, so that there is never a second one. A bucket has a
// record for each job, which is changed by compare-and-set; its revision is the
// fencing token. The message only says that a job is to be worked on; the
// record decides. Putting a job creates the record and then the message. Ending
// a job changes the record and then acknowledges the message. A crash in
// between leaves a missing message, which the next Put adds, or a superfluous
// one, which is dropped when it is received.
package natsqueue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carload/carload/uploader/fleet"
)

// Options configure [Create] and [Open].
type Options struct {
	Name     string        // of the fleet; empty means DefaultName
	Replicas int           // of streams and buckets, for Create; 0 means 1
	Lease    time.Duration // for Create; 0 means fleet.DefaultLease
}

// DefaultName is the name of a fleet that was not given one.
const DefaultName = "carload"

// ErrNoFleet means that the server has no fleet of this name.
var ErrNoFleet = errors.New("there is no such fleet: create it with `carload fleet up`")

// config is what everybody in a fleet has to agree on.
type config struct {
	V           int           `json:"v"`
	Lease       time.Duration `json:"leaseNanoseconds"`
	Incarnation string        `json:"incarnation"` // of the queue, so that leftovers of a wiped queue are not mistaken for it
}

const (
	configKey = "config"
	drainKey  = "drain."

	// tryFor limits one attempt of a request. A request before a leader is
	// elected is dropped without an answer.
	tryFor = 2 * time.Second
	// duplicates is how long the server rejects a second message of the same
	// job, however often the client tries.
	duplicates = 2 * time.Hour
	// maxAckPending is the number of leases at a time for one source and class.
	maxAckPending = 1 << 16
	// fetchFor is how long to wait at one place if there is nothing to do.
	fetchFor = 5 * time.Second
	mostJobs = 100_000_000
)

// Queue implements [fleet.Queue], [fleet.Index] and [fleet.Roster].
type Queue struct {
	js   jetstream.JetStream
	name string
	cfg  config

	index, hosts, control jetstream.KeyValue

	mu        sync.Mutex
	consumers map[string]jetstream.Consumer
	alone     time.Time // until then, assume that no other host is present
	company   time.Time // until then, assume that another host is present
}

// retry makes short attempts until one gets an answer.
func retry[T any](ctx context.Context, f func(context.Context) (T, error)) (v T, err error) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			if err == nil {
				err = context.Cause(ctx)
			}
			return v, err
		}
		step, cancel := context.WithTimeout(ctx, tryFor)
		v, err = f(step)
		cancel()
		if err == nil || !passing(err) {
			return v, err
		}
		t.Reset(50 * time.Millisecond)
	}
}

// passing reports errors of servers that have no leader yet or are unreachable.
func passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.Code == 503 {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrDisconnected)
}

// Create creates the fleet on the server if necessary, and opens it. It waits
// for the servers to elect a leader, until ctx ends.
func Create(ctx context.Context, nc *nats.Conn, o Options) (*Queue, error) {
	q, err := connect(nc, o)
	if err != nil {
		return nil, err
	}
	r := max(o.Replicas, 1)
	if _, err = retry(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		s, err := q.js.Stream(ctx, q.jobs())
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return s, err
		}
		return q.js.CreateStream(ctx, jetstream.StreamConfig{
			Name: q.jobs(), Subjects: []string{q.jobs() + ".>"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: r,
			MaxMsgs: mostJobs, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, Duplicates: duplicates,
			Description: "jobs to be done: fleet " + q.name,
		})
	}); err != nil {
		return nil, fmt.Errorf("create the stream of jobs: %w", err)
	}
	for _, b := range []struct {
		bucket *jetstream.KeyValue
		jetstream.KeyValueConfig
	}{
		{&q.index, jetstream.KeyValueConfig{Bucket: q.name + "-index", Description: "what became of jobs", MaxValueSize: 1 << 20}},
		{&q.hosts, jetstream.KeyValueConfig{Bucket: q.name + "-hosts", Description: "who is there", TTL: fleet.Presence, Storage: jetstream.MemoryStorage}},
		{&q.control, jetstream.KeyValueConfig{Bucket: q.name + "-control", Description: "what all have to know"}},
	} {
		b.Replicas = r
		// They are not looked up again: of three servers that begin, one may not know
		// yet what another one made.
		if *b.bucket, err = retry(ctx, func(ctx context.Context) (jetstream.KeyValue, error) {
			kv, err := q.js.KeyValue(ctx, b.Bucket)
			if !errors.Is(err, jetstream.ErrBucketNotFound) {
				return kv, err
			}
			return q.js.CreateKeyValue(ctx, b.KeyValueConfig)
		}); err != nil {
			return nil, fmt.Errorf("create the bucket %s: %w", b.Bucket, err)
		}
	}
	cfg := config{V: 1, Lease: o.Lease, Incarnation: rand.Text()[:8]}
	if cfg.Lease <= 0 {
		cfg.Lease = fleet.DefaultLease
	}
	p, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if _, err = retry(ctx, func(ctx context.Context) (uint64, error) {
		rev, err := q.control.Create(ctx, configKey, p)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return 0, nil
		}
		return rev, err
	}); err != nil {
		return nil, fmt.Errorf("set up the fleet: %w", err)
	}
	return q, q.configure(ctx)
}

// Open opens an existing fleet.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Queue, error) {
	q, err := connect(nc, o)
	if err != nil {
		return nil, err
	}
	return q, q.open(ctx)
}

func connect(nc *nats.Conn, o Options) (*Queue, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !fleet.ValidName(o.Name) {
		return nil, fmt.Errorf("invalid name of a fleet: %q", o.Name)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(tryFor))
	return &Queue{js: js, name: o.Name, consumers: map[string]jetstream.Consumer{}}, err
}

func (q *Queue) open(ctx context.Context) (err error) {
	bucket := func(name string) (jetstream.KeyValue, error) {
		return retry(ctx, func(ctx context.Context) (jetstream.KeyValue, error) { return q.js.KeyValue(ctx, q.name+"-"+name) })
	}
	if q.control, err = bucket("control"); err == nil {
		if q.index, err = bucket("index"); err == nil {
			q.hosts, err = bucket("hosts")
		}
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("fleet %q: %w", q.name, ErrNoFleet)
	}
	if err != nil {
		return err
	}
	return q.configure(ctx)
}

// configure reads the config of the fleet.
func (q *Queue) configure(ctx context.Context) error {
	e, err := retry(ctx, func(ctx context.Context) (jetstream.KeyValueEntry, error) { return q.control.Get(ctx, configKey) })
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrBucketNotFound) {
		return fmt.Errorf("fleet %q: %w", q.name, ErrNoFleet)
	}
	if err != nil {
		return err
	}
	var cfg config
	if err := json.Unmarshal(e.Value(), &cfg); err != nil || cfg.V != 1 || cfg.Lease < time.Second/10 || !fleet.ValidName(cfg.Incarnation) {
		return fmt.Errorf("fleet %q: it was created by another version of carload: %q", q.name, e.Value())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if cfg.Incarnation != q.cfg.Incarnation {
		clear(q.consumers)
	}
	q.cfg = cfg
	return nil
}

// Lease is the duration of this fleet's leases.
func (q *Queue) Lease() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.cfg.Lease
}

func (q *Queue) jobs() string { return q.name + "-jobs" }

func (q *Queue) subject(source, class, id string) string {
	return q.jobs() + "." + source + "." + class + "." + id
}

// row is a record as it is stored. Job is stored as it was put, so that a
// worker that does not know all of its fields keeps them.
type row struct {
	Job      json.RawMessage `json:"job"`
	State    fleet.State     `json:"state"`
	Host     string          `json:"host,omitempty"`
	Attempt  int             `json:"attempt,omitempty"`
	Epoch    int             `json:"epoch,omitempty"` // incremented by every lease; never decreases
	Progress fleet.Progress  `json:"progress,omitzero"`
	Receipt  *fleet.Receipt  `json:"receipt,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Since    time.Time       `json:"since"`
}

func (r *row) job() (fleet.Job, error) { return fleet.ParseJob(r.Job) }

func parse(p []byte) (r row, err error) {
	if err = json.Unmarshal(p, &r); err != nil {
		err = fmt.Errorf("a record of the queue: %w", err)
	}
	return r, err
}

// Put implements [fleet.Queue].
func (q *Queue) Put(ctx context.Context, job fleet.Job) (bool, error) {
	if err := job.Validate(); err != nil {
		return false, err
	}
	p, err := json.Marshal(job)
	if err != nil {
		return false, err
	}
	if len(p) > fleet.MaxJobBytes {
		return false, fmt.Errorf("%w: %d bytes: must be at most %d", fleet.ErrInvalid, len(p), fleet.MaxJobBytes)
	}
	v, err := json.Marshal(row{Job: p, State: fleet.Queued, Since: time.Now().UTC()})
	if err != nil {
		return false, err
	}
	id := string(job.ID())
	added := true
	rev, err := retry(ctx, func(ctx context.Context) (uint64, error) { return q.index.Create(ctx, id, v) })
	if errors.Is(err, jetstream.ErrKeyExists) {
		added = false
		var e jetstream.KeyValueEntry
		if e, err = q.get(ctx, id); err != nil {
			return false, err
		}
		r, err := parse(e.Value())
		if err != nil || r.State != fleet.Queued {
			return false, err
		}
		rev = e.Revision() // whoever made it may not have published the message
	} else if err != nil {
		return false, fmt.Errorf("put job %s: %w", id, err)
	}
	return added, q.publish(ctx, job, id, rev)
}

// publish adds the message of a job, unless it is there.
func (q *Queue) publish(ctx context.Context, job fleet.Job, id string, rev uint64) error {
	_, err := retry(ctx, func(ctx context.Context) (*jetstream.PubAck, error) {
		return q.js.Publish(ctx, q.subject(job.Source, fleet.Class(job.To), id), nil, jetstream.WithMsgID(fmt.Sprintf("%s.%d", id, rev)), jetstream.WithRetryAttempts(0))
	})
	if err != nil && !isThere(err) {
		return fmt.Errorf("publish job %s: %w", id, err)
	}
	return nil
}

// isThere reports that a subject already has a message. There is no error code
// for this.
func isThere(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && strings.Contains(api.Description, "maximum messages per subject")
}

func (q *Queue) get(ctx context.Context, id string) (jetstream.KeyValueEntry, error) {
	e, err := retry(ctx, func(ctx context.Context) (jetstream.KeyValueEntry, error) { return q.index.Get(ctx, id) })
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fleet.ErrNotFound
	}
	return e, err
}

// consumer returns the consumer for a source and a class.
func (q *Queue) consumer(ctx context.Context, source, class string) (jetstream.Consumer, error) {
	q.mu.Lock()
	key := source + "-" + class
	c, cfg := q.consumers[key], q.cfg
	q.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := retry(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return q.js.CreateOrUpdateConsumer(ctx, q.jobs(), jetstream.ConsumerConfig{
			Durable: "work-" + cfg.Incarnation + "-" + key, FilterSubject: q.subject(source, class, "*"), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: cfg.Lease, MaxAckPending: maxAckPending, MaxDeliver: -1, MaxWaiting: 1 << 14,
		})
	})
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.cfg.Incarnation == cfg.Incarnation {
		q.consumers[key] = c
	}
	return c, nil
}

// Claim implements [fleet.Queue].
func (q *Queue) Claim(ctx context.Context, w fleet.Worker) (fleet.Lease, error) {
	type place struct{ source, class string }
	var places []place
	for _, s := range w.Sources {
		for _, c := range fleet.Classes(w.To) {
			places = append(places, place{s, c})
		}
	}
	if len(places) == 0 {
		return nil, errors.New("a worker without sources has nothing to do")
	}
	for turn := 0; ; turn++ {
		// Ask each place for what it has. If none has anything, wait at one
		// after the other.
		for i, p := range places {
			wait := time.Duration(0)
			if len(places) == 1 {
				wait = fetchFor
			} else if i == turn%len(places) {
				wait = fetchFor / 10
			}
			msg, err := q.next(ctx, p.source, p.class, wait)
			if err != nil {
				return nil, err
			}
			if msg == nil {
				continue
			}
			l, err := q.lease(ctx, w, msg)
			if err != nil {
				// The message is redelivered: at once to another host, or after
				// its wait.
				return nil, errors.Join(err, msg.NakWithDelay(time.Second))
			}
			if l != nil {
				return l, nil
			}
		}
	}
}

// next receives a message, or returns nil if there is none for a while.
func (q *Queue) next(ctx context.Context, source, class string, wait time.Duration) (jetstream.Msg, error) {
	c, err := q.consumer(ctx, source, class)
	if err != nil {
		return nil, err
	}
	var batch jetstream.MessageBatch
	if wait == 0 {
		batch, err = c.FetchNoWait(1)
	} else {
		step, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		batch, err = c.Fetch(1, jetstream.FetchContext(step))
	}
	if err == nil {
		for msg := range batch.Messages() {
			return msg, nil
		}
		err = batch.Error()
	}
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, jetstream.ErrInvalidOption): // the deadline has just passed
		return nil, context.DeadlineExceeded
	case err == nil, errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.Is(err, jetstream.ErrNoMessages):
		return nil, nil
	}
	// The consumer may be gone, with its servers or with the whole queue.
	q.mu.Lock()
	delete(q.consumers, source+"-"+class)
	q.mu.Unlock()
	if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, nats.ErrNoResponders) {
		if errCfg := q.configure(ctx); errCfg != nil {
			return nil, errors.Join(err, errCfg)
		}
		return nil, nil
	}
	return nil, err
}

// lease makes a lease from a message. It returns nil if there is nothing to do,
// or if others should do it.
func (q *Queue) lease(ctx context.Context, w fleet.Worker, msg jetstream.Msg) (fleet.Lease, error) {
	id := msg.Subject()[strings.LastIndexByte(msg.Subject(), '.')+1:]
	e, err := q.get(ctx, id)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, msg.TermWithReason("there is no record of the job")
	}
	if err != nil {
		return nil, err
	}
	r, err := parse(e.Value())
	if err != nil {
		return nil, errors.Join(err, msg.TermWithReason("the record of the job can't be read"))
	}
	if r.State == fleet.Done || r.State == fleet.Failed {
		return nil, msg.DoubleAck(ctx) // it was recorded, but the acknowledgement was lost
	}
	meta, err := msg.Metadata()
	if err != nil {
		return nil, err
	}
	l := &lease{q: q, msg: msg, id: id, row: r, rev: e.Revision(), progress: r.Progress}
	var bad string
	if l.job, err = r.job(); err != nil {
		bad = err.Error()
	} else if l.job.V > fleet.Version {
		return nil, msg.NakWithDelay(q.Lease()) // for a worker of that version
	}
	if r.Attempt >= fleet.MostAttempts {
		bad = fmt.Sprintf("tried %d times: %s", r.Attempt, r.Reason)
	}
	if bad != "" {
		return nil, l.end(ctx, fleet.Failed, nil, bad)
	}
	// The host that failed leaves the job to others, if there are any, a few
	// times. left is how often the message was delivered without an attempt.
	left := int64(meta.NumDelivered) - int64(r.Attempt) - 1 //nolint:gosec // small numbers
	if r.State == fleet.Queued && r.Reason != "" && r.Host == w.Host && left%4 != 3 && q.others(ctx, w.Host) {
		return nil, msg.NakWithDelay(2 * time.Second)
	}
	l.row.State, l.row.Host, l.row.Attempt = fleet.Running, w.Host, r.Attempt+1
	l.row.Epoch++
	if err := l.save(ctx); err != nil {
		if errors.Is(err, fleet.ErrLeaseLost) {
			return nil, msg.NakWithDelay(time.Second)
		}
		return nil, err
	}
	l.claimed = l.row.Attempt
	return l, nil
}

// others reports whether other hosts are present. It asks only now and then.
func (q *Queue) others(ctx context.Context, host string) bool {
	q.mu.Lock()
	now := time.Now()
	alone, company := now.Before(q.alone), now.Before(q.company)
	q.mu.Unlock()
	if alone || company {
		return company
	}
	hosts, err := q.Hosts(ctx)
	there := err == nil && slices.ContainsFunc(hosts, func(h fleet.Host) bool { return h.Name != host && !h.Draining })
	q.mu.Lock()
	defer q.mu.Unlock()
	if there {
		q.company = now.Add(fleet.AnnounceEvery)
	} else {
		q.alone = now.Add(fleet.AnnounceEvery)
	}
	return there
}

type lease struct {
	q        *Queue
	msg      jetstream.Msg
	id       string
	job      fleet.Job
	row      row
	rev      uint64
	progress fleet.Progress
	claimed  int // number of the attempt
	over     bool
}

// ID implements [fleet.Lease].
func (l *lease) ID() fleet.ID { return fleet.ID(l.id) }

// Job implements [fleet.Lease].
func (l *lease) Job() fleet.Job { return l.job }

// Attempt implements [fleet.Lease].
func (l *lease) Attempt() int { return l.claimed }

// Progress implements [fleet.Lease].
func (l *lease) Progress() fleet.Progress { return l.progress }

// save writes the record if it is still the one that this lease knows; this is
// the fence. If an answer was lost, the record shows whether the write
// succeeded.
func (l *lease) save(ctx context.Context) error {
	if l.over {
		return fmt.Errorf("%w: it has ended", fleet.ErrLeaseLost)
	}
	l.row.Since = time.Now().UTC()
	p, err := json.Marshal(l.row)
	if err != nil {
		return err
	}
	rev, err := retry(ctx, func(ctx context.Context) (uint64, error) { return l.q.index.Update(ctx, l.id, p, l.rev) })
	if err == nil {
		l.rev = rev
		return nil
	}
	if !mismatch(err) {
		return err
	}
	e, errGet := l.q.get(ctx, l.id)
	if errors.Is(errGet, fleet.ErrNotFound) {
		return fmt.Errorf("%w: the queue no longer knows the job", fleet.ErrLeaseLost)
	}
	if errGet != nil {
		return errors.Join(err, errGet)
	}
	now, errParse := parse(e.Value())
	if errParse != nil {
		return errParse
	}
	if string(e.Value()) == string(p) { // it was written, but the answer was lost
		l.rev = e.Revision()
		return nil
	}
	if now.Epoch == l.row.Epoch && now.State == fleet.Running && l.claimed > 0 {
		// One of our own writes, whose answer was lost earlier.
		l.rev = e.Revision()
		return err // it is tried again
	}
	return fmt.Errorf("%w: %s has it, in attempt %d", fleet.ErrLeaseLost, now.Host, now.Attempt)
}

func mismatch(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Renew implements [fleet.Lease].
func (l *lease) Renew(ctx context.Context, p fleet.Progress) error {
	l.row.Progress = p
	if err := l.save(ctx); err != nil {
		return err
	}
	return l.msg.InProgress()
}

// Complete implements [fleet.Lease].
func (l *lease) Complete(ctx context.Context, r fleet.Receipt) error {
	state, reason := fleet.Done, ""
	for _, f := range r.Files {
		if f.Error != "" {
			state, reason = fleet.Failed, f.Error
			break
		}
	}
	return l.end(ctx, state, &r, reason)
}

// Reject implements [fleet.Lease].
func (l *lease) Reject(ctx context.Context, cause error) error {
	return l.end(ctx, fleet.Failed, nil, cause.Error())
}

// end records how the job ended, and then removes its message. If the message
// stays, that is not an error: it is dropped when it is received.
func (l *lease) end(ctx context.Context, state fleet.State, r *fleet.Receipt, reason string) error {
	was := l.row
	l.row.State, l.row.Receipt, l.row.Reason, l.row.Progress = state, r, reason, fleet.Progress{}
	if err := l.save(ctx); err != nil {
		l.row = was // for the next attempt
		return err
	}
	l.over = true
	_ = l.msg.DoubleAck(ctx)
	return nil
}

// Retry implements [fleet.Lease].
func (l *lease) Retry(ctx context.Context, after time.Duration, cause error) error {
	was := l.row
	l.row.State, l.row.Reason = fleet.Queued, ""
	if cause != nil {
		l.row.Reason = cause.Error()
	} else {
		l.row.Attempt--
	}
	if err := l.save(ctx); err != nil {
		l.row = was // for the next attempt
		return err
	}
	l.over = true
	// If this is lost, the job comes back when the lease ends.
	_ = l.msg.NakWithDelay(max(after, time.Millisecond))
	return nil
}

// Records implements [fleet.Index].
func (q *Queue) Records(ctx context.Context) iter.Seq2[fleet.Record, error] {
	return func(yield func(fleet.Record, error) bool) {
		w, err := q.index.WatchAll(ctx, jetstream.IgnoreDeletes())
		if err != nil {
			yield(fleet.Record{}, fmt.Errorf("read the index: %w", err))
			return
		}
		defer w.Stop() //nolint:errcheck // nothing was promised
		for {
			var e jetstream.KeyValueEntry
			var open bool
			select {
			case e, open = <-w.Updates():
			case <-ctx.Done():
				yield(fleet.Record{}, context.Cause(ctx))
				return
			}
			if !open {
				yield(fleet.Record{}, errors.New("read the index: the connection ended"))
				return
			}
			if e == nil { // everything that was there
				return
			}
			rec, err := recordOf(e)
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

func recordOf(e jetstream.KeyValueEntry) (fleet.Record, error) {
	r, err := parse(e.Value())
	if err != nil {
		return fleet.Record{}, err
	}
	j, err := r.job()
	if err != nil {
		return fleet.Record{}, err
	}
	return fleet.Record{ID: fleet.ID(e.Key()), Job: j, State: r.State, Host: r.Host, Attempt: r.Attempt, Progress: r.Progress, Receipt: r.Receipt, Reason: r.Reason, Since: r.Since}, nil
}

// change changes a record if it is in state from, and otherwise returns false.
func (q *Queue) change(ctx context.Context, id fleet.ID, from fleet.State, f func(*row)) (rev uint64, job fleet.Job, ok bool, err error) {
	for {
		e, err := q.get(ctx, string(id))
		if err != nil {
			return 0, job, false, err
		}
		r, err := parse(e.Value())
		if err != nil || r.State != from {
			return 0, job, false, err
		}
		if job, err = r.job(); err != nil {
			return 0, job, false, err
		}
		f(&r)
		r.Since = time.Now().UTC()
		p, err := json.Marshal(r)
		if err != nil {
			return 0, job, false, err
		}
		rev, err := q.index.Update(ctx, string(id), p, e.Revision())
		if mismatch(err) {
			continue // somebody else was faster
		}
		return rev, job, err == nil, err
	}
}

// Requeue implements [fleet.Index].
func (q *Queue) Requeue(ctx context.Context, id fleet.ID) (bool, error) {
	rev, job, ok, err := q.change(ctx, id, fleet.Failed, func(r *row) { r.State, r.Reason, r.Attempt, r.Receipt = fleet.Queued, "", 0, nil })
	if !ok || err != nil {
		return false, err
	}
	return true, q.publish(ctx, job, string(id), rev)
}

// Settle implements [fleet.Index].
func (q *Queue) Settle(ctx context.Context, id fleet.ID, r fleet.Receipt) (bool, error) {
	_, _, ok, err := q.change(ctx, id, fleet.Queued, func(was *row) { was.State, was.Receipt, was.Host, was.Reason = fleet.Done, &r, r.Host, "" })
	return ok, err
}

// Announce implements [fleet.Roster].
func (q *Queue) Announce(ctx context.Context, h fleet.Host) error {
	p, err := json.Marshal(h)
	if err == nil {
		_, err = q.hosts.Put(ctx, hostKey(h), p)
	}
	return err
}

// hostKey is the key of a host, by which the hosts of a group can be counted.
func hostKey(h fleet.Host) string { return "group-" + h.Group + "." + h.Name }

// Leave implements [fleet.Roster].
func (q *Queue) Leave(ctx context.Context, h fleet.Host) error { return q.hosts.Purge(ctx, hostKey(h)) }

// Count implements [fleet.Roster]. A host that has left counts until its
// presence would have ended.
func (q *Queue) Count(ctx context.Context, group string) (int, error) {
	s, err := q.js.Stream(ctx, "KV_"+q.name+"-hosts")
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("$KV."+q.name+"-hosts.group-"+group+".*"))
	if err != nil {
		return 0, err
	}
	return len(info.State.Subjects), nil
}

// Hosts implements [fleet.Roster].
func (q *Queue) Hosts(ctx context.Context) (list []fleet.Host, err error) {
	w, err := q.hosts.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer w.Stop() //nolint:errcheck // nothing was promised
	for {
		select {
		case e, open := <-w.Updates():
			if !open || e == nil {
				slices.SortFunc(list, func(a, b fleet.Host) int { return strings.Compare(a.Name, b.Name) })
				return list, nil
			}
			var h fleet.Host
			if err := json.Unmarshal(e.Value(), &h); err == nil && fleet.ValidName(h.Name) {
				list = append(list, h)
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Drain implements [fleet.Roster].
func (q *Queue) Drain(ctx context.Context, name string, on bool) (err error) {
	if !fleet.ValidName(name) {
		return fmt.Errorf("invalid name of a host: %q", name)
	}
	if on {
		_, err = q.control.Put(ctx, drainKey+name, []byte("1"))
	} else if _, err = q.control.Get(ctx, drainKey+name); err == nil {
		err = q.control.Purge(ctx, drainKey+name)
	}
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	return err
}

// Draining implements [fleet.Roster].
func (q *Queue) Draining(ctx context.Context, name string) (bool, error) {
	_, err := q.control.Get(ctx, drainKey+name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Waiting returns the number of jobs that are pending or in progress.
func (q *Queue) Waiting(ctx context.Context) (uint64, error) {
	s, err := retry(ctx, func(ctx context.Context) (jetstream.Stream, error) { return q.js.Stream(ctx, q.jobs()) })
	if err != nil {
		return 0, err
	}
	return s.CachedInfo().State.Msgs, nil
}

// Info returns the state of the streams behind the queue.
func (q *Queue) Info(ctx context.Context) (list []*jetstream.StreamInfo, err error) {
	for _, name := range []string{q.jobs(), "KV_" + q.name + "-index", "KV_" + q.name + "-hosts", "KV_" + q.name + "-control"} {
		s, err := retry(ctx, func(ctx context.Context) (jetstream.Stream, error) { return q.js.Stream(ctx, name) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, s.CachedInfo())
	}
	return list, nil
}

// Account returns the server's usage of storage.
func (q *Queue) Account(ctx context.Context) (*jetstream.AccountInfo, error) {
	return retry(ctx, q.js.AccountInfo)
}

const embeddedKey = "embedded"

// MarkEmbedded records that the servers are those of package embedded.
func (q *Queue) MarkEmbedded(ctx context.Context) error {
	_, err := q.control.Put(ctx, embeddedKey, []byte("1"))
	return err
}

// Embedded reports whether MarkEmbedded was called for the fleet.
func (q *Queue) Embedded(ctx context.Context) bool {
	_, err := q.control.Get(ctx, embeddedKey)
	return err == nil
}

// Wipe removes the fleet's state from the server, as if all servers were lost.
func (q *Queue) Wipe(ctx context.Context) error {
	err := q.js.DeleteStream(ctx, q.jobs())
	for _, b := range []string{"-index", "-hosts", "-control"} {
		err = errors.Join(err, q.js.DeleteKeyValue(ctx, q.name+b))
	}
	return err
}
