// Package fleet lets many hosts share the work on one list of files. Put [Job]s
// into a [Queue], and workers on any host take them.
//
// Shards are content-addressed, and a target may receive the same shard twice
// without harm. So a job may be worked on twice, but is recorded only once: a
// worker has a [Lease] on its job, which it renews while bytes move, and cannot
// record anything once it has lost the lease. If a worker dies, the next one
// asks the target what has arrived and sends only the rest.
//
// Package natsqueue is a queue on NATS JetStream; [Memory] is one for tests and
// simulations. Package fleettest tests what every queue must do. [Work] is the
// worker.
package fleet

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"
)

// Errors that callers distinguish.
var (
	// ErrLeaseLost means that somebody else has the job, or may have it.
	// Whoever gets this error stops working on the job and records nothing.
	ErrLeaseLost = errors.New("the lease of the job was lost")
	// ErrNotFound means that the queue has no such job.
	ErrNotFound = errors.New("the queue knows no such job")
)

// Queue hands out jobs. It is safe for concurrent use.
type Queue interface {
	// Put adds a job and returns true. If the queue already has the job, in any
	// state, it changes nothing and returns false. When Put returns, the job is
	// as durable as the queue.
	Put(ctx context.Context, job Job) (added bool, err error)
	// Claim waits for a job that the worker can do, and leases it.
	Claim(ctx context.Context, w Worker) (Lease, error)
}

// Lease is the right to work on a job, for as long as it is renewed. One of
// Complete, Retry and Reject ends it. If another worker may have the job, all
// of its methods that return an error fail with one that matches
// [ErrLeaseLost], and record nothing. A Lease is not safe for concurrent use.
type Lease interface {
	ID() ID
	Job() Job
	// Attempt is the number of leases that the job has had, including this one.
	Attempt() int
	// Progress is what earlier attempts have recorded.
	Progress() Progress
	// Renew extends the lease and records the progress.
	Renew(ctx context.Context, p Progress) error
	// Complete records the outcome of the job. If any of its files failed, the
	// job counts as failed.
	Complete(ctx context.Context, r Receipt) error
	// Retry gives the job back. It is handed out again after this time, to
	// another host if there is one. If it has been tried too often, it fails
	// instead. A job that is given back without a cause does not count as
	// tried.
	Retry(ctx context.Context, after time.Duration, cause error) error
	// Reject makes the job fail, because trying again would not help.
	Reject(ctx context.Context, cause error) error
}

// Index reports the outcomes of jobs.
type Index interface {
	// Records yields all jobs, in any order. For jobs that change meanwhile it
	// yields the old or the new record. If it yields an error, that is the last
	// thing.
	Records(ctx context.Context) iter.Seq2[Record, error]
	// Requeue hands out a failed job again. If the job has not failed, it
	// changes nothing and returns false.
	Requeue(ctx context.Context, id ID) (bool, error)
	// Settle records a queued job as done, without a lease. If the job is
	// leased or has ended, it changes nothing and returns false.
	Settle(ctx context.Context, id ID, r Receipt) (bool, error)
}

// Roster keeps track of the hosts that are present.
type Roster interface {
	// Announce reports that a host is present. This lasts for [Presence], so it
	// has to be called repeatedly.
	Announce(ctx context.Context, h Host) error
	// Leave removes a host at once.
	Leave(ctx context.Context, h Host) error
	// Count counts the hosts of a group. It may count some that have just left.
	// All hosts call it frequently, so it costs much less than Hosts.
	Count(ctx context.Context, group string) (int, error)
	// Hosts lists the hosts that are present.
	Hosts(ctx context.Context) ([]Host, error)
	// Drain asks a host to stop (or no longer to stop), and Draining reports
	// whether it was asked. A host clears this when it starts.
	Drain(ctx context.Context, name string, on bool) error
	Draining(ctx context.Context, name string) (bool, error)
}

// How often a host announces itself, and how long an announcement counts.
const (
	AnnounceEvery = 5 * time.Second
	Presence      = 15 * time.Second
)

// Worker says which jobs a host can do: those whose source it can read and
// whose targets it knows.
type Worker struct {
	Host    string
	Sources []string // names of the source roots that it has
	To      []string // names of the targets that it may send to
}

// Host describes a host that is present.
type Host struct {
	Name     string    `json:"name"`
	Group    string    `json:"group"` // the hosts of a group share the rate limit of one token
	Version  string    `json:"version"`
	Slots    int       `json:"slots"`
	Running  int       `json:"running"`
	Done     int64     `json:"done"`   // number of jobs since it started
	Failed   int64     `json:"failed"` // number of jobs since it started
	Bytes    int64     `json:"bytes"`  // bytes sent since it started
	Draining bool      `json:"draining"`
	Started  time.Time `json:"started"`
	Clock    time.Time `json:"clock"` // time on the host when it announced itself
}

// State is the state of a job.
type State string

// The states of a job.
const (
	Queued  State = "queued"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed" // until Requeue hands it out again
)

// Record is what a queue knows of a job.
type Record struct {
	ID       ID        `json:"id"`
	Job      Job       `json:"job"`
	State    State     `json:"state"`
	Host     string    `json:"host,omitempty"`    // the host that has the job, or had it last
	Attempt  int       `json:"attempt,omitempty"` // number of leases so far
	Progress Progress  `json:"progress,omitzero"`
	Receipt  *Receipt  `json:"receipt,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it failed, or last failed
	Since    time.Time `json:"since"`            // time of the last change
}

// Progress is the progress of a job. It is always small: for each shard of the
// current file it takes one bit.
type Progress struct {
	Moved  int64  `json:"moved,omitempty"`  // bytes hashed and sent; leases are renewed while this grows
	Sent   int64  `json:"sent,omitempty"`   // bytes of shards sent
	Files  int    `json:"files,omitempty"`  // number of files done
	File   int    `json:"file,omitempty"`   // index of the current file in the job
	Root   string `json:"root,omitempty"`   // root of the current file
	Shards int    `json:"shards,omitempty"` // number of shards of the current file
	Held   Bitmap `json:"held,omitempty"`   // shards of the current file that the target has
}

// Bitmap is a set of small numbers.
type Bitmap []byte

// Set adds n, which must be less than size.
func (b *Bitmap) Set(n, size int) {
	if n < 0 || n >= size {
		return
	}
	if need := (size + 7) / 8; len(*b) < need {
		*b = append(*b, make([]byte, need-len(*b))...)
	}
	(*b)[n/8] |= 1 << (n % 8)
}

// Has reports whether n is in the set.
func (b Bitmap) Has(n int) bool { return n >= 0 && n/8 < len(b) && b[n/8]&(1<<(n%8)) != 0 }

// Count returns how many numbers are in the set.
func (b Bitmap) Count() (n int) {
	for i := range len(b) * 8 {
		if b.Has(i) {
			n++
		}
	}
	return n
}

// Receipt is the outcome of the files of a job.
type Receipt struct {
	Host  string        `json:"host"`
	At    time.Time     `json:"at"`
	Sent  int64         `json:"sent"` // bytes of shards sent for the job
	Files []FileReceipt `json:"files"`
}

// FileReceipt is the outcome of a file at a target.
type FileReceipt struct {
	File     int    `json:"file"` // index in the job
	Target   string `json:"target,omitempty"`
	Bytes    int64  `json:"bytes"`
	Root     string `json:"root,omitempty"`
	Verified string `json:"verified,omitempty"` // verification level
	Shards   int    `json:"shards,omitempty"`
	Error    string `json:"error,omitempty"`
}

// failure returns why a receipt counts as failed, or "" if it does not.
func (r Receipt) failure() string {
	for _, f := range r.Files {
		if f.Error != "" {
			return f.Error
		}
	}
	return ""
}

// MostAttempts is how often a job is tried before it fails.
const MostAttempts = 50

func byName(a, b Host) int { return strings.Compare(a.Name, b.Name) }
