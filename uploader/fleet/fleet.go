// Package fleet lets many hosts share the work of one list: put jobs into a
// [Queue], and workers anywhere take them.
//
// Shards are content-addressed, and a target takes the same one twice without
// harm. So a job may be worked on twice, but it is recorded once: who works on
// it has a [Lease] that it renews while bytes move, and a lease that was lost
// can't record anything. What a worker that died has sent is not sent again: the
// next one asks the target.
//
// Package natsqueue is the queue on NATS JetStream, [Memory] the one for tests
// and simulations. What every queue must do is in package fleettest. [Work] is
// the worker.
package fleet

import (
	"context"
	"errors"
	"iter"
	"strings"
	"time"
)

// Errors that callers branch on.
var (
	// ErrLeaseLost means that somebody else has the job, or may have it. Whoever
	// gets it stops working on the job and records nothing.
	ErrLeaseLost = errors.New("the lease of the job was lost")
	// ErrNotFound means that the queue knows no such job.
	ErrNotFound = errors.New("the queue knows no such job")
)

// Queue hands out jobs. It is safe for concurrent use.
type Queue interface {
	// Put adds a job and reports true, unless the queue has it: that a job is
	// there, under way, done or failed is no error, and nothing changes. When it
	// returns the job is as durable as the queue is.
	Put(ctx context.Context, job Job) (added bool, err error)
	// Claim waits for a job that the worker can do, and leases it.
	Claim(ctx context.Context, w Worker) (Lease, error)
}

// Lease is the right to work on a job, for as long as it is renewed. One of
// Complete, Retry and Reject ends it. Each of its methods fails with an error
// matching [ErrLeaseLost] if another worker may have the job, and then nothing
// was recorded. It is not for concurrent use.
type Lease interface {
	ID() ID
	Job() Job
	// Attempt counts the leases that the job has had, from 1.
	Attempt() int
	// Progress is what the attempts before have recorded.
	Progress() Progress
	// Renew keeps the lease for another while, and records the progress.
	Renew(ctx context.Context, p Progress) error
	// Complete records what became of the job. If files of it failed it counts
	// as failed.
	Complete(ctx context.Context, r Receipt) error
	// Retry gives the job back. It is handed out again after some time, to
	// another host if there is one. A job that has been tried too often is put
	// aside instead. Giving a job back without a cause does not count as a try.
	Retry(ctx context.Context, after time.Duration, cause error) error
	// Reject puts the job aside: trying again would not help.
	Reject(ctx context.Context, cause error) error
}

// Index tells what became of jobs.
type Index interface {
	// Records yields all jobs, in no order. What changes meanwhile may be
	// yielded as it was or as it is. An error is the last thing it yields.
	Records(ctx context.Context) iter.Seq2[Record, error]
	// Requeue hands a job out again that has failed. For one that has not,
	// nothing changes, and it reports false.
	Requeue(ctx context.Context, id ID) (bool, error)
	// Settle records a job as done that is known to be, without a lease. For one
	// that is leased or has ended nothing changes, and it reports false.
	Settle(ctx context.Context, id ID, r Receipt) (bool, error)
}

// Roster is where hosts tell that they are there.
type Roster interface {
	// Announce tells that a host is there, for a while: call it again before
	// [Presence] is over.
	Announce(ctx context.Context, h Host) error
	// Leave takes a host off at once.
	Leave(ctx context.Context, h Host) error
	// Count counts the hosts of a group. It may count some that have just left.
	// All hosts ask it all the time: it costs much less than Hosts.
	Count(ctx context.Context, group string) (int, error)
	// Hosts lists those that are there.
	Hosts(ctx context.Context) ([]Host, error)
	// Drain asks a host to stop, and Draining tells whether it was asked. A host
	// that starts clears it.
	Drain(ctx context.Context, name string, on bool) error
	Draining(ctx context.Context, name string) (bool, error)
}

// How often a host announces itself, and for how long that counts.
const (
	AnnounceEvery = 5 * time.Second
	Presence      = 15 * time.Second
)

// Worker is who claims: jobs are for hosts that can read their source and know
// their targets.
type Worker struct {
	Host    string
	Sources []string // names of source roots that it has
	To      []string // names of targets that it may send to
}

// Host is a host that is there.
type Host struct {
	Name     string    `json:"name"`
	Group    string    `json:"group"` // hosts of a group share the rate of one token
	Version  string    `json:"version"`
	Slots    int       `json:"slots"`
	Running  int       `json:"running"`
	Done     int64     `json:"done"`   // jobs, since it started
	Failed   int64     `json:"failed"` // jobs
	Bytes    int64     `json:"bytes"`  // sent, since it started
	Draining bool      `json:"draining"`
	Started  time.Time `json:"started"`
	Clock    time.Time `json:"clock"` // of the host, when it announced itself
}

// State is where a job is in its life.
type State string

// The states of a job.
const (
	Queued  State = "queued"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed" // it is put aside, and Requeue hands it out again
)

// Record is what a queue knows of a job.
type Record struct {
	ID       ID        `json:"id"`
	Job      Job       `json:"job"`
	State    State     `json:"state"`
	Host     string    `json:"host,omitempty"`    // that has it, or had it last
	Attempt  int       `json:"attempt,omitempty"` // leases so far
	Progress Progress  `json:"progress,omitzero"`
	Receipt  *Receipt  `json:"receipt,omitempty"`
	Reason   string    `json:"reason,omitempty"` // why it failed, or failed last
	Since    time.Time `json:"since"`            // when it was last changed
}

// Progress is how far a job is. It is small, whatever the job is: what has been
// sent of a file is a bit a shard.
type Progress struct {
	Moved  int64  `json:"moved,omitempty"`  // bytes that were hashed and sent; a lease is renewed while it grows
	Sent   int64  `json:"sent,omitempty"`   // bytes of shards
	Files  int    `json:"files,omitempty"`  // that are done
	File   int    `json:"file,omitempty"`   // that is under way, by its place in the job
	Root   string `json:"root,omitempty"`   // of that file
	Shards int    `json:"shards,omitempty"` // of that file
	Held   Bitmap `json:"held,omitempty"`   // shards of that file that the target has
}

// Bitmap is a set of small numbers.
type Bitmap []byte

// Set adds n, which is less than size.
func (b *Bitmap) Set(n, size int) {
	if n < 0 || n >= size {
		return
	}
	if need := (size + 7) / 8; len(*b) < need {
		*b = append(*b, make([]byte, need-len(*b))...)
	}
	(*b)[n/8] |= 1 << (n % 8)
}

// Has tells whether n is in it.
func (b Bitmap) Has(n int) bool { return n >= 0 && n/8 < len(b) && b[n/8]&(1<<(n%8)) != 0 }

// Count counts the numbers in it.
func (b Bitmap) Count() (n int) {
	for i := range len(b) * 8 {
		if b.Has(i) {
			n++
		}
	}
	return n
}

// Receipt is what became of the files of a job.
type Receipt struct {
	Host  string        `json:"host"`
	At    time.Time     `json:"at"`
	Sent  int64         `json:"sent"` // bytes of shards that were sent for it
	Files []FileReceipt `json:"files"`
}

// FileReceipt is what became of a file at a target.
type FileReceipt struct {
	File     int    `json:"file"` // by its place in the job
	Target   string `json:"target,omitempty"`
	Bytes    int64  `json:"bytes"`
	Root     string `json:"root,omitempty"`
	Verified string `json:"verified,omitempty"` // how
	Shards   int    `json:"shards,omitempty"`
	Error    string `json:"error,omitempty"`
}

// failure is why a receipt counts as failed; empty if it does not.
func (r Receipt) failure() string {
	for _, f := range r.Files {
		if f.Error != "" {
			return f.Error
		}
	}
	return ""
}

// MostAttempts is how often a job is tried before it is put aside.
const MostAttempts = 50

func byName(a, b Host) int { return strings.Compare(a.Name, b.Name) }
