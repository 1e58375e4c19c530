// Package doctor tests what a target does. It makes a few small uploads, checks
// which promises hold, and deletes the uploads if the target can.
//
// It is for targets that nobody has tested with carload. Package targettest
// runs the same checks on every target of this module.
package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

// Options configure [Examine].
type Options struct {
	Target uploader.Target
	// Stranger is the same target with a wrong secret; nil if there is no
	// secret.
	Stranger uploader.Target
	// Dir is where the uploads are spooled.
	Dir string
	// LargestBody is the size in bytes up to which increasingly large shards
	// are tried; 0 means none.
	LargestBody int64
	// VerifyTimeout is how long the target may take to report an upload as
	// complete; 0 means a minute.
	VerifyTimeout time.Duration
	Logger        *slog.Logger // nil means none
}

// Verdict is the outcome of a check.
type Verdict int

// The verdicts.
const (
	Works Verdict = iota
	Lacks         // the target does not support it
	Fails
)

// String returns "works", "lacks" or "fails".
func (v Verdict) String() string { return [...]string{"works", "lacks", "fails"}[v] }

// Finding is the result of a check.
type Finding struct {
	Check   string
	Promise string // the promise of carload that depends on it; may be empty
	Verdict Verdict
	Detail  string
	Err     error // why it fails, or what it lacks
}

// lack is something that a target does not support.
type lack struct{ what string }

func (l lack) Error() string { return l.what }

type check struct {
	name, promise string
	run           func(ctx context.Context, x *exam) (detail string, err error)
}

// checks are ordered: later ones use the uploads of earlier ones.
var checks = []check{
	{"authorization", "a wrong secret is refused, and not tried again", authorization},
	{"receipts", "verified means verified: each shard has a receipt from the far side", receipts},
	{"fetching", "verification by sample and in full", fetching},
	{"status", "an incomplete upload does not count as done", status},
	{"resuming", "what has arrived is not sent again", resuming},
	{"listing", "carload list", listing},
	{"limits", "what a target does not accept is refused before a byte is sent", limits},
	{"clock", "", clock},
	{"latency", "", latency},
	{"throughput", "", throughput},
	{"deleting", "carload rm", deleting},
}

// exam is a running examination.
type exam struct {
	opts    Options
	samples []*sample
	whole   *sample // uploaded as a whole
	part    *sample // only its first shard was uploaded
	ledger  *uploader.MemoryLedger
}

// Examine runs all checks and yields their findings. The uploads are deleted at
// the end, or when the caller stops.
func Examine(ctx context.Context, opts Options) iter.Seq[Finding] {
	if opts.VerifyTimeout == 0 {
		opts.VerifyTimeout = time.Minute
	}
	return func(yield func(Finding) bool) {
		x := &exam{opts: opts, ledger: new(uploader.MemoryLedger)}
		defer x.close(context.WithoutCancel(ctx))
		for _, c := range checks {
			if ctx.Err() != nil {
				return
			}
			f := Finding{Check: c.name, Promise: c.promise}
			f.Detail, f.Err = c.run(ctx, x)
			switch {
			case errors.As(f.Err, new(lack)):
				f.Verdict = Lacks
			case f.Err != nil:
				f.Verdict = Fails
			}
			if !yield(f) {
				return
			}
		}
	}
}

// close deletes what is left of the uploads.
func (x *exam) close(ctx context.Context) {
	d, _ := x.opts.Target.(uploader.Deleter)
	for _, s := range x.samples {
		if d != nil && s.there {
			_ = d.Delete(ctx, s.root) // the check has reported if it can't
		}
		_ = s.input.Close()
	}
}

// sample is an upload of random bytes.
type sample struct {
	name  string
	input uploader.Input
	plan  *splitter.Plan
	root  cid.Cid
	there bool // some of it is at the target
}

// leafBytes is small, so that little data makes many blocks.
const leafBytes = 64 << 10

// Sizes that make several shards.
const (
	sampleBytes = 700_000
	sampleShard = 250_000
)

// sample makes an upload of n bytes in shards of at most this size.
func (x *exam) sample(ctx context.Context, n, shard int64) (*sample, error) {
	profile := chunker.UnixFSv1()
	profile.ChunkBytes = leafBytes
	if t, ok := x.opts.Target.(uploader.Limited); ok && t.Limits().OneShard {
		shard = t.Limits().ShardBytes
	}
	s := &sample{name: "carload-test-" + rand.Text()[:8]}
	s.input = uploader.Stream(s.name, io.LimitReader(rand.Reader, n), uploader.StreamOptions{Dir: x.opts.Dir, Chunker: chunker.Options{Profile: profile}})
	dag, err := s.input.Describe(ctx, new(atomic.Int64))
	if err != nil {
		return nil, errors.Join(err, s.input.Close())
	}
	x.samples = append(x.samples, s)
	s.root = dag.Root()
	s.plan, err = splitter.Split(dag, splitter.Options{MaxShardBytes: shard})
	return s, err
}

// uploader makes an uploader with the common options.
func (x *exam) uploader(target uploader.Target, opts uploader.Options) (*uploader.Uploader, error) {
	opts.VerifyTimeout, opts.Logger = x.opts.VerifyTimeout, x.opts.Logger
	if opts.Ledger == nil {
		opts.Ledger = x.ledger
	}
	if opts.Retries == 0 {
		opts.Retries = 2
	}
	return uploader.New(target, opts)
}

// send sends a sample.
func (x *exam) send(ctx context.Context, s *sample, target uploader.Target, opts uploader.Options) (uploader.Result, error) {
	opts.MaxShardBytes, opts.UploadName = s.plan.MaxShardBytes, s.name
	u, err := x.uploader(target, opts)
	if err != nil {
		return uploader.Result{}, err
	}
	s.there = true
	return u.Send(ctx, s.name, s.plan)
}

// unknown returns a root that nobody has.
func unknown() cid.Cid {
	mh, err := multihash.Sum([]byte(rand.Text()), multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // SHA-256 is always there
	}
	return cid.NewCidV1(cid.DagProtobuf, mh)
}

// orNothing returns err, or an error that says that there was none.
func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
